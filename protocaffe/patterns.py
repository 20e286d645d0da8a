"""The chains of layers that every backend can fuse (fusion.py): they are built on verbs and kernels that all have."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, ClassVar

from .fusion import Pattern
from .layers.channels import work_of_pieces

if TYPE_CHECKING:
    from .blob import Blob
    from .plan import Recorder


def _plain_relu(layer: Any) -> bool:
    return layer.slope == 0


@contextmanager
def _recording(layer: Any, ops: Recorder) -> Iterator[Any]:
    """The layer, whose own passes record on ``ops`` meanwhile."""
    own, layer.ops = layer.ops, ops
    yield layer
    layer.ops = own


class ConvolutionReLU(Pattern):
    """The convolution clips its sums at 0 before it stores them: one pass over the output instead of three."""

    types: ClassVar[tuple[str, ...]] = ("Convolution", "ReLU")

    def fits(self) -> bool:
        return len(self.bottom) == 1 and _plain_relu(self.layers[1])

    def forward(self, ops: Recorder) -> None:
        conv = self.layers[0]
        bias = conv.blobs[1].data_mem if conv.bias_term else None
        ops.conv_forward(
            conv.shape, self.bottom[0].data_mem, conv.blobs[0].data_mem, bias, self.top.data_mem, relu=True
        )


class ConvolutionReLULRN(ConvolutionReLU):
    """As ConvolutionReLU; the LRN's backward pass, which reads the ReLU's output anyway, masks what it writes: 3 passes
    less."""

    types = ("Convolution", "ReLU", "LRN")
    has_ends = True

    def fits(self) -> bool:
        return super().fits() and self.for_backward and self.layers[2].across

    def forward(self, ops: Recorder) -> None:
        super().forward(ops)
        with _recording(self.layers[2], ops) as norm:
            norm.forward([self.top], self.ends)

    def backward(self, ops: Recorder, propagate_down: Sequence[bool]) -> bool:
        self.layers[2].gradient(ops, self.top, self.ends[0], relu=True)
        with _recording(self.layers[0], ops) as conv:
            conv.backward([self.top], propagate_down, self.bottom)
        return True


class InnerProductReLU(Pattern):
    """Bias and ReLU in one pass over the output; the ReLU's backward pass and the bias's gradient in another."""

    types = ("InnerProduct", "ReLU")
    reads_as_layers = True

    def fits(self) -> bool:
        return self.layers[0].bias_term and _plain_relu(self.layers[1])

    def forward(self, ops: Recorder) -> None:
        ip, y = self.layers[0], self.top.data_mem
        ip.product(ops, self.bottom[0].data_mem, y)
        ops.launch("fused_bias_relu", ip.rows, ip.outputs, ip.blobs[1].data_mem, y, work=ip.rows * ip.outputs)

    def backward(self, ops: Recorder, propagate_down: Sequence[bool]) -> bool:
        ip, top = self.layers[0], self.top
        ip.gradients(ops, self.bottom[0], top.diff_mem, propagate_down[0], sign=top.data_mem)
        return True


class LogSoftmaxNLLLoss(Pattern):
    """Logarithms of probabilities and the loss's rows in one pass, both gradients in another."""

    types = ("LogSoftmax", "NLLLoss")
    leaves_all = True

    def fits(self) -> bool:
        soft, loss = self.layers
        extents = (soft.rows, soft.channels, soft.inner) == (loss.rows, loss.channels, loss.inner)
        return extents and self.bottoms[1][0] is self.tops[0] is not self.bottoms[1][1]

    def _arguments(self) -> tuple[Any, ...]:
        loss = self.layers[1]
        return loss.channels, loss.inner, self.bottoms[1][1].data_mem, loss.has_ignore, loss.ignore

    def forward(self, ops: Recorder) -> None:
        loss = self.layers[1]
        channels, inner, *label = self._arguments()
        x, y = self.bottom[0].data_mem, self.tops[0].data_mem
        results = (y, loss.row_value, loss.row_valid, loss.status)
        ops.launch_rows("log_softmax_nll_forward", loss.rows, channels, inner, x, *label, *results)
        loss.record_mean(ops, self.top)

    def backward(self, ops: Recorder, propagate_down: Sequence[bool]) -> bool:
        loss, between = self.layers[1], self.tops[0]
        channels, inner, *label = self._arguments()
        results = (self.top.diff_mem, loss.normalizer, loss.status, between.diff_mem, self.bottom[0].diff_mem)
        args = (channels, inner, between.data_mem, *label, *results)
        if propagate_down[0]:
            ops.launch_rows("log_softmax_nll_backward", loss.rows, *args)
        return propagate_down[0]


class EltwiseReLU(Pattern):
    """The sum of two blobs, clipped, in 3 passes over memory instead of 5; backward 5 instead of 8."""

    types: ClassVar[tuple[str, ...]] = ("Eltwise", "ReLU")

    def fits(self) -> bool:
        return self.layers[0].operation == "SUM" and len(self.bottom) == 2

    def forward(self, ops: Recorder) -> None:
        first, second = self.bottom
        args = (first.data_mem, second.data_mem, *self.layers[0].coeff, self.layers[1].slope, self.top.data_mem)
        ops.launch("fused_sum_relu", self.top.count, *args)

    def backward(self, ops: Recorder, propagate_down: Sequence[bool]) -> bool:
        dx = [b.diff_mem if down else None for b, down in zip(self.bottom, propagate_down, strict=True)]
        args = (self.top.data_mem, *self.layers[0].coeff, self.layers[1].slope, self.top.diff_mem, *dx)
        ops.launch("fused_sum_relu_backward", self.top.count, *args)
        return True


class EltwiseReLUSplit(EltwiseReLU):
    """As EltwiseReLU; the sum's gradient, that of two readers put together, is masked and handed on at once: 6 passes
    instead of 8."""

    types = ("Eltwise", "ReLU", "Split")
    has_ends = True

    def fits(self) -> bool:
        return super().fits() and self.for_backward and len(self.ends) == 2

    def backward(self, ops: Recorder, propagate_down: Sequence[bool]) -> bool:
        if not all(propagate_down):
            return False
        first, second = (blob.diff_mem for blob in self.ends)
        dx = [b.diff_mem for b in self.bottom]
        args = (self.top.data_mem, first, second, *self.layers[0].coeff, self.layers[1].slope, self.top.diff_mem, *dx)
        ops.launch("fused_sum_relu_split_backward", self.top.count, *args)
        return True


class BatchNormScaleReLU(Pattern):
    """y = relu(z g + b), z = (x - mean) / deviation, in one pass behind that for the statistics; dx in two passes.

    Counted in passes over memory, all layers in place: forward 4 instead of 11, backward 5 instead of 12; with the
    stored statistics, no backward pass to come, 2 instead of 8. Backward computes the ReLU's mask from z again, which
    is cheaper than to read it.
    """

    types: ClassVar[tuple[str, ...]] = ("BatchNorm", "Scale", "ReLU")

    def __init__(self, layers: Sequence[Any], bottom: Sequence[Blob], top: Blob, for_backward: bool) -> None:
        super().__init__(layers, bottom, top, for_backward)
        by_type = {layer.type: layer for layer in layers}
        self.norm: Any = by_type["BatchNorm"]
        self.scale: Any = by_type.get("Scale")
        self.slope = by_type["ReLU"].slope if "ReLU" in by_type else 1.0
        self.inplace = bottom[0] is top or layers[0] is not self.norm

    def fits(self) -> bool:
        scale, norm = self.scale, self.norm
        if scale is None:
            return True
        return scale.own and (scale.over.channels, scale.over.inner) == (norm.channels, norm.inner)

    def forward(self, ops: Recorder) -> None:
        norm, x = self.norm, self._x()
        norm.statistics(ops, x)
        results = self._kept(), self.top.data_mem
        args = (norm.inner, norm.channels, x, norm.factors, *self._affine(), self.slope, *results)
        ops.launch("fused_norm_forward", norm.images * norm.channels, *args, work=self.top.count)

    def restore(self, ops: Recorder) -> None:
        norm = self.norm
        if norm.stored or not self.for_backward or not self._learning():
            return
        z = self.scale.input([self.top], [self.top])
        if self.inplace:
            ops.launch("copy", self.top.count, self._kept(), z)
        else:
            args = (norm.inner, norm.channels, self.bottom[0].data_mem, norm.factors, z)
            ops.launch("batch_norm_forward", norm.images * norm.channels, *args, work=self.top.count)

    def backward(self, ops: Recorder, propagate_down: Sequence[bool]) -> bool:
        norm = self.norm
        if not propagate_down[0]:
            return False
        dy, dx = self.top.diff_mem, self._dx()
        between = None if self.inplace else dy
        rows = norm.images * norm.channels
        self._sums(ops, dy)
        args: tuple[Any, ...]
        if norm.stored:
            args = (self.top.data_mem, norm.factors, self._affine()[0], self.slope, dy, between, dx)
            ops.launch("fused_norm_backward_stored", rows, norm.inner, norm.channels, *args, work=self.top.count)
        else:
            args = (*self._normalised(), *self._affine(), self.slope, norm.sums, dy, between, dx)
            ops.launch("fused_norm_backward", rows, norm.inner, norm.channels, *args, work=self.top.count)
        return True

    def _sums(self, ops: Recorder, dy: Any) -> None:
        """Means over each channel of the masked dy and of its product with z; gain and shift get their gradients."""
        norm, learning = self.norm, self._learning()
        if norm.stored and not learning:
            return
        partial = ops.scratch((2 * norm.channels * norm.chunks,))
        extents = (norm.chunks, norm.images, norm.channels, norm.inner)
        args = (*extents, *self._normalised(), *self._affine(), self.slope, dy, partial)
        rows = norm.channels * norm.chunks
        ops.launch_rows("fused_norm_gradient_sums", rows, *args, work=work_of_pieces(rows))
        means = None if norm.stored else norm.sums
        gradients = {which: blob.diff_mem for which, blob in learning}
        count = float(max(1, norm.images * norm.inner))
        results = (means, gradients.get(1), gradients.get(0))
        ops.launch("channel_gradients", norm.channels, norm.chunks, count, partial, *results)

    def _x(self) -> Any:
        """What is normalised."""
        return self.bottom[0].data_mem

    def _dx(self) -> Any:
        """Its gradient."""
        return self.bottom[0].diff_mem

    def _affine(self) -> tuple[Any, Any]:
        """Gain and shift."""
        if self.scale is None:
            return None, None
        return self.scale.blobs[0].data_mem, self.scale.blobs[1].data_mem if self.scale.bias_term else None

    def _learning(self) -> list[tuple[int, Blob]]:
        """Of gain and shift those that get gradients, each with the number of the sum that is its."""
        if self.scale is None:
            return []
        pairs = zip(self.scale.blobs, self.scale.param_propagate_down, strict=True)
        return [(1 - i, blob) for i, (blob, wanted) in enumerate(pairs) if wanted]

    def _kept(self) -> Any:
        """Where z is written for the backward pass: where the layers' own backward pass looks for it."""
        if not self.for_backward:
            return None
        if self.norm.stored:
            return self.scale.input([self.top], [self.top]) if self._learning() else None
        return self.norm.normalised([self.top], [self.top]) if self.inplace else None

    def _normalised(self) -> tuple[Any, Any, int]:
        """Arguments that give z: memory, the factors, and whether z has to be made with them."""
        kept = self._kept()
        return (self._x(), self.norm.factors, 1) if kept is None else (kept, self.norm.factors, 0)


class BatchNormScale(BatchNormScaleReLU):
    """y = z g + b: as BatchNormScaleReLU."""

    types = ("BatchNorm", "Scale")


class BatchNormReLU(BatchNormScaleReLU):
    """y = relu(z): as BatchNormScaleReLU."""

    types = ("BatchNorm", "ReLU")


class ConvolutionBatchNormScaleReLU(BatchNormScaleReLU):
    """The stored statistics, gain and shift go into a copy of the weights, made anew in each pass: 1 pass instead of 9.

    For nets that have no backward pass, and layers whose output is at least twice as large as their weights.
    """

    types: ClassVar[tuple[str, ...]] = ("Convolution", "BatchNorm", "Scale", "ReLU")

    def fits(self) -> bool:
        conv, norm = self.layers[0], self.norm
        if len(self.bottom) != 1 or self.for_backward or not norm.stored or conv.channel_axis != 1:
            return False
        small = 2 * conv.blobs[0].count <= self.top.count
        return small and self.slope in (0, 1) and super().fits()

    def forward(self, ops: Recorder) -> None:
        conv, norm = self.layers[0], self.norm
        weights, bias = conv.blobs[0].data_mem, conv.blobs[1].data_mem if conv.bias_term else None
        depth = weights.count // norm.channels
        folded = conv.buffer("folded", (weights.count + norm.channels,), for_backward=True)
        shifts = folded.at(weights.count, norm.channels)
        norm.statistics(ops, None)
        args = (norm.channels, depth, weights, bias, norm.factors, *self._affine(), folded, shifts)
        ops.launch_rows("fused_fold_norm", *args)
        x, y = self.bottom[0].data_mem, self.top.data_mem
        ops.conv_forward(conv.shape, x, folded, shifts, y, relu=self.slope == 0)


class ConvolutionBatchNormScale(ConvolutionBatchNormScaleReLU):
    """As ConvolutionBatchNormScaleReLU."""

    types = ("Convolution", "BatchNorm", "Scale")


class ConvolutionBatchNormReLU(ConvolutionBatchNormScaleReLU):
    """As ConvolutionBatchNormScaleReLU."""

    types = ("Convolution", "BatchNorm", "ReLU")


class TrainedConvolutionBatchNormScaleReLU(BatchNormScaleReLU):
    """The convolution writes to a place of its own, which the backward pass reads; so the norm need not keep z.

    Counted as for BatchNormScaleReLU: forward 3 passes instead of 4. For layers that work in place.
    """

    types: ClassVar[tuple[str, ...]] = ("Convolution", "BatchNorm", "Scale", "ReLU")
    needs_fused = True

    def fits(self) -> bool:
        conv = self.layers[0]
        one = len(self.bottom) == 1 and conv.channel_axis == 1
        return one and self.for_backward and not self.norm.stored and super().fits()

    def forward(self, ops: Recorder) -> None:
        conv = self.layers[0]
        bias = conv.blobs[1].data_mem if conv.bias_term else None
        ops.conv_forward(conv.shape, self.bottom[0].data_mem, conv.blobs[0].data_mem, bias, self._x())
        super().forward(ops)

    def restore(self, ops: Recorder) -> None:
        norm, z = self.norm, self.norm.normalised([self.top], [self.top])
        args = (norm.inner, norm.channels, self._x(), norm.factors, z)
        ops.launch("batch_norm_forward", norm.images * norm.channels, *args, work=self.top.count)
        if self._learning():
            ops.launch("copy", self.top.count, z, self.scale.input([self.top], [self.top]))

    def backward(self, ops: Recorder, propagate_down: Sequence[bool]) -> bool:
        super().backward(ops, [True])
        with _recording(self.layers[0], ops) as conv:
            conv.backward([self.top], propagate_down, self.bottom)
        return True

    def _x(self) -> Any:
        return self.layers[0].buffer("convolved", self.top.shape, for_backward=True)

    def _dx(self) -> Any:
        return self.top.diff_mem

    def _kept(self) -> Any:
        return None


class TrainedConvolutionBatchNormScale(TrainedConvolutionBatchNormScaleReLU):
    """As TrainedConvolutionBatchNormScaleReLU."""

    types = ("Convolution", "BatchNorm", "Scale")


class TrainedConvolutionBatchNormReLU(TrainedConvolutionBatchNormScaleReLU):
    """As TrainedConvolutionBatchNormScaleReLU."""

    types = ("Convolution", "BatchNorm", "ReLU")


PORTABLE: tuple[type[Pattern], ...] = (
    ConvolutionBatchNormScaleReLU,
    ConvolutionBatchNormScale,
    ConvolutionBatchNormReLU,
    TrainedConvolutionBatchNormScaleReLU,
    TrainedConvolutionBatchNormScale,
    TrainedConvolutionBatchNormReLU,
    BatchNormScaleReLU,
    BatchNormScale,
    BatchNormReLU,
    ConvolutionReLULRN,
    ConvolutionReLU,
    EltwiseReLUSplit,
    EltwiseReLU,
    InnerProductReLU,
    LogSoftmaxNLLLoss,
)
