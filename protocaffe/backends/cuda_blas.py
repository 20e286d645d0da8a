"""Matrix products by cuBLAS, which thinks in columns: a row-major C = A B is its C' = B' A'.

For products of some size cuBLASLt's algorithms are tried against cuBLAS's own choice when a shape is first met, and the
fastest is kept (engine_choices.py): its number among those that cuBLASLt names, and beside it the algorithm itself,
which spares later processes the search.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from typing import Any

import numpy as np

from ..errors import BackendError
from ..memory import Memory
from .cuda_blaslt import Matrix, Product
from .cuda_timing import fastest
from .engine_choices import Choices, algorithm_key, tuning
from .nvmath_bindings import nvmath_binding

CUBLAS = "CUBLAS"
_WORKSPACE = 32 << 20  # what cuBLAS asks for on sm_90
#: multiplications from which on algorithms are tried
_WORTH_TRYING = 1 << 16
#: bytes of which every piece that the driver gives is a multiple
_ALIGNED = 256
#: cublasMath_t
_MATH = {"fp32": 0, "tf32": 3}


@cache
def libraries() -> tuple[Any, Any]:
    """cuBLAS and cuBLASLt. Raises BackendError, which names the package, where they are missing."""
    try:
        return nvmath_binding("cublas"), nvmath_binding("cublasLt")
    except ImportError as error:
        raise BackendError(
            f'matrix products on the GPU need nvmath-python ({error}): pip install "protocaffe[cuda]"'
        ) from error


def load() -> None:
    """Load the libraries' files now, which the first handle would do: they are large. May raise what loading raises."""
    cublas, cublas_lt = libraries()
    cublas.get_property(0)
    cublas_lt.get_version()


class Blas:
    """A cuBLAS handle on the device's stream, with a workspace of its own (captured graphs must not allocate)."""

    def __init__(self, device: Any, real: np.dtype, choices: Choices) -> None:
        cublas, cublas_lt = libraries()
        self._cublas, self._lt = cublas, cublas_lt
        self._device, self._real, self._choices = device, real, choices
        letter = "s" if real == np.float32 else "d"
        self._gemm = getattr(cublas, f"{letter}gemm")
        self._batched = getattr(cublas, f"{letter}gemm_strided_batched")
        self._handle = cublas.create()
        self._workspace = device.allocate(_WORKSPACE)
        cublas.set_stream(self._handle, device.stream.handle)  # it resets the workspace, so it comes first
        cublas.set_workspace(self._handle, self._workspace.address, _WORKSPACE)
        self._lt_handle = cublas_lt.create()
        self.set_math("fp32")

    def set_math(self, mode: str) -> None:
        """ "fp32", or "tf32": float products on tensor cores, with factors rounded to 10 bits."""
        self.math = mode
        self._cublas.set_math_mode(self._handle, _MATH[mode])

    @property
    def version(self) -> int:
        """cuBLAS's version."""
        return int(self._cublas.get_version(self._handle))

    def bind(
        self, trans_a: bool, trans_b: bool, m: int, n: int, k: int, alpha: float, a: Memory, lda: int,
        b: Memory, ldb: int, beta: float, c: Memory, ldc: int, batch: int, strides: tuple[int, int, int],
    ) -> Any:  # fmt: skip
        """A call without arguments, or None where there is nothing to compute."""
        if not (m and n and batch):
            return None
        lda, ldb, ldc = max(1, lda), max(1, ldb), max(1, ldc)
        scalars = np.array([alpha, beta], self._real)
        places = (address(b), address(a), address(c))
        call = self._chosen(scalars, (trans_b, trans_a), (n, m, k), (ldb, lda, ldc), strides, batch, places)
        call.keep = (scalars, a, b, c)
        call.extents = (m, n, k, batch, strides)  # for who counts operations
        return call

    def _chosen(
        self, scalars: np.ndarray, trans: tuple[bool, bool], extents: tuple[int, int, int],
        leading: tuple[int, int, int], strides: tuple[int, int, int], batch: int, places: tuple[int, int, int],
    ) -> Any:  # fmt: skip
        """The call by the algorithm that is known, or found now, to be the fastest; all by columns."""
        m, n, k = extents
        plain = partial(self._cublas_call, scalars, trans, extents, leading, strides, batch)
        if self._real != np.float32 or batch * m * n * max(k, 1) < _WORTH_TRYING or not k:
            return plain(places)
        aligned = min(16, *(1 << 4 if not p else p & -p for p in places))
        by = "x".join(map(str, (*extents, *leading)))
        key = (
            f"{self._device.gpu.name()}, cuBLAS {self.version}, {self.math}: product {by} {'NT'[trans[0]]}"
            f"{'NT'[trans[1]]} times {batch} {strides if batch > 1 else ''} beta {scalars[1]:g} at {aligned} bytes"
        )
        choice = self._choices.find(key)
        if choice is None and not tuning():
            choice = CUBLAS
        if choice == CUBLAS:
            self._choices.use(key, choice)
            return plain(places)
        product = self._product(trans, extents, leading, strides, batch)
        number = _number(choice)
        kept = None if number < 0 else self._choices.find_algorithm(key, number)
        if kept is None or not product.take(number, kept):
            if not 0 <= number < product.count:
                number = self._fastest(key, plain, product, scalars, places, leading[2] * n + (batch - 1) * strides[2])
            if number >= 0 and tuning():
                self._choices.add(algorithm_key(key, number), product.algorithm(number))
        self._choices.use(key, f"LT {number}" if number >= 0 else CUBLAS)
        return plain(places) if number < 0 else product.call(number, *self._addresses(scalars), *places)

    def _addresses(self, scalars: np.ndarray) -> tuple[int, int]:
        return scalars.ctypes.data, scalars.ctypes.data + self._real.itemsize

    def _cublas_call(
        self, scalars: np.ndarray, trans: tuple[bool, bool], extents: tuple[int, int, int],
        leading: tuple[int, int, int], strides: tuple[int, int, int], batch: int, places: tuple[int, int, int],
    ) -> Any:  # fmt: skip
        (left, right, out), (ld_left, ld_right, ld_out) = places, leading
        at_alpha, at_beta = self._addresses(scalars)
        head = (self._handle, int(trans[0]), int(trans[1]), *extents, at_alpha)
        if batch == 1:
            return partial(self._gemm, *head, left, ld_left, right, ld_right, at_beta, out, ld_out)
        sa, sb, sc = strides
        rest = (left, ld_left, sb, right, ld_right, sa, at_beta, out, ld_out, sc, batch)
        return partial(self._batched, *head, *rest)

    def _product(
        self, trans: tuple[bool, bool], extents: tuple[int, int, int], leading: tuple[int, int, int],
        strides: tuple[int, int, int], batch: int,
    ) -> Product:  # fmt: skip
        m, n, k = extents
        sa, sb, sc = strides
        left = Matrix(*((k, m) if trans[0] else (m, k)), leading[0], sb)
        right = Matrix(*((n, k) if trans[1] else (k, n)), leading[1], sa)
        return Product(
            self._lt, self._lt_handle, self._real, self.math, trans, left, right, Matrix(m, n, leading[2], sc), batch,
            (self._workspace.address, _WORKSPACE), self._device.stream.handle,
        )  # fmt: skip

    def _fastest(
        self, key: str, plain: Callable[[Any], Any], product: Product, scalars: np.ndarray,
        places: tuple[int, int, int], size: int,
    ) -> int:  # fmt: skip
        """The number of the fastest algorithm, -1 for cuBLAS's own, by trials on results of their own."""
        astray = places[2] % _ALIGNED  # an algorithm may want vectors where the result does not lie so
        trial = self._device.allocate(size * self._real.itemsize + astray)
        where = (*places[:2], trial.address + astray)
        makers: dict[str, Callable[[], Any]] = {CUBLAS: lambda: plain(where)}
        for i in range(product.count):
            makers[f"LT {i}"] = partial(product.call, i, *self._addresses(scalars), *where)
        times = fastest(self._device, makers, errors=(self._lt.cuBLASLtError,))
        if not times:  # there is no room for a trial
            return -1
        best = min(times, key=lambda name: times[name])
        self._choices.add(key, best)
        return _number(best)


def _number(choice: str | None) -> int:
    """The n of "LT n", -1 for any other choice, and for more digits than cuBLASLt has algorithms for."""
    name, _, number = (choice or "").partition(" ")
    return int(number) if name == "LT" and number.isdecimal() and len(number) < 4 else -1


def address(memory: Memory) -> int:
    """Where a piece of memory begins on the device."""
    return int(memory.storage.device.address) + memory.offset * memory.dtype.itemsize
