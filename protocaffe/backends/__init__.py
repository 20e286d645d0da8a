"""Devices. Only this folder may import a device's own bindings.

``Backend`` and ``MATHS`` of base.py, which needs NumPy, are loaded when they are first used: a GPU is opened meanwhile.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

from ..errors import BackendError, ParameterError
from . import head_start

if TYPE_CHECKING:
    from .base import MATHS as MATHS
    from .base import Backend as Backend

#: set_mode_cpu() was called: the CPU is what the user wants, whatever a solver file says
cpu_chosen = False
#: set_mode_gpu() was called: what is made without a backend computes on the GPU
gpu_chosen = False
#: the GPU that set_device() chose
gpu = 0
#: what a GPU does unless a solver file, set_math() or --math says otherwise
DEFAULT_MATH = "tf32"
#: what set_math() or --math chose; it comes before what a solver file says
math: str | None = None
_made: list[Backend] = []


def __getattr__(name: str) -> Any:
    if name in ("MATHS", "Backend"):
        from . import base

        return getattr(base, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def get_backend(name: str = "cpu", real: Any = "float32") -> Backend:
    """The backend of this name, "cpu", "cuda" (the GPU that set_device chose, at first 0) or "cuda:1".

    Each is made once. Raises BackendError for a device that this installation or machine does not have.
    """
    kind, _, number = name.partition(":")
    if kind == "cuda" and (name == "cuda" or head_start.gpu_number(number) >= 0):
        return _make(kind, real, int(number or gpu))
    if name != "cpu":
        raise BackendError(f'no backend "{name}": there are "cpu", "cuda" and "cuda:<number>"')
    return _make(name, real, 0)


@cache
def _make(kind: str, real: Any, device: int) -> Backend:
    if kind == "cpu":
        from .cpu import CpuBackend

        return CpuBackend(real)
    head_start.begin(device)
    from .cuda import CudaBackend

    backend = CudaBackend(real, device)
    if len(backend.maths) > 1:
        backend.math = math or DEFAULT_MATH
    _made.append(backend)
    return backend


def set_math(mode: str) -> None:
    """Multiply floats on the GPU in "fp32", exactly, or in "tf32", on tensor cores with factors rounded to 10 bits.

    It is for this process, for nets that are there too, and comes before a solver file's ``math``; the CPU computes in
    fp32 in any case. Raises ParameterError for another mode.
    """
    from .base import MATHS

    global math
    if mode not in MATHS:
        raise ParameterError(f'set_math: the mode must be "fp32" or "tf32", got {mode!r}')
    math = mode
    for backend in _made:
        if mode in backend.maths:
            backend.math = mode


def prefer_math(backend: Backend, mode: str) -> None:
    """Have ``backend`` multiply as a solver file says, unless set_math() or --math chose, or it knows one way only."""
    if math is None and mode in backend.maths:
        backend.math = mode


def default_backend() -> Backend:
    """The backend of what is made without one: the CPU, unless set_mode_gpu() was called."""
    return get_backend("cuda" if gpu_chosen else "cpu")


def describe_gpus(number: int | None = None) -> list[dict[str, Any]]:
    """Names and sizes of GPU ``number``, or of all. Raises BackendError where there is none."""
    from .cuda_device import describe

    return describe(number)
