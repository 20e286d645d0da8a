"""The waist between layers and devices: the verbs a backend offers, and the larger operations built on them once."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import BackendError
from ..fusion import Pattern
from ..memory import Loans, Memory, Storage
from ..patterns import PORTABLE
from .copies import Copies

if TYPE_CHECKING:
    from ..interop import View

Bound = Callable[[], Any]
#: ways to multiply floats: as they are, or on a GPU's tensor cores with factors rounded to 10 bits
MATHS = ("fp32", "tf32")


class HostCall:
    """Python code as a call of a plan on a device with memory of its own."""

    def __init__(self, backend: Backend, function: Bound) -> None:
        self.backend = backend
        self.function = function

    def __call__(self) -> None:
        """Run it: it sees what earlier calls did, later calls see what it wrote."""
        self.backend.epoch += 1
        self.function()
        self.backend.flush()


class Backend(Copies, ABC):
    """A device. ``bind_*`` check the arguments once and return a call without arguments that a plan replays."""

    name: str
    #: host and device share memory
    unified: bool
    #: arithmetic and storage type of blobs
    real: np.dtype
    #: chains of layers that it can fuse, longest first
    patterns: Sequence[type[Pattern]] = PORTABLE
    #: type and number of the device as DLPack counts them
    dlpack_device: tuple[int, int] = (1, 0)
    #: what `math` may be
    maths: Sequence[str] = ("fp32",)

    def __init__(self) -> None:
        #: counts runs of kernels: what Python read before a run is stale after it (see memory.Storage)
        self.epoch = 0
        #: counts runs of plans that were cut short, by an error or an interrupt: not all that was made ready came
        self.broken = 0
        #: counts changes of shapes and places of blobs, on which recorded plans depend
        self.layouts = 0
        #: storages that Python may have written to since the last run
        self.dirty: set[Storage] = set()
        #: arrays of other tools on memory of this device
        self.loans = Loans()
        #: grows when plans that were recorded before no longer hold: another way to compute was chosen
        self.generation = 0
        self._math = "fp32"

    @property
    def math(self) -> str:
        """How floats are multiplied, one of `maths`; plans that were recorded with another are recorded anew."""
        return self._math

    @math.setter
    def math(self, mode: str) -> None:
        if mode not in self.maths:
            wanted = " or ".join(f'"{m}"' for m in self.maths)
            raise BackendError(f'the maths of {self.name} in {self.real} must be {wanted}, got "{mode}"')
        if mode != self._math:
            self._math = mode
            self._set_math(mode)
            self.generation += 1

    def _set_math(self, mode: str) -> None:
        """Make libraries use ``mode``."""

    @property
    def choices(self) -> dict[str, str]:
        """What was measured and chosen for recorded plans: a run that is to repeat to the bit must `adopt` it."""
        return {}

    def adopt(self, choices: Mapping[str, str]) -> None:
        """Prefer ``choices``, of this backend's kind, to measuring."""

    def empty(self, shape: Sequence[int], dtype: Any = None) -> Memory:
        """Zeroed memory; the type is the backend's ``real`` unless given."""
        shape = tuple(int(d) for d in shape)
        return Memory(Storage(self, max(1, int(np.prod(shape, dtype=np.int64))), dtype or self.real), shape)

    def from_array(self, values: np.ndarray, dtype: Any = None) -> Memory:
        """Memory with the values of ``values``."""
        memory = self.empty(values.shape, dtype or values.dtype)
        memory.array[...] = values
        return memory

    def run(self, kernel: str, n: int, *args: Any) -> None:
        """Launch a kernel at once, outside of any plan."""
        self.replay((self.bind_launch(kernel, n, args),))

    def replay(self, calls: Sequence[Bound]) -> None:
        """Run bound calls in order, after what Python wrote has reached the device."""
        self.flush()
        try:
            for call in calls:
                call()
        finally:  # some may have run
            self.epoch += 1
        if self.loans:
            self.let_others_wait()

    def flush(self) -> None:
        """Bring to the device what Python may have written, after what other tools do there."""
        if self.loans.may_have_written():
            self.wait_for_others()
        for storage in self.dirty:
            storage.push()
        self.dirty.clear()

    def bind_host(self, function: Bound) -> Bound:
        """Python code as a call of a plan: it sees what earlier calls did, later calls see what it wrote."""
        return function if self.unified else HostCall(self, function)

    def sequence(self, calls: Sequence[Bound]) -> Sequence[Bound]:
        """Calls that will be replayed often, as this device replays them best; ``calls`` have all buffers bound."""
        return calls

    def convolution(self, ops: Any, shape: Any) -> GenericConvolution:
        """The convolution to use where `bind_conv` has none."""
        return GenericConvolution(ops, shape)

    def better(
        self, name: str, shape: Any, steps: Sequence[str], ways: Mapping[str, Callable[..., None]],
        results: Sequence[Memory | None],
    ) -> str:  # fmt: skip
        """Of two ways to record a convolution's ``steps`` the better one: "together" or "apart" (plan.Recorder)."""
        return "together"

    @abstractmethod
    def allocate(self, size: int, dtype: np.dtype) -> tuple[Any, np.ndarray | None]:
        """Zeroed device memory: (handle, host array or None)."""

    @abstractmethod
    def upload(self, storage: Storage) -> None:
        """Copy the host's values to the device."""

    @abstractmethod
    def download(self, storage: Storage) -> np.ndarray:
        """A host array with the device's values."""

    @abstractmethod
    def synchronize(self) -> None:
        """Wait until the device has done all it was given."""

    # What other tools need, where a device has memory of its own (interop.py)
    def wait_for_others(self) -> None:
        """Let what this device is given from now on wait for what other tools have given it so far."""

    def let_others_wait(self) -> None:
        """Let what other tools give the device from now on wait for what was given so far."""

    def device_array(self, view: View) -> Any:
        """An array of the device's own Python package on lent memory, which holds ``view``."""
        raise BackendError(f"gpu_data, gpu_diff and gpu_mask are for nets on a GPU, this one is on the {self.name}")

    def cuda_array_interface(self, view: View) -> dict[str, Any]:
        """The CUDA array interface, version 3. Raises AttributeError where the memory is not CUDA's."""
        raise AttributeError(f"no __cuda_array_interface__: the memory is on the {self.name}")

    def dlpack(self, view: View, stream: int | None) -> Any:
        """A DLPack capsule that holds ``view``; what is done on ``stream`` waits for what was given so far."""
        raise BackendError(f"no DLPack for the memory of {self.name}")

    @abstractmethod
    def bind_launch(
        self, kernel: str, n: int, args: Sequence[Any], work: int | None = None, rows: bool = False
    ) -> Bound:
        """A kernel over ``n`` elements (``rows``: a block per row); ``work`` is the number of elements if not ``n``
        (``rows``: if not those of the largest array).

        Raises KernelError if the arguments do not fit the kernel's signature.
        """

    @abstractmethod
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
        """C = alpha op(A) op(B) + beta C, row-major, C of m x n; in a batch matrices lie ``strides`` elements apart."""

    def bind_conv(self, step: str, shape: Any, args: Sequence[Memory | None], relu: bool = False) -> Bound | None:
        """An own convolution step ("forward", "backward_data", "backward_weights"), or None for im2col and GEMM."""
        return None


class GenericConvolution:
    """Convolution on im2col and GEMM: the default for every backend, and the reference for a backend's own.

    ``ops`` is the recorder (plan.Recorder), ``shape`` a layers.convolution.ConvShape.
    """

    #: whether `forward` takes ``relu=True``
    fuses_relu = False
    #: whether steps cost less together: `forward` takes ``pooled``, `backward` shares work between its steps
    together = False

    def __init__(self, ops: Any, shape: Any) -> None:
        self.ops = ops
        self.s = shape

    def _columns(self) -> Memory | None:
        return None if self.s.is_pointwise else self.ops.scratch((self.s.kernel_dim * self.s.group * self.s.pixels,))

    def _im2col(self, image: Memory, columns: Memory | None) -> Memory:
        if columns is None:
            return image
        if self.s.window2d is not None:
            self.ops.launch("im2col", 1, self.s.window2d, image, columns, work=columns.count)
        else:
            self.ops.launch("im2col_nd", columns.count, self.s.window_nd, image, columns)
        return columns

    def forward(self, x: Memory, w: Memory, bias: Memory | None, y: Memory) -> None:
        """y[n] = W columns(x[n]) + b."""
        s, ops = self.s, self.ops
        columns = self._columns()
        for n in range(s.images):
            cols = self._im2col(x.at(n * s.in_count, s.in_count), columns)
            ops.gemm_batched(
                s.group, False, False, s.out_group, s.pixels, s.kernel_dim, 1.0,
                w, s.kernel_dim, cols, s.pixels, 0.0, y.at(n * s.out_count, s.out_count), s.pixels,
                strides=(s.out_group * s.kernel_dim, s.kernel_dim * s.pixels, s.out_group * s.pixels),
            )  # fmt: skip
        if bias is not None:
            ops.launch_rows("bias_add", s.images * s.num_output, s.pixels, s.num_output, bias, y)

    def backward_data(self, dy: Memory, w: Memory, dx: Memory) -> None:
        """dx[n] = col2im(W' dy[n])."""
        s, ops = self.s, self.ops
        columns = self._columns()
        for n in range(s.images):
            image = dx.at(n * s.in_count, s.in_count)
            cols = image if columns is None else columns
            ops.gemm_batched(
                s.group, True, False, s.kernel_dim, s.pixels, s.out_group, 1.0,
                w, s.kernel_dim, dy.at(n * s.out_count, s.out_count), s.pixels, 0.0, cols, s.pixels,
                strides=(s.out_group * s.kernel_dim, s.out_group * s.pixels, s.kernel_dim * s.pixels),
            )  # fmt: skip
            if columns is None:
                continue
            if s.window2d is not None:
                ops.launch("col2im", 1, s.window2d, columns, image, work=s.in_count)
            else:
                ops.launch("col2im_nd", s.in_count, s.window_nd, columns, image)

    def backward_weights(self, x: Memory, dy: Memory, dw: Memory, db: Memory | None) -> None:
        """dW += sum over n of dy[n] columns(x[n])'; db += sum of dy."""
        s, ops = self.s, self.ops
        columns = self._columns()
        for n in range(s.images):
            cols = self._im2col(x.at(n * s.in_count, s.in_count), columns)
            ops.gemm_batched(
                s.group, False, True, s.out_group, s.kernel_dim, s.pixels, 1.0,
                dy.at(n * s.out_count, s.out_count), s.pixels, cols, s.pixels, 1.0, dw, s.kernel_dim,
                strides=(s.out_group * s.pixels, s.kernel_dim * s.pixels, s.out_group * s.kernel_dim),
            )  # fmt: skip
        if db is not None:
            ops.bias_gradient(s.images, s.num_output, s.pixels, dy, db)

    def backward(
        self, x: Any, dy: Memory, w: Any, dw: Memory | None, db: Memory | None, dx: Memory | None,
        fill: Callable[[int, int, Memory | None], None] | None = None,
    ) -> None:  # fmt: skip
        """The wanted ones of the gradients; ``fill(first, count, outer)`` records what writes dy of so many images.

        Where ``outer`` is there, it gets dy as [F, N, P] as well.
        """
        if fill is not None:
            fill(0, self.s.images, None)
        if dw is not None:
            self.backward_weights(x, dy, dw, db)
        if dx is not None:
            self.backward_data(dy, w, dx)
