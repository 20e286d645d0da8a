"""Chains of layers whose fused calls write the blobs between them, too, worth it where memory is slow and arithmetic
is not: backends name them in ``Backend.patterns``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from .fusion import Pattern

if TYPE_CHECKING:
    from .plan import Recorder

#: kernels/conv_pool.cu: CONV_POOL_PATCH
_PATCH = 64
#: kernels/conv_pool.cu: CONV_POOL_STAGE
_STAGE = 4096
#: pieces of the images whose gradients are summed on their own, at least
_CHUNKS = 16


class ConvolutionReLUPooling(Pattern):
    """Bias, ReLU and the maxima of 2x2 windows where the convolution writes its sums; backward the same way round.

    The output of the convolution is written once and not read. Convolutions of few channels by small windows, as the
    first one of a net for grey images, need no columns: each thread has its windows in registers, and the gradient of
    the weights takes only the place of each window that has one.
    """

    types: ClassVar[tuple[str, ...]] = ("Convolution", "ReLU", "Pooling")
    leaves_all = True

    def fits(self) -> bool:
        conv, relu, pool = self.layers
        plain = len(self.bottom) == 1 and conv.shape.window2d is not None and relu.slope == 0
        return plain and self.tops[0] is self.tops[1] and pool.is_max and pool.tiled

    def forward(self, ops: Recorder) -> None:
        conv, pool = self.layers[0], self.layers[2]
        x, w, bias = self.bottom[0].data_mem, conv.blobs[0].data_mem, conv.blobs[1].data_mem if conv.bias_term else None
        y, pooled = self.tops[0].data_mem, self.top.data_mem
        direct = self._direct()
        if direct is None:
            ops.conv_forward_pooled(conv.shape, x, w, bias, y, pooled, pool.index)
        else:
            ops.launch("conv_pool_direct", conv.shape.images, direct, x, w, bias, y, pooled, pool.index, work=y.count)

    def backward(self, ops: Recorder, propagate_down: Sequence[bool]) -> bool:
        conv = self.layers[0]
        x, dy, w = self.bottom[0].data_mem, self.tops[0].diff_mem, conv.blobs[0].data_mem
        dw = conv.blobs[0].diff_mem if conv.param_propagate_down[0] else None
        db = conv.blobs[1].diff_mem if conv.bias_term and conv.param_propagate_down[1] else None
        dx = self.bottom[0].diff_mem if propagate_down[0] else None
        if dw is None:
            return False
        direct = self._direct()
        if direct is None or dx is not None:
            ops.conv_backward(conv.shape, x, dy, w, dw, db, dx, self._fill)
            return True
        self._fill(ops, dy, 0, conv.shape.images, None)
        s, pool = conv.shape, self.layers[2]
        if not s.images:  # a kernel over nothing does not run: what lies in scratch memory would be added
            return True
        at_hand = max(1, _STAGE // s.in_count)  # images that a block reads once
        chunks, taps = max(min(_CHUNKS, s.images), -(-s.images // at_hand)), s.kernel_dim
        partial = ops.scratch((s.num_output * chunks * (taps + 1),))
        args = (direct, x, self.top.diff_mem, self.top.data_mem, pool.index, partial)
        rows = s.num_output * chunks
        ops.launch_rows("conv_pool_direct_gradient", rows, chunks, s.images, *args, work=self.top.count)
        ops.launch("conv_pool_finish", s.num_output, chunks, taps, partial, dw, db, work=s.num_output * (taps + 1))
        return True

    def _fill(self, ops: Recorder, dy: Any, first: int, count: int, outer: Any) -> None:
        """Record what writes the convolution's gradient ``dy`` for ``count`` images."""
        s, pool = self.layers[0].shape, self.layers[2]
        small = self.top.count // max(1, s.images)
        own = [memory.at(first * small, count * small) for memory in (self.top.diff_mem, self.top.data_mem, pool.index)]
        dy = dy.at(first * s.out_count, count * s.out_count)
        extents = (*(extent // 2 for extent in s.out_dims), s.num_output, count)
        ops.launch("conv_pool_backward", count * s.num_output, *extents, *own, dy, outer, work=count * small)

    def _direct(self) -> dict[str, int] | None:
        """Fields of the direct kernels, None where the convolution is not of their kind."""
        s = self.layers[0].shape
        f = s.window2d
        plain = all((f["sh"] == 1, f["sw"] == 1, f["ph"] == 0, f["pw"] == 0, f["dh"] == 1, f["dw"] == 1, s.group == 1))
        if not plain or s.channels * (f["kh"] + 1) * (f["kw"] + 1) > _PATCH:
            return None
        return {name: f[name] for name in ("channels", "h", "w", "oh", "ow", "kh", "kw")} | {"filters": s.num_output}
