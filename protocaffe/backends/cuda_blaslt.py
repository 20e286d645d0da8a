"""Matrix products by cuBLASLt: the algorithms that it offers for one product, to be tried against each other.

An algorithm is 64 bytes, which NVIDIA lets be stored for the same version of the library.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property, partial
from typing import Any, NamedTuple

import numpy as np

#: algorithms asked for
_MOST = 8
_REAL = {np.dtype(np.float32): 0, np.dtype(np.float64): 1}  # cudaDataType: CUDA_R_32F, CUDA_R_64F
#: cublasComputeType by arithmetic type and maths
_COMPUTE = {("float32", "fp32"): 68, ("float32", "tf32"): 77, ("float64", "fp32"): 70, ("float64", "tf32"): 70}
_OP = {False: 0, True: 1}
#: sums in place are left out: their order may change from run to run
_REDUCTIONS = 2 | 4


class Matrix(NamedTuple):
    """A matrix as cuBLAS sees it, by columns; in a batch they lie ``stride`` elements apart."""

    rows: int
    columns: int
    leading: int
    stride: int


class Product:
    """C = alpha op(A) op(B) + beta C, by columns: ``shape`` is C's, ``a`` and ``b`` are as they lie in memory."""

    def __init__(
        self, lt: Any, handle: int, real: np.dtype, math: str, transposed: tuple[bool, bool],
        a: Matrix, b: Matrix, c: Matrix, batch: int, workspace: tuple[int, int], stream: int,
    ) -> None:  # fmt: skip
        self._lt, self._handle, self._workspace, self._stream = lt, handle, workspace, stream
        self._made: list[tuple[Callable[[int], Any], int]] = []
        kind = _REAL[real]
        self._what = self._keep(lt.matmul_desc_destroy, lt.matmul_desc_create(_COMPUTE[real.name, math], kind))
        names = lt.MatmulDescAttribute
        for name, flag in zip((names.TRANSA, names.TRANSB), transposed, strict=True):
            self._set(lt.matmul_desc_set_attribute, self._what, name, np.int32(_OP[flag]))
        self._layouts = [self._layout(kind, matrix, batch) for matrix in (a, b, c)]
        self._results = np.zeros(_MOST, lt.matmul_heuristic_result_dtype)  # each begins with its algorithm

    def _keep(self, destroy: Callable[[int], Any], made: int) -> int:
        self._made.append((destroy, made))
        return made

    @staticmethod
    def _set(setter: Callable[..., Any], what: int, name: Any, value: Any) -> None:
        held = np.array([value])
        setter(what, name, held.ctypes.data, held.nbytes)

    def _layout(self, kind: int, matrix: Matrix, batch: int) -> int:
        lt = self._lt
        made = lt.matrix_layout_create(kind, matrix.rows, matrix.columns, matrix.leading)
        layout = self._keep(lt.matrix_layout_destroy, made)
        if batch > 1:
            names, setter = lt.MatrixLayoutAttribute, lt.matrix_layout_set_attribute
            self._set(setter, layout, names.BATCH_COUNT, np.int32(batch))
            self._set(setter, layout, names.STRIDED_BATCH_OFFSET, np.int64(matrix.stride))
        return layout

    @cached_property
    def count(self) -> int:
        """How many algorithms there are; they are searched for when this is first asked."""
        return self._find()

    def algorithm(self, number: int) -> str:
        """Algorithm ``number``, for `take`."""
        return self._results["algo"][number].tobytes().hex()

    def take(self, number: int, text: str) -> bool:
        """Let ``number`` be an algorithm that this version of cuBLASLt once named; whether it is fit here."""
        lt = self._lt
        result: Any = np.zeros(1, self._results.dtype)
        try:
            (self._results["algo"][number],) = np.frombuffer(bytes.fromhex(text), self._results.dtype["algo"])
            a, b, c = self._layouts
            place = self._results[number:].ctypes.data
            lt.matmul_algo_check(self._handle, self._what, a, b, c, c, place, result.ctypes.data)
        except (IndexError, ValueError, lt.cuBLASLtError):
            return False
        return int(result["workspace_size"][0]) <= self._workspace[1]

    def _find(self) -> int:
        """Ask for the algorithms; how many there are."""
        lt, found = self._lt, np.zeros(1, np.int32)
        wish = lt.matmul_preference_create()
        names, setter = lt.MatmulPreferenceAttribute, lt.matmul_preference_set_attribute
        try:
            self._set(setter, wish, names.MAX_WORKSPACE_BYTES, np.uint64(self._workspace[1]))
            self._set(setter, wish, names.REDUCTION_SCHEME_MASK, np.uint32(_REDUCTIONS))
            a, b, c = self._layouts
            results = self._results.ctypes.data
            lt.matmul_algo_get_heuristic(self._handle, self._what, a, b, c, c, wish, _MOST, results, found.ctypes.data)
        except lt.cuBLASLtError:
            return 0
        finally:
            lt.matmul_preference_destroy(wish)
        return int(found[0])

    def call(self, number: int, alpha: int, beta: int, a: int, b: int, c: int) -> Callable[[], Any]:
        """The product by algorithm ``number``; all others are addresses, of the scalars on the host."""
        algorithm = self._results.ctypes.data + number * self._results.itemsize
        left, right, out = self._layouts
        call = partial(
            self._lt.matmul, self._handle, self._what, alpha, a, left, b, right, beta, c, out, c, out, algorithm,
            *self._workspace, self._stream,
        )  # fmt: skip
        call.product = self  # type: ignore[attr-defined]
        return call

    def __del__(self) -> None:
        for destroy, made in getattr(self, "_made", ()):
            destroy(made)
