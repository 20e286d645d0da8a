"""The CPU backend: the portable kernels and the GEMM/convolution core in one library, called through ctypes.

OpenMP owns every thread: kernels, GEMM and convolutions share its one pool, and no other library with threads of its
own is called in a step (two pools that spin against each other lose a factor of a hundred).
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import BackendError, KernelError
from ..memory import Memory, Storage
from ..resources import PACKAGE, in_checkout, resource_path
from . import build
from .arguments import Kernels
from .base import Backend, Bound

_CTYPES: dict[str, Any] = {"long": ctypes.c_long, "int": ctypes.c_int, "u32": ctypes.c_uint32, "u64": ctypes.c_uint64}
_CONV = ("n", "c", "h", "w", "f", "oh", "ow", "kh", "kw", "sh", "sw", "ph", "pw", "dh", "dw", "group")
_ALIGNMENT = 64
_SPIN_COUNT = 1000
#: larger strides, pads and dilations are left to im2col: the core copies padded planes, whose size they multiply
_CORE_REACH = 512
_MEMORY = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


class Conv2d(ctypes.Structure):
    """kernels/cpu: conv2d, all longs."""

    _fields_ = [(name, ctypes.c_long) for name in _CONV]


class CpuBackend(Backend):
    """The processor this runs on. ``real`` is float32, or float64 in the check build."""

    name = "cpu"
    unified = True

    def __init__(self, real: Any = np.float32) -> None:
        super().__init__()
        self.real = np.dtype(real)
        if self.real not in (np.float32, np.float64):
            raise BackendError(f"the CPU computes in float32 or float64, got {self.real}")
        self.variant = f"f32-{build.best_isa()}" if self.real == np.float32 else "f64-base"
        folder = resource_path("kernels")
        try:
            path = build.library(self.variant, folder if in_checkout() else None, PACKAGE / "_build")
            self._library = _load(path)
        except (build.BuildError, OSError) as error:
            raise KernelError(f"the CPU kernels ({self.variant}) cannot be loaded: {error}") from error
        # libgomp's threads do not survive a fork; a child that waits for them waits for ever: it gets a team of one.
        os.register_at_fork(after_in_child=partial(self._library.core_set_threads, 1))
        self._kernels = Kernels(folder, self.real)
        self._real = ctypes.c_float if self.real == np.float32 else ctypes.c_double
        self._functions: dict[str, Any] = {}
        self._structs: dict[str, Any] = {}

    # ------------------------------------------------------------------------------------------------------- memory
    def allocate(self, size: int, dtype: np.dtype) -> tuple[Any, np.ndarray]:
        """A zeroed array on a cache line's boundary; the handle is its address.

        Raises BackendError for more than the machine has: the system may promise it, and end the process at its use.
        """
        if size * dtype.itemsize > _MEMORY:
            raise BackendError(f"{size} values need {size * dtype.itemsize >> 20} MiB, the machine has {_MEMORY >> 20}")
        return self._zeros(size, dtype)

    def _zeros(self, size: int, dtype: np.dtype) -> tuple[Any, np.ndarray]:
        raw = np.zeros(size * dtype.itemsize + _ALIGNMENT, dtype=np.uint8)
        start = -raw.ctypes.data % _ALIGNMENT
        array = raw[start : start + size * dtype.itemsize].view(dtype)
        return array.ctypes.data, array

    def upload(self, storage: Storage) -> None:
        """Nothing to do: there is one copy."""

    def download(self, storage: Storage) -> np.ndarray:
        """The one copy."""
        return storage.host()

    def synchronize(self) -> None:
        """Nothing to wait for: calls return when they are done."""

    # ------------------------------------------------------------------------------------------------------ threads
    @property
    def threads(self) -> int:
        """Number of OpenMP threads."""
        return int(self._library.core_get_threads())

    @threads.setter
    def threads(self, count: int) -> None:
        self._library.core_set_threads(int(count))

    # ------------------------------------------------------------------------------------------------------ kernels
    def load_kernels(self, path: str | Path) -> None:
        """Add the kernels of a user's own .cu file, compiled on first use and cached."""
        path = Path(path)
        more = self._kernels.read(path)
        try:
            library = ctypes.CDLL(str(build.build_user(path, self._kernels.folder, self.variant)))
        except (build.BuildError, OSError) as error:
            raise KernelError(f"kernels of {path}: {error}") from error
        self._kernels.add(more)
        for name in more.kernels:
            self._functions[name] = getattr(library, name)

    def bind_launch(
        self, kernel: str, n: int, args: Sequence[Any], work: int | None = None, rows: bool = False
    ) -> Bound:
        """Check ``args`` against the signature and bind them."""
        signature = self._kernels.signature(kernel)
        values = self._kernels.check(signature, (n, *args))
        bound = [self._convert(p.type, v) for p, v in zip(signature.parameters, values, strict=True)]
        function = self._functions.get(kernel)
        if function is None:
            function = self._functions[kernel] = getattr(self._library, kernel)
        return _Call(function, bound, args)

    def _convert(self, kind: str, value: Any) -> Any:
        """A checked argument as ctypes takes it."""
        if value is None:
            return ctypes.c_void_p(None)
        if isinstance(value, Memory):
            return _pointer(value)
        if isinstance(value, float):
            return self._real(value)
        if isinstance(value, int):
            return _CTYPES[kind](value)
        cls: Any = self._structs.get(kind)
        if cls is None:
            members = [
                (f, ctypes.c_int * length if length else ctypes.c_int) for f, length in self._kernels.fields(kind)
            ]
            cls = self._structs[kind] = type(kind, (ctypes.Structure,), {"_fields_": members})
        return cls.from_buffer_copy(np.array(value, np.int32))

    # --------------------------------------------------------------------------------------------- GEMM, convolution
    def bind_gemm(
        self,
        trans_a: bool,
        trans_b: bool,
        m: int,
        n: int,
        k: int,
        alpha: float,
        a: Memory,
        lda: int,
        b: Memory,
        ldb: int,
        beta: float,
        c: Memory,
        ldc: int,
        batch: int = 1,
        strides: tuple[int, int, int] = (0, 0, 0),
    ) -> Bound:
        """The core's GEMM (kernels/cpu)."""
        long, real = ctypes.c_long, self._real
        args = [
            ctypes.c_int(trans_a), ctypes.c_int(trans_b), long(m), long(n), long(k), real(alpha), _pointer(a),
            long(lda), _pointer(b), long(ldb), real(beta), _pointer(c), long(ldc),
        ]  # fmt: skip
        if batch == 1:
            return _Call(self._library.core_gemm, args, (a, b, c))
        args = [long(batch), *args, *(long(s) for s in strides)]
        return _Call(self._library.core_gemm_batched, args, (a, b, c))

    def bind_conv(self, step: str, shape: Any, args: Sequence[Memory | None], relu: bool = False) -> Bound | None:
        """The core's convolutions for 1-D and 2-D windows."""
        fields = shape.conv2d
        if fields is None or any(fields[name] > _CORE_REACH for name in ("sh", "sw", "ph", "pw", "dh", "dw")):
            return None
        struct = Conv2d(*(int(fields[name]) for name in _CONV))
        pointers: list[Any] = [
            ctypes.byref(struct),
            *(ctypes.c_void_p(None) if a is None else _pointer(a) for a in args),
        ]
        if step == "forward":
            pointers.insert(4, ctypes.c_int(relu))
        return _Call(getattr(self._library, f"core_conv_{step}"), pointers, (struct, *args))


def _load(path: Path) -> ctypes.CDLL:
    """Load the library; its OpenMP threads shall wait for each other awake only briefly.

    libgomp's default is to spin for milliseconds, which on a machine that others use too takes the core that the
    awaited thread needs: a LeNet step went from 8 to 300 ms beside one busy process, and to 10 to 25 ms with this
    setting, which costs up to 10 % on an idle machine. libgomp reads the variable when it is loaded; OMP_WAIT_POLICY
    or GOMP_SPINCOUNT in the environment are left to have their way.
    """
    if {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY"} & set(os.environ):
        return ctypes.CDLL(str(path))
    os.environ["GOMP_SPINCOUNT"] = str(_SPIN_COUNT)
    try:
        return ctypes.CDLL(str(path))
    finally:
        del os.environ["GOMP_SPINCOUNT"]


def _pointer(memory: Memory) -> ctypes.c_void_p:
    return ctypes.c_void_p(memory.storage.device + memory.offset * memory.dtype.itemsize)


class _Call(partial):
    """A library call with its arguments, which keeps alive what the arguments point to."""

    keep: Any

    def __new__(cls, function: Any, arguments: list[Any], keep: Any) -> _Call:
        function.restype = None
        self = super().__new__(cls, function, *arguments)
        self.keep = keep
        return self
