"""ReLU."""

from __future__ import annotations

from ..errors import ParameterError
from ..layer import Layer, register


@register("ReLU")
class ReLU(Layer):
    """y = max(0, x) + negative_slope min(0, x); any shape, in place if wanted.

    Options: ``negative_slope`` 0. Its gradient is taken from the output in place, which needs ``negative_slope >= 0``
    there (ParameterError).

    Example::

        layer { name: "relu1" type: "ReLU" bottom: "ip1" top: "ip1" }

    Source: Caffe, src/caffe/layers/relu_layer.cpp; Nair and Hinton 2010.
    """

    exact_bottoms = 1
    exact_tops = 1
    inplace_ok = True

    def setup(self, bottom, top):
        self.slope = self.param.relu_param.negative_slope
        if self.slope < 0 and top[0] is bottom[0]:
            self.fail(ParameterError, f"negative_slope must be at least 0 in place, got {self.slope}")

    def reshape(self, bottom, top):
        top[0].reshape(bottom[0].shape)

    def forward(self, bottom, top):
        self.ops.launch("relu_forward", bottom[0].count, bottom[0].data_mem, top[0].data_mem, self.slope)

    def backward(self, top, propagate_down, bottom):
        if propagate_down[0]:
            args = (bottom[0].data_mem, top[0].diff_mem, bottom[0].diff_mem, self.slope)
            self.ops.launch("relu_backward", bottom[0].count, *args)
