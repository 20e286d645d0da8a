"""Bias."""

from __future__ import annotations

from ..layer import Layer, register
from .channels import broadcast, constant, own_shape, work_of_pieces


@register("Bias")
class Bias(Layer):
    """y = x + b; b lies over the axes of x from ``axis`` on.

    Bottom x; b is a second bottom, or without one a parameter whose shape is that of ``num_axes`` axes of x (-1: of all
    from ``axis`` on; 0: one value). dx = dy, db = sum of dy over the other axes. In place if wanted (not over a second
    bottom). b is not prunable.

    Options: ``axis`` 1, ``num_axes`` 1, ``filler`` (constant 0). Raises ShapeError where the axes of b are not those of
    x, ParameterError for a ``num_axes`` below -1.

    Example::

        layer { name: "bias1" type: "Bias" bottom: "conv1" top: "conv1" }

    Source: Caffe, src/caffe/layers/bias_layer.cpp.
    """

    min_bottoms = 1
    max_bottoms = 2
    exact_tops = 1
    inplace_ok = True

    def setup(self, bottom, top):
        p = self.param.bias_param
        self.own = len(bottom) == 1
        if self.own:
            shape = own_shape(self, bottom[0], p.axis, p.num_axes)
            self.add_param(shape, constant(0, p.filler if p.HasField("filler") else None))
        else:
            self.not_inplace(bottom[1:], top)

    def reshape(self, bottom, top):
        b = self.blobs[0] if self.own else bottom[1]
        self.over = broadcast(self, bottom[0], b, self.param.bias_param.axis, self.own)
        top[0].reshape(bottom[0].shape)

    def forward(self, bottom, top):
        b, over = self.blobs[0] if self.own else bottom[1], self.over
        args = (over.inner, over.channels, bottom[0].data_mem, b.data_mem, top[0].data_mem)
        self.ops.launch("shift_forward", over.outer * over.channels, *args, work=bottom[0].count)

    def backward(self, top, propagate_down, bottom):
        b, over, dy = self.blobs[0] if self.own else bottom[1], self.over, top[0].diff_mem
        if self.param_propagate_down[0] if self.own else propagate_down[1]:
            partial = self.ops.scratch((2 * over.channels * over.chunks,))
            args = (*over.extents, dy, partial, 0, dy, partial)
            rows = over.channels * over.chunks
            self.ops.launch_rows("channel_gradient_sums", rows, *args, work=work_of_pieces(rows))
            self.ops.launch("channel_gradient_add", over.channels, over.chunks, 0, int(self.own), partial, b.diff_mem)
        if propagate_down[0] and top[0] is not bottom[0]:
            self.ops.launch("copy", bottom[0].count, dy, bottom[0].diff_mem)
