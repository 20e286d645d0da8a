"""Devices. Only this folder may import a device's own bindings."""

from __future__ import annotations

from functools import cache
from typing import Any

from ..errors import BackendError
from .base import Backend

#: set_mode_cpu() was called: the CPU is what the user wants, whatever a solver file says
cpu_chosen = False
#: set_mode_gpu() was called: what is made without a backend computes on the GPU
gpu_chosen = False
#: the GPU that set_device() chose
gpu = 0


def get_backend(name: str = "cpu", real: Any = "float32") -> Backend:
    """The backend of this name, "cpu", "cuda" (the GPU that set_device chose, at first 0) or "cuda:1".

    Each is made once. Raises BackendError for a device that this installation or machine does not have.
    """
    kind, _, number = name.partition(":")
    if kind == "cuda" and (number.isdigit() or name == "cuda"):
        return _make(kind, real, int(number or gpu))
    if name != "cpu":
        raise BackendError(f'no backend "{name}": there are "cpu", "cuda" and "cuda:<number>"')
    return _make(name, real, 0)


@cache
def _make(kind: str, real: Any, device: int) -> Backend:
    if kind == "cpu":
        from .cpu import CpuBackend

        return CpuBackend(real)
    from .cuda import CudaBackend

    return CudaBackend(real, device)


def default_backend() -> Backend:
    """The backend of what is made without one: the CPU, unless set_mode_gpu() was called."""
    return get_backend("cuda" if gpu_chosen else "cpu")


def describe_gpus(number: int | None = None) -> list[dict[str, Any]]:
    """Names and sizes of GPU ``number``, or of all. Raises BackendError where there is none."""
    from .cuda_device import describe

    return describe(number)
