"""Sigmoid."""

from __future__ import annotations

from ..layer import Layer, register


@register("Sigmoid")
class Sigmoid(Layer):
    """y = 1 / (1 + exp(-x)), dx = dy y (1 - y); any shape, in place if wanted.

    Example::

        layer { name: "act1" type: "Sigmoid" bottom: "ip1" top: "ip1" }

    Source: Caffe, src/caffe/layers/sigmoid_layer.cpp.
    """

    exact_bottoms = 1
    exact_tops = 1
    inplace_ok = True

    def reshape(self, bottom, top):
        top[0].reshape(bottom[0].shape)

    def forward(self, bottom, top):
        self.ops.launch("sigmoid_forward", bottom[0].count, bottom[0].data_mem, top[0].data_mem)

    def backward(self, top, propagate_down, bottom):
        if propagate_down[0]:
            self.ops.launch("sigmoid_backward", bottom[0].count, top[0].data_mem, top[0].diff_mem, bottom[0].diff_mem)
