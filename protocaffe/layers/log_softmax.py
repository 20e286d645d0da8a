"""LogSoftmax."""

from __future__ import annotations

from ..layer import Layer, register


@register("LogSoftmax")
class LogSoftmax(Layer):
    """y = x - max x - log sum exp(x - max x) along an axis; dx = dy - exp(y) sum(dy).

    Any shape, in place if wanted. Options (softmax_param): ``axis`` 1; ShapeError if the bottom lacks it.

    Example::

        layer { name: "prob" type: "LogSoftmax" bottom: "ip2" top: "prob" }

    Source: torch.nn.LogSoftmax (Caffe has no such layer); the stable form as in Blanchard, Higham, Higham 2021.
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
        self.ops.launch_rows("log_softmax_forward", self.rows, *args)

    def backward(self, top, propagate_down, bottom):
        if propagate_down[0]:
            args = (self.channels, self.inner, top[0].data_mem, top[0].diff_mem, bottom[0].diff_mem)
            self.ops.launch_rows("log_softmax_backward", self.rows, *args)
