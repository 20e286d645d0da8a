"""Softmax."""

from __future__ import annotations

from ..layer import Layer, register


@register("Softmax")
class Softmax(Layer):
    """y = exp(x - max x) / sum exp(x - max x) along an axis; dx = y (dy - sum(y dy)).

    Any shape, in place if wanted. Options (softmax_param): ``axis`` 1; ShapeError if the bottom lacks it.

    Example::

        layer { name: "prob" type: "Softmax" bottom: "ip2" top: "prob" }

    Source: Caffe, src/caffe/layers/softmax_layer.cpp.
    """

    exact_bottoms = 1
    exact_tops = 1
    inplace_ok = True

    def reshape(self, bottom, top):
        axis = self.axis(bottom[0], self.param.softmax_param.axis)
        self.channels, self.inner = bottom[0].shape[axis], bottom[0].count_range(axis + 1)
        self.rows = bottom[0].count_range(0, axis) * self.inner
        top[0].reshape(bottom[0].shape)

    def forward(self, bottom, top):
        args = (self.channels, self.inner, bottom[0].data_mem, top[0].data_mem)
        self.ops.launch_rows("softmax_forward", self.rows, *args)

    def backward(self, top, propagate_down, bottom):
        if propagate_down[0]:
            args = (self.channels, self.inner, top[0].data_mem, top[0].diff_mem, bottom[0].diff_mem)
            self.ops.launch_rows("softmax_backward", self.rows, *args)
