"""Scale."""

from __future__ import annotations

from ..layer import Layer, register
from .channels import broadcast, constant, own_shape, work_of_pieces


@register("Scale")
class Scale(Layer):
    """y = x g, with ``bias_term`` y = x g + b; g (and b) lie over the axes of x from ``axis`` on.

    Bottom x; g is a second bottom, or without one a parameter whose shape is that of ``num_axes`` axes of x (-1: of all
    from ``axis`` on; 0: one value). b is a parameter of g's shape. dx = dy g; dg = sum(dy x) and db = sum(dy) over the
    other axes. In place if wanted (not over a second bottom). Neither g nor b is prunable.

    Options: ``axis`` 1, ``num_axes`` 1, ``filler`` (of g: constant 1), ``bias_term`` false, ``bias_filler`` (constant
    0). Raises ShapeError where the axes of g are not those of x, ParameterError for a ``num_axes`` below -1.

    Example::

        layer { name: "scale1" type: "Scale" bottom: "bn1" top: "bn1" scale_param { bias_term: true } }

    Source: Caffe, src/caffe/layers/scale_layer.cpp.
    """

    min_bottoms = 1
    max_bottoms = 2
    exact_tops = 1
    inplace_ok = True

    def setup(self, bottom, top):
        p = self.param.scale_param
        self.own, self.bias_term = len(bottom) == 1, p.bias_term
        if not self.own:
            self.not_inplace(bottom[1:], top)
            shape = bottom[1].shape
        else:
            shape = own_shape(self, bottom[0], p.axis, p.num_axes)
            self.add_param(shape, constant(1, p.filler if p.HasField("filler") else None))
        if self.bias_term:
            self.add_param(shape, constant(0, p.bias_filler if p.HasField("bias_filler") else None))

    def reshape(self, bottom, top):
        g = self.blobs[0] if self.own else bottom[1]
        self.over = broadcast(self, bottom[0], g, self.param.scale_param.axis, self.own)
        top[0].reshape(bottom[0].shape)

    def input(self, bottom, top):
        """What backward reads: the bottom, or a copy of it where the top lies over it."""
        inplace = top[0] is bottom[0]
        return self.buffer("input", bottom[0].shape, for_backward=True) if inplace else bottom[0].data_mem

    def forward(self, bottom, top):
        x, g, over = bottom[0].data_mem, self.blobs[0] if self.own else bottom[1], self.over
        if top[0] is bottom[0]:
            self.ops.launch("copy", bottom[0].count, x, self.input(bottom, top))
        b = self.blobs[-1].data_mem if self.bias_term else g.data_mem
        args = (over.inner, over.channels, x, g.data_mem, b, int(self.bias_term), top[0].data_mem)
        self.ops.launch("scale_forward", over.outer * over.channels, *args, work=bottom[0].count)

    def backward(self, top, propagate_down, bottom):
        g, over, dy = self.blobs[0] if self.own else bottom[1], self.over, top[0].diff_mem
        gradients = []
        if self.param_propagate_down[0] if self.own else propagate_down[1]:
            gradients.append((1, int(self.own), g.diff_mem))
        if self.bias_term and self.param_propagate_down[-1]:
            gradients.append((0, 1, self.blobs[-1].diff_mem))
        if gradients:
            partial = self.ops.scratch((2 * over.channels * over.chunks,))
            x = self.input(bottom, top)
            sums = (*over.extents, x, partial, 0, dy, partial)
            rows = over.channels * over.chunks
            self.ops.launch_rows("channel_gradient_sums", rows, *sums, work=work_of_pieces(rows))
            for which, add, out in gradients:
                self.ops.launch("channel_gradient_add", over.channels, over.chunks, which, add, partial, out)
        if propagate_down[0]:
            args = (over.inner, over.channels, dy, g.data_mem, g.data_mem, 0, bottom[0].diff_mem)
            self.ops.launch("scale_forward", over.outer * over.channels, *args, work=bottom[0].count)
