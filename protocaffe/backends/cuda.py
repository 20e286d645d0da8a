"""The GPU backend: PyCUDA owns context, memory and the one stream; NVRTC compiles the kernels; cuBLAS multiplies."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import BackendError
from ..memory import Memory, Storage
from ..patterns import PORTABLE
from ..patterns_pooled import ConvolutionReLUPooling
from ..resources import resource_path
from . import cuda_blas, head_start
from .arguments import Kernels
from .base import MATHS, Bound, GenericConvolution
from .batched import batched_convolution
from .cuda_blas import Blas, address
from .cuda_copy import CudaCopies
from .cuda_device import open_device
from .cuda_dnn import Convolutions
from .cuda_graph import segments
from .cuda_interop import SharedGpu
from .cuda_kernels import Modules
from .engine_choices import Choices

_BLOCK = 256
_ROW_BLOCKS = (32, 64, 128, 256, 512, 1024)
#: elements of a row that a thread takes, if the row has as many for 32 threads
_PER_LANE = 4
#: blocks per multiprocessor at most: more elements than that are strides of the kernels' loops
_WAVES = 32
#: elements from which on a kernel is compiled for the shape of its images
_WORTH_A_SHAPE = 1 << 12
_NARROW = 1 << 30  # below it 32-bit indices cannot overflow, a grid's stride included


def nothing() -> None:
    """A call over no elements."""


class Launch:
    """A launch whose arguments get their places on the GPU when it first runs: many calls of a plan never do."""

    __slots__ = ("_bound", "_start", "keep")

    def __init__(self, start: Bound, values: Sequence[Any]) -> None:
        self._start: Any = start
        self._bound: Bound | None = None
        self.keep = tuple(values)

    def __call__(self) -> None:
        """Launch it."""
        if self._bound is None:
            self._bound = partial(self._start, *map(_pack, self.keep))
        self._bound()


class CudaBackend(CudaCopies, SharedGpu):
    """GPU ``device``. ``real`` is float32, or float64 in the check build."""

    name = "cuda"
    unified = False
    patterns = (ConvolutionReLUPooling, *PORTABLE)

    def __init__(self, real: Any = np.float32, device: int = 0) -> None:
        super().__init__()
        self.real = np.dtype(real)
        if self.real not in (np.float32, np.float64):
            raise BackendError(f"the GPU computes in float32 or float64, got {self.real}")
        if head_start.under_way():
            _load_meanwhile()
        self.device = open_device(device)
        folder = resource_path("kernels")
        self._kernels = Kernels(folder, self.real)
        self._modules = Modules(self.device, folder / "portable.h", self.real == np.float64)
        self._choices = Choices()
        self._blas = Blas(self.device, self.real, self._choices)
        self._convolutions = Convolutions(self, self._choices)
        self._users: dict[str, Path] = {}
        #: whether plans recorded from now on are captured into CUDA graphs
        self.graphs = True

    @property
    def maths(self) -> Sequence[str]:  # type: ignore[override]
        """ "fp32" and "tf32" for floats; doubles are multiplied as they are."""
        return MATHS if self.real == np.float32 else MATHS[:1]

    def _set_math(self, mode: str) -> None:
        self._blas.set_math(mode)

    @property
    def blas_version(self) -> int:
        """cuBLAS's version."""
        return self._blas.version

    # ------------------------------------------------------------------------------------------------------- memory
    def allocate(self, size: int, dtype: np.dtype) -> tuple[Any, None]:
        """Zeroed memory of the GPU, and no host copy yet."""
        return self.device.allocate(size * dtype.itemsize), None

    def upload(self, storage: Storage) -> None:
        """Host to GPU."""
        assert storage._host is not None
        self.device.upload(storage.device, storage._host)

    def download(self, storage: Storage) -> np.ndarray:
        """GPU to the host's array, of which Python may hold views."""
        values = np.empty(storage.size, storage.dtype) if storage._host is None else storage._host
        self.device.download(storage.device, values)
        return values

    def synchronize(self) -> None:
        """Wait until the GPU has done all it was given."""
        self.device.stream.synchronize()

    # ------------------------------------------------------------------------------------------------------ kernels
    def load_kernels(self, path: str | Path) -> None:
        """Add the kernels of a user's own .cu file, compiled when they are first used."""
        path = Path(path)
        more = self._kernels.read(path)
        self._kernels.add(more)
        self._users.update(dict.fromkeys(more.kernels, path))

    def bind_launch(
        self, kernel: str, n: int, args: Sequence[Any], work: int | None = None, rows: bool = False
    ) -> Bound:
        """Check ``args`` against the signature, have the kernel compiled if need be, and bind them."""
        signature = self._kernels.signature(kernel)
        values = self._kernels.check(signature, (n, *args))
        elements = n if work is None else work
        if not elements:
            return nothing
        largest = max((m.offset + m.count for m in values if isinstance(m, Memory)), default=0)
        path = self._users.get(kernel) or self._kernels.folder / signature.source
        structs = {p.type: v for p, v in zip(signature.parameters, values, strict=True) if type(v) is tuple}
        wide = max(largest, elements) >= _NARROW
        function = self._modules.function(path, signature, structs, wide, max(largest, elements) >= _WORTH_A_SHAPE)
        columns = (largest if work is None else work) // n
        block = _row_block(columns // _PER_LANE) if rows else _BLOCK
        blocks = n if rows else -(-elements // block)
        grid = (min(blocks, self.device.processors * _WAVES), 1)
        return Launch(partial(function.launch, grid, (block, 1, 1), self.device.stream), values)

    def sequence(self, calls: Sequence[Bound]) -> Sequence[Bound]:
        """The calls as CUDA graphs, cut where Python has its say."""
        calls = [call for call in calls if call is not nothing]
        return segments(self.device, calls) if self.graphs else calls

    # --------------------------------------------------------------------------------------------- convolution, GEMM
    def bind_conv(self, step: str, shape: Any, args: Sequence[Memory | None], relu: bool = False) -> Bound | None:
        """cuDNN's, where it is asked for or faster."""
        return self._convolutions.bind(step, shape, args, relu)

    def better(
        self, name: str, shape: Any, steps: Sequence[str], ways: Mapping[str, Callable[..., None]],
        results: Sequence[Memory | None],
    ) -> str:  # fmt: skip
        """Measured where cuDNN has a say."""
        return self._convolutions.better(name, shape, steps, ways, results)

    @property
    def choices(self) -> dict[str, str]:
        """The engines that plans were recorded with."""
        return dict(self._choices.used)

    def adopt(self, choices: Mapping[str, str]) -> None:
        """Use these engines; plans that were recorded with others no longer hold."""
        self.generation += self._choices.adopt(choices)

    def convolution(self, ops: Any, shape: Any) -> GenericConvolution:
        """All images at once: a call for each would leave the GPU idle."""
        return batched_convolution(ops, shape)

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
        """cuBLAS's GEMM."""
        call = self._blas.bind(trans_a, trans_b, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc, batch, strides)
        return nothing if call is None else call


def _load_meanwhile() -> None:
    """Load what comes next while the driver is being opened; what is wrong with it is told where it is used."""
    with suppress(Exception):
        cuda_blas.load()
        importlib.import_module("cuda.bindings.driver")  # cuda_graph.py's


def _row_block(lanes: int) -> int:
    """Threads for a row that about so many are of use to."""
    return next((block for block in _ROW_BLOCKS if block >= lanes), _ROW_BLOCKS[-1])


def _pack(value: Any) -> Any:
    """A checked argument as PyCUDA's prepared calls take it."""
    if value is None:
        return 0
    if isinstance(value, Memory):
        return address(value)
    return np.array(value, np.int32).tobytes() if isinstance(value, tuple) else value
