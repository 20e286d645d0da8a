"""Matrix products by cuBLAS, which thinks in columns: a row-major C = A B is its C' = B' A'."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

from ..errors import BackendError
from ..memory import Memory
from .nvmath_bindings import nvmath_binding

_WORKSPACE = 32 << 20  # what cuBLAS asks for on sm_90
#: cublasMath_t
_MATH = {"fp32": 0, "tf32": 3}


class Blas:
    """A cuBLAS handle on the device's stream, with a workspace of its own (captured graphs must not allocate)."""

    def __init__(self, device: Any, real: np.dtype) -> None:
        try:
            cublas: Any = nvmath_binding("cublas")
        except ImportError as error:
            raise BackendError(
                f'matrix products on the GPU need nvmath-python ({error}): pip install "protocaffe[cuda]"'
            ) from error
        self._cublas = cublas
        self._real = real
        letter = "s" if real == np.float32 else "d"
        self._gemm = getattr(cublas, f"{letter}gemm")
        self._batched = getattr(cublas, f"{letter}gemm_strided_batched")
        self._handle = cublas.create()
        self._workspace = device.allocate(_WORKSPACE)
        cublas.set_stream(self._handle, device.stream.handle)  # it resets the workspace, so it comes first
        cublas.set_workspace(self._handle, self._workspace.address, _WORKSPACE)
        self.math = "fp32"

    @property
    def math(self) -> str:
        """ "fp32", or "tf32": float products on tensor cores, with factors rounded to 10 bits."""
        return self._math

    @math.setter
    def math(self, mode: str) -> None:
        if mode not in _MATH:
            raise BackendError(f'the maths of the GPU must be "fp32" or "tf32", got "{mode}"')
        self._math = mode
        self._cublas.set_math_mode(self._handle, _MATH[mode])

    def bind(
        self, trans_a: bool, trans_b: bool, m: int, n: int, k: int, alpha: float, a: Memory, lda: int,
        b: Memory, ldb: int, beta: float, c: Memory, ldc: int, batch: int, strides: tuple[int, int, int],
    ) -> Any:  # fmt: skip
        """A call without arguments, or None where there is nothing to compute."""
        if not (m and n and batch):
            return None
        scalars = np.array([alpha, beta], self._real)
        at_alpha = scalars.ctypes.data
        at_beta = at_alpha + self._real.itemsize
        head = (self._handle, int(trans_b), int(trans_a), n, m, k, at_alpha)
        left, right, out = address(b), address(a), address(c)
        lda, ldb, ldc = max(1, lda), max(1, ldb), max(1, ldc)
        if batch == 1:
            call = partial(self._gemm, *head, left, ldb, right, lda, at_beta, out, ldc)
        else:
            sa, sb, sc = strides
            call = partial(self._batched, *head, left, ldb, sb, right, lda, sa, at_beta, out, ldc, sc, batch)
        call.keep = (scalars, a, b, c)  # type: ignore[attr-defined]
        return call


def address(memory: Memory) -> int:
    """Where a piece of memory begins on the device."""
    return int(memory.storage.device.address) + memory.offset * memory.dtype.itemsize
