"""AbsVal."""

from __future__ import annotations

from ..layer import Layer, register


@register("AbsVal")
class AbsVal(Layer):
    """y = |x|, dx = dy sign(x), 0 at 0; any shape, not in place.

    Example::

        layer { name: "abs" type: "AbsVal" bottom: "ip1" top: "abs" }

    Source: Caffe, src/caffe/layers/absval_layer.cpp.
    """

    exact_bottoms = 1
    exact_tops = 1

    def reshape(self, bottom, top):
        top[0].reshape(bottom[0].shape)

    def forward(self, bottom, top):
        self.ops.launch("abs_val_forward", bottom[0].count, bottom[0].data_mem, top[0].data_mem)

    def backward(self, top, propagate_down, bottom):
        if propagate_down[0]:
            args = (bottom[0].data_mem, top[0].diff_mem, bottom[0].diff_mem)
            self.ops.launch("abs_val_backward", bottom[0].count, *args)
