"""SigmoidCrossEntropyLoss."""

from __future__ import annotations

from ..errors import ShapeError
from ..layer import register
from .chunked import chunks_of
from .labelled import LabelledLoss


@register("SigmoidCrossEntropyLoss")
class SigmoidCrossEntropyLoss(LabelledLoss):
    """L = -sum (t log s(x) + (1 - t) log(1 - s(x))) / divisor, s the sigmoid; dx = (s(x) - t) loss weight / divisor.

    Computed as max(x, 0) - x t + log(1 + exp(-|x|)), so that scores of any size are safe. Bottoms: scores x (N, ...),
    targets t, as many, from 0 to 1; top: the loss. The targets have no gradient.

    Options of ``loss_param``: ``ignore_label`` (elements whose target, cut to an integer, is this do not count),
    ``normalization`` BATCH_SIZE: divided by N; FULL: by the number of elements; VALID: by those that count; NONE: by 1;
    by 1 at least. ``normalize`` is the old spelling: true is VALID, false BATCH_SIZE. Raises ShapeError for bottoms
    that do not go together, or if a gradient of the targets is asked for.

    Example::

        layer { name: "loss" type: "SigmoidCrossEntropyLoss" bottom: "ip2" bottom: "attributes" top: "loss" }

    Source: Caffe, src/caffe/layers/sigmoid_cross_entropy_loss_layer.cpp.
    """

    max_tops = 1

    def setup(self, bottom, top):
        super().setup(bottom, top)
        p = self.param.loss_param
        if not p.HasField("normalization") and not p.HasField("normalize"):
            self.normalization = "BATCH_SIZE"

    def shape_rows(self, bottom):
        """Each element is a position of its own."""
        x, target = bottom
        if not x.num_axes or not target.num_axes or x.shape[0] != target.shape[0] or x.count != target.count:
            self.fail(
                ShapeError,
                f'bottom "{target.name}" must hold {x.count} targets, one for each value of "{x.name}" {x.shape}, '
                f"in as many items (axis 0), got {target.count} ({target.shape})",
            )
        self.rows, self.outer = x.count, x.shape[0]
        self.chunks = chunks_of(x.count)
        self.row_value, self.row_valid = (self.buffer(name, (self.chunks,)) for name in ("row_value", "row_valid"))

    def forward(self, bottom, top):
        x, target = bottom[0].data_mem, bottom[1].data_mem
        self.ops.launch_rows(
            "sigmoid_cross_entropy_loss_chunks", self.chunks, self.rows, x, target, self.has_ignore, self.ignore,
            self.row_value, self.row_valid,
        )  # fmt: skip
        args = (self.chunks, self.row_value, self.row_valid, float(self.divisor), self.normalizer, top[0].data_mem)
        self.ops.launch_rows("loss_mean", 1, *args)

    def backward(self, top, propagate_down, bottom):
        self.refuse_label_gradient(propagate_down)
        if propagate_down[0]:
            self.ops.launch(
                "sigmoid_cross_entropy_loss_backward", self.rows, bottom[0].data_mem, bottom[1].data_mem,
                self.has_ignore, self.ignore, top[0].diff_mem, self.normalizer, bottom[0].diff_mem,
            )  # fmt: skip
