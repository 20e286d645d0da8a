"""NLLLoss."""

from __future__ import annotations

from ..layer import register
from .labelled import LabelledLoss


@register("NLLLoss")
class NLLLoss(LabelledLoss):
    """L = -sum x[label] / divisor, the mean negative log-likelihood; dx = -onehot(label) loss weight / divisor.

    Bottoms: log-probabilities (N, C, ...), as LogSoftmax gives them, and labels (N, ...); top: the loss. After
    LogSoftmax the gradient of the scores is (softmax - onehot) / N.

    Options: ``softmax_param { axis: 1 }``, ``loss_param { ignore_label normalization: VALID }``. Raises ShapeError for
    a wrong number of labels, DataError for a label out of range.

    Example::

        layer { name: "logp" type: "LogSoftmax" bottom: "fc2" top: "logp" }
        layer { name: "loss" type: "NLLLoss" bottom: "logp" bottom: "label" top: "loss" }

    Source: torch.nn.NLLLoss; Caffe has no such layer.
    """

    max_tops = 1

    def forward(self, bottom, top):
        self.record_loss(bottom[0].data_mem, bottom[1], top[0], logarithms=True)

    def backward(self, top, propagate_down, bottom):
        self.refuse_label_gradient(propagate_down)
        if propagate_down[0]:
            self.ops.launch_rows(
                "nll_backward", self.rows, self.channels, self.inner, bottom[1].data_mem, self.has_ignore, self.ignore,
                top[0].diff_mem, self.normalizer, self.status, bottom[0].diff_mem,
            )  # fmt: skip
