"""HingeLoss."""

from __future__ import annotations

from ..errors import ShapeError
from ..layer import register
from .labelled import LabelledLoss


@register("HingeLoss")
class HingeLoss(LabelledLoss):
    """L = sum over n, k of h^p / N, h = max(0, 1 - x) for the label's score, max(0, 1 + x) for the others: one against
    the rest; p is 1 (L1) or 2 (L2). dx = -+ p h^(p - 1) loss weight / N where h > 0.

    Bottoms: scores (N, K, ...), all axes from 1 on taken together as classes, and labels, one for each of the N; top:
    the loss.

    Options: ``hinge_loss_param { norm: L1 }``; ``loss_param`` changes nothing, as in Caffe. Raises ShapeError for a
    wrong number of labels, DataError for a label out of range.

    Example::

        layer { name: "loss" type: "HingeLoss" bottom: "ip2" bottom: "label" top: "loss" hinge_loss_param { norm: L2 } }

    Source: Caffe, src/caffe/layers/hinge_loss_layer.cpp.
    """

    max_tops = 1

    def setup(self, bottom, top):
        super().setup(bottom, top)
        self.normalization = "BATCH_SIZE"
        p = self.param.hinge_loss_param
        self.squared = int(p.norm == p.DESCRIPTOR.enum_types_by_name["Norm"].values_by_name["L2"].number)

    def shape_rows(self, bottom):
        """Each item is a row."""
        x, label = bottom
        if not x.num_axes or label.count != x.shape[0]:
            items = x.shape[0] if x.num_axes else 1
            self.fail(
                ShapeError,
                f'bottom "{label.name}" must hold {items} labels, one for each item (axis 0) of "{x.name}" {x.shape}, '
                f"got {label.count} ({label.shape})",
            )
        self.rows = self.outer = x.shape[0]
        self.channels = x.count_range(1)
        self.row_value = self.buffer("row_value", (max(1, self.rows),))

    def forward(self, bottom, top):
        args = (bottom[0].data_mem, bottom[1].data_mem, self.squared, self.row_value, self.status)
        self.ops.launch_rows("hinge_loss_rows", self.rows, self.channels, *args)
        mean = (self.rows, self.row_value, self.row_value, float(self.divisor), self.normalizer, top[0].data_mem)
        self.ops.launch_rows("loss_mean", 1, *mean)

    def backward(self, top, propagate_down, bottom):
        self.refuse_label_gradient(propagate_down)
        if propagate_down[0]:
            self.ops.launch_rows(
                "hinge_loss_backward", self.rows, self.channels, bottom[0].data_mem, bottom[1].data_mem, self.squared,
                top[0].diff_mem, self.normalizer, bottom[0].diff_mem,
            )  # fmt: skip
