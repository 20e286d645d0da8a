"""Reduction."""

from __future__ import annotations

from ..layer import Layer, register
from .chunked import chunks_of


@register("Reduction")
class Reduction(Layer):
    """y = coeff times the sum of x (SUM), |x| (ASUM) or x^2 (SUMSQ), or the mean of x (MEAN), over the axes from
    ``axis`` on; dx = coeff dy times 1, sign(x), 2 x, or 1 / count.

    Bottom (M..., K...), top (M...): with axis 0 a single value of shape (), which with a ``loss_weight`` is a loss.
    What is taken over no values is 0.

    Options: ``operation`` SUM, ``axis`` 0 (negative: from the end), ``coeff`` 1. Raises ShapeError for an axis that the
    bottom does not have.

    Example::

        layer { name: "energy" type: "Reduction" bottom: "ip1" top: "energy" loss_weight: 0.001
                reduction_param { operation: SUMSQ } }

    Source: Caffe, src/caffe/layers/reduction_layer.cpp.
    """

    exact_bottoms = 1
    exact_tops = 1

    def reshape(self, bottom, top):
        p = self.param.reduction_param
        axis = self.axis(bottom[0], p.axis)
        self.rows, self.cols = bottom[0].count_range(0, axis), bottom[0].count_range(axis)
        top[0].reshape(bottom[0].shape[:axis])
        self.operation, self.coeff = p.operation, p.coeff
        if p.operation == p.DESCRIPTOR.enum_types_by_name["ReductionOp"].values_by_name["MEAN"].number:
            self.coeff /= max(1, self.cols)
        self.chunks = chunks_of(self.cols, self.rows)
        self.pieces = self.rows * self.chunks
        self.partial = self.buffer("partial", (self.pieces if self.chunks > 1 else 1,))

    def forward(self, bottom, top):
        y = top[0].data_mem
        args = (self.chunks, self.cols, self.operation, self.coeff, bottom[0].data_mem, self.partial, y)
        self.ops.launch_rows("reduction_forward", self.pieces, *args)
        if self.chunks > 1:
            self.ops.launch("reduction_finish", self.rows, self.chunks, self.coeff, self.partial, y)

    def backward(self, top, propagate_down, bottom):
        if propagate_down[0]:
            args = (self.operation, self.coeff, bottom[0].data_mem, top[0].diff_mem, bottom[0].diff_mem)
            self.ops.launch_rows("reduction_backward", self.pieces, self.chunks, self.cols, *args)
