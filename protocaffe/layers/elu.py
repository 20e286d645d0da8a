"""ELU."""

from __future__ import annotations

from ..errors import ParameterError
from ..layer import Layer, register


@register("ELU")
class ELU(Layer):
    """y = x for x > 0, else alpha (exp(x) - 1); dx = dy, or dy (y + alpha); any shape, in place if wanted.

    Options: ``alpha`` 1. The gradient is taken from the output in place, which needs ``alpha >= 0`` there
    (ParameterError).

    Example::

        layer { name: "elu1" type: "ELU" bottom: "conv1" top: "conv1" elu_param { alpha: 0.5 } }

    Source: Caffe, src/caffe/layers/elu_layer.cpp; Clevert et al., "Fast and accurate deep network learning by
    exponential linear units", ICLR 2016.
    """

    exact_bottoms = 1
    exact_tops = 1
    inplace_ok = True

    def setup(self, bottom, top):
        self.alpha = self.param.elu_param.alpha
        if self.alpha < 0 and top[0] is bottom[0]:
            self.fail(ParameterError, f"alpha must be at least 0 in place, got {self.alpha}")

    def reshape(self, bottom, top):
        top[0].reshape(bottom[0].shape)

    def forward(self, bottom, top):
        self.ops.launch("elu_forward", bottom[0].count, bottom[0].data_mem, top[0].data_mem, self.alpha)

    def backward(self, top, propagate_down, bottom):
        if propagate_down[0]:
            y = top[0].data_mem
            sign = y if self.alpha >= 0 else bottom[0].data_mem
            self.ops.launch(
                "elu_backward", bottom[0].count, sign, y, top[0].diff_mem, bottom[0].diff_mem, self.alpha
            )  # fmt: skip
