"""What a net does at one shape: layers record calls once, and running the net replays them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from math import prod
from typing import TYPE_CHECKING, Any

from .memory import Memory, Slot

if TYPE_CHECKING:
    from .backends.base import Backend, Bound
    from .blob import Blob

#: values of one channel that a chunk of `Recorder.bias_gradient` sums
_CHUNK = 1 << 12


@dataclass(frozen=True)
class Call:
    """One bound call of a plan. ``host``: Python code, which splits what a device can run in one go.

    ``ahead``: Python code that runs before the calls that are replayed together, and so splits nothing.
    """

    run: Bound
    name: str
    layer: str
    host: bool = False
    ahead: bool = False


class Recorder:
    """The verbs that layers see as ``self.ops``. Each appends a call to the layer's part of the plan.

    Buffers are bound by address, so a plan is good for one set of shapes; the net records anew when one changes.
    """

    def __init__(self, backend: Backend, layer: str, scratch: Slot) -> None:
        self.backend = backend
        self.layer = layer
        self.calls: list[Call] = []
        self._scratch = scratch

    def _add(self, run: Bound, name: str, host: bool = False) -> None:
        self.calls.append(Call(run, name, self.layer, host))

    def launch(self, kernel: str, n: int, *args: Any, work: int | None = None) -> None:
        """A kernel over ``n`` elements; ``work``: the number of elements where the first argument is another count."""
        self._add(self.backend.bind_launch(kernel, n, args, work), kernel)

    def launch_rows(self, kernel: str, rows: int, *args: Any, work: int | None = None) -> None:
        """A kernel over ``rows`` rows; ``work``: the elements of all rows, if not those of the largest array."""
        self._add(self.backend.bind_launch(kernel, rows, args, work, rows=True), kernel)

    def gemm(
        self, trans_a: bool, trans_b: bool, m: int, n: int, k: int, alpha: float,
        a: Memory, lda: int, b: Memory, ldb: int, beta: float, c: Memory, ldc: int,
    ) -> None:  # fmt: skip
        """C = alpha op(A) op(B) + beta C (row-major, C of m x n)."""
        self._add(self.backend.bind_gemm(trans_a, trans_b, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc), "gemm")

    def gemm_batched(
        self, batch: int, trans_a: bool, trans_b: bool, m: int, n: int, k: int, alpha: float,
        a: Memory, lda: int, b: Memory, ldb: int, beta: float, c: Memory, ldc: int, strides: tuple[int, int, int],
    ) -> None:  # fmt: skip
        """``batch`` products whose matrices lie ``strides`` elements apart."""
        bound = self.backend.bind_gemm(
            trans_a, trans_b, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc, batch, strides
        )  # fmt: skip
        self._add(bound, "gemm")

    def _conv(self, step: str, shape: Any, args: Sequence[Memory | None], relu: bool = False) -> None:
        bound = self.backend.bind_conv(step, shape, args, relu)
        if bound is not None:
            self._add(bound, f"conv_{step}" + "_relu" * relu)
        else:
            self.generic_conv(step, shape, args, relu)

    def generic_conv(self, step: str, shape: Any, args: Sequence[Memory | None], relu: bool = False) -> None:
        """A step of a convolution by im2col and GEMM: Caffe's engine."""
        convolution = self.backend.convolution(self, shape)
        if relu and convolution.fuses_relu:
            convolution.forward(*args, relu=True)  # type: ignore[arg-type,call-arg]
            return
        getattr(convolution, step)(*args)
        if relu:
            y = args[-1]
            assert y is not None
            self.launch("relu_forward", y.count, y, y, 0.0)

    def conv_forward(
        self, shape: Any, x: Memory, w: Memory, bias: Memory | None, y: Memory, relu: bool = False
    ) -> None:
        """y = W * x + b, with ``relu`` max(0, W * x + b)."""
        self._conv("forward", shape, (x, w, bias, y), relu)

    def conv_backward_data(self, shape: Any, dy: Memory, w: Memory, dx: Memory) -> None:
        """dx = gradient of the input, written over."""
        self._conv("backward_data", shape, (dy, w, dx))

    def conv_backward_weights(self, shape: Any, x: Memory, dy: Memory, dw: Memory, db: Memory | None) -> None:
        """dw += gradient of the weights, db += of the bias."""
        self._conv("backward_weights", shape, (x, dy, dw, db))

    def conv_forward_pooled(
        self, shape: Any, x: Memory, w: Memory, bias: Memory | None, y: Memory, pooled: Memory, index: Memory
    ) -> None:
        """y = max(0, W * x + b), and of each of the 2x2 windows that tile its planes the maximum and its place."""

        def together(ops: Recorder, y: Memory, pooled: Memory, index: Memory) -> None:
            convolution = ops.backend.convolution(ops, shape)
            convolution.forward(x, w, bias, y, pooled=(pooled, index))  # type: ignore[call-arg]

        def apart(ops: Recorder, y: Memory, pooled: Memory, index: Memory) -> None:
            ops.conv_forward(shape, x, w, bias, y, relu=True)
            planes, oh, ow = shape.images * shape.num_output, shape.out_dims[0] // 2, shape.out_dims[1] // 2
            ops.launch_rows("pooling_max2_forward", planes, oh, ow, y, pooled, index)

        ways = {"together": together, "apart": apart}
        self._better("forward, pooled", shape, ("forward",), ways, (y, pooled, index))

    def conv_backward(
        self, shape: Any, x: Memory, dy: Memory, w: Memory, dw: Memory | None, db: Memory | None, dx: Memory | None,
        fill: Callable[[Recorder, Memory, int, int, Memory | None], None] | None = None,
    ) -> None:  # fmt: skip
        """Of dw +=, db += and dx = those that are there.

        ``fill(ops, dy, first, count, outer)``, if given, records what writes dy for ``count`` images, and where
        ``outer`` is there, the same with channels outermost, [F, N, P], into that.
        """

        def together(ops: Recorder, dy: Memory, dw: Memory | None, db: Memory | None, dx: Memory | None) -> None:
            filled = None if fill is None else partial(fill, ops, dy)
            ops.backend.convolution(ops, shape).backward(x, dy, w, dw, db, dx, filled)

        def apart(ops: Recorder, dy: Memory, dw: Memory | None, db: Memory | None, dx: Memory | None) -> None:
            if fill is not None:
                fill(ops, dy, 0, shape.images, None)
            if dw is not None:
                ops.conv_backward_weights(shape, x, dy, dw, db)
            if dx is not None:
                ops.conv_backward_data(shape, dy, w, dx)

        steps = ("backward_weights",) * (dw is not None) + ("backward_data",) * (dx is not None)
        ways = {"together": together, "apart": apart}
        self._better("backward", shape, steps, ways, (dy, dw, db, dx))

    def _better(
        self, name: str, shape: Any, steps: Sequence[str], ways: Mapping[str, Callable[..., None]],
        results: Sequence[Memory | None],
    ) -> None:  # fmt: skip
        """Record one of two ways: the generic convolution's calls for all ``steps`` together, or each step's best."""
        together = self.backend.convolution(self, shape).together
        way = self.backend.better(name, shape, steps, ways, results) if together and steps else "apart"
        ways[way](self, *results)

    def bias_gradient(self, images: int, channels: int, pixels: int, dy: Memory, db: Memory) -> None:
        """db[f] += sum over images and pixels of dy[n, f, p], in as many chunks of images as are worth it."""
        chunks = max(1, min(images, images * pixels // _CHUNK, 64))
        if chunks == 1:
            self.launch_rows("bias_gradient", channels, images, pixels, dy, db)
            return
        partial = self.scratch((channels * chunks,))
        args = (chunks, images, channels, pixels, dy, partial)
        self.launch_rows("bias_gradient_chunks", channels * chunks, *args)
        self.launch("bias_gradient_finish", channels, chunks, partial, db)

    def host(
        self, function: Callable[[], Any], reads: Sequence[Blob] = (), writes: Sequence[Blob] = (), name: str = "host"
    ) -> None:
        """Python code at every replay; it reads and writes the named blobs through their NumPy views."""
        self._add(self.backend.bind_host(function), name, host=True)

    def ahead(self, function: Callable[[], Any], name: str = "ahead") -> None:
        """Python code before every replay of this layer's calls; it may give the device things to do, in order.

        Other calls of the replay run after it, so it must not read or write what they use on the host.
        """
        self.calls.append(Call(function, name, self.layer, ahead=True))

    def scratch(self, shape: Sequence[int]) -> Memory:
        """Memory shared by all layers of the net, valid within one layer's forward or backward only."""
        dims = tuple(int(d) for d in shape)
        return self._scratch.memory(dims, prod(dims))


@dataclass(frozen=True)
class Fused:
    """What runs in place of the own calls of ``layers``, given in running order.

    ``restore`` brings the layers' own buffers to where their own calls would have left them. ``needs_fused``: of a
    backward plan, calls that read what only the chain's fused forward calls leave.
    """

    layers: tuple[int, ...]
    calls: list[Call]
    restore: list[Call]
    needs_fused: bool


def run_all(backend: Backend, ahead: Sequence[Bound], bound: Sequence[Bound]) -> None:
    """Replay ``bound`` after what runs ahead of it."""
    try:
        for function in ahead:
            function()
        backend.replay(bound)
    except BaseException:
        backend.broken += 1
        raise


class Plan:
    """The calls of a net's layers, in order, ready to run whole or in part.

    Chains of layers may have fused calls, which run in place of the layers' own where a run covers the whole chain.
    """

    def __init__(self, backend: Backend, before: Plan | None = None) -> None:
        """``before``: of a backward plan, the forward plan whose chains it may have to restore."""
        self.backend = backend
        self.parts: list[list[Call]] = []
        #: by the layer that runs first
        self._fused: dict[int, Fused] = {}
        self._flat: dict[tuple[tuple[int, ...], frozenset[int]], tuple[list[Bound], Sequence[Bound], frozenset[int]]]
        self._flat = {}
        #: lowest layers of the chains whose calls need a forward pass by the chain's fused calls
        self._needing: set[int] = set()
        self._forward = before or self
        #: chains, by lowest layer, whose fused calls ran last in the forward plan and left something to restore
        self._unrestored: set[int] = set()

    def run(self, parts: Sequence[int]) -> None:
        """Replay the calls of the given layers, in the given order."""
        missing = frozenset(self._needing - self._forward._unrestored)
        key = (tuple(parts), missing)
        if key not in self._flat:
            calls, chains = self._find(tuple(parts), missing)
            ahead = [call.run for call in calls if call.ahead]
            bound = self.backend.sequence([call.run for call in calls if not call.ahead])
            self._flat[key] = ahead, bound, chains
        ahead, bound, chains = self._flat[key]
        if self._forward._unrestored:
            self._forward.restore(parts, chains)
        run_all(self.backend, ahead, bound)
        if self._forward is self:
            self._unrestored.update(first for first in chains if self._fused[first].restore)

    def fuse(
        self, layers: Sequence[int], calls: list[Call], restore: Sequence[Call] = (), needs_fused: bool = False
    ) -> None:
        """Let ``calls`` do what the given layers, run in this order, do."""
        self._fused[layers[0]] = Fused(tuple(layers), calls, list(restore), needs_fused)
        if needs_fused:
            self._needing.add(min(layers))

    def calls(self, parts: Sequence[int]) -> list[Call]:
        """What running the given layers in the given order calls."""
        return self._find(tuple(parts))[0]

    def restore(self, parts: Sequence[int] | None = None, whole: Collection[int] = ()) -> None:
        """Restore the chains of which ``parts`` (None: all) are about to run, unless they run as ``whole``."""
        for first in self._unrestored.difference(whole):
            fused = self._fused[first]
            if parts is None or not set(parts).isdisjoint(fused.layers):
                self.backend.replay([call.run for call in fused.restore])
                self._unrestored.discard(first)

    def _find(self, parts: tuple[int, ...], missing: frozenset[int] = frozenset()) -> tuple[list[Call], frozenset[int]]:
        """The calls of a run, and the lowest layers of the chains that it fuses: none of ``missing``."""
        found: list[Call] = []
        chains = []
        at = 0
        while at < len(parts):
            fused = self._fused.get(parts[at])
            whole = fused is not None and parts[at : at + len(fused.layers)] == fused.layers
            if fused is not None and whole and min(fused.layers) not in missing:
                found += fused.calls
                chains.append(min(fused.layers))
                at += len(fused.layers)
            else:
                found += self.parts[parts[at]]
                at += 1
        return found, frozenset(chains)


class Pass:
    """All layers forward and then backward, with calls before and after: the same as running each, replayed as one."""

    def __init__(
        self, forward: Plan, backward: Plan, layers: int, before: Sequence[Bound], after: Sequence[Bound]
    ) -> None:
        """``layers``: how many there are; the forward plan has one part more, which comes first."""
        self._forward = forward
        self._backend = forward.backend
        down, chains = forward._find((layers, *range(layers)))
        up, whole = backward._find(tuple(range(layers - 1, -1, -1)))
        unrestored = {first for first in chains if forward._fused[first].restore}
        self._unrestored = unrestored & whole
        restored = [call for first in sorted(unrestored - whole) for call in forward._fused[first].restore]
        calls = [*down, *restored, *up]
        self._ahead = [call.run for call in calls if call.ahead]
        self._bound = self._backend.sequence([*before, *(call.run for call in calls if not call.ahead), *after])

    def run(self) -> None:
        """Replay it."""
        run_all(self._backend, self._ahead, self._bound)
        self._forward._unrestored = set(self._unrestored)
