"""SoftmaxWithLoss."""

from __future__ import annotations

from ..layer import register
from .labelled import LabelledLoss


@register("SoftmaxWithLoss")
class SoftmaxWithLoss(LabelledLoss):
    """L = -sum log softmax(x)[label] / divisor; dx = (softmax(x) - onehot(label)) loss weight / divisor.

    Bottoms: scores (N, C, ...), labels (N, ...), one per position; tops: the loss, and if wanted the probabilities.
    The probability in the logarithm is at least the smallest normal float, as in Caffe.

    Options: ``softmax_param { axis: 1 }``, ``loss_param { ignore_label normalization: VALID }``
    (labelled.LabelledLoss). Raises ShapeError for a wrong number of labels, DataError for a label out of range.

    Example::

        layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip2" bottom: "label" top: "loss" }

    Source: Caffe, src/caffe/layers/softmax_loss_layer.cpp.
    """

    def reshape(self, bottom, top):
        super().reshape(bottom, top)
        self.prob = self.buffer("prob", bottom[0].shape)
        if len(top) == 2:
            top[1].reshape(bottom[0].shape)

    def forward(self, bottom, top):
        args = (self.rows, self.channels, self.inner)
        self.ops.launch_rows("softmax_forward", *args, bottom[0].data_mem, self.prob)
        self.record_loss(self.prob, bottom[1], top[0], logarithms=False)
        if len(top) == 2:
            self.ops.launch("copy", top[1].count, self.prob, top[1].data_mem)

    def backward(self, top, propagate_down, bottom):
        self.refuse_label_gradient(propagate_down)
        if propagate_down[0]:
            self.ops.launch_rows(
                "softmax_loss_backward", self.rows, self.channels, self.inner, self.prob, bottom[1].data_mem,
                self.has_ignore, self.ignore, top[0].diff_mem, self.normalizer, self.status, bottom[0].diff_mem,
            )  # fmt: skip
