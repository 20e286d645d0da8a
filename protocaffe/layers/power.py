"""Power."""

from __future__ import annotations

from ..layer import Layer, register


@register("Power")
class Power(Layer):
    """y = (shift + scale x)^power, dx = dy power scale (shift + scale x)^(power - 1); any shape.

    In place if wanted: a power other than 1 then keeps a copy of its input for the gradient (Caffe's own in-place
    gradient is wrong). The power of a negative number is NaN unless ``power`` is whole; power 0 gives 1 everywhere.

    Options: ``power`` 1, ``scale`` 1, ``shift`` 0.

    Example::

        layer { name: "square" type: "Power" bottom: "ip1" top: "square" power_param { power: 2 scale: 0.5 } }

    Source: Caffe, src/caffe/layers/power_layer.cpp.
    """

    exact_bottoms = 1
    exact_tops = 1
    inplace_ok = True

    def setup(self, bottom, top):
        p = self.param.power_param
        self.power, self.scale, self.shift = p.power, p.scale, p.shift
        self.slope = p.power * p.scale
        self.keep = top[0] is bottom[0] and p.power != 1 and self.slope != 0

    def reshape(self, bottom, top):
        top[0].reshape(bottom[0].shape)
        self.kept = self.buffer("kept", bottom[0].shape) if self.keep else None

    def forward(self, bottom, top):
        n, x = bottom[0].count, bottom[0].data_mem
        if self.kept is not None:
            self.ops.launch("copy", n, x, self.kept)
        self.ops.launch("power_forward", n, x, top[0].data_mem, self.power, self.scale, self.shift)

    def backward(self, top, propagate_down, bottom):
        if not propagate_down[0]:
            return
        n, dy, dx = bottom[0].count, top[0].diff_mem, bottom[0].diff_mem
        if self.slope == 0:
            self.ops.launch("fill", n, dx, 0.0)
        elif self.power == 1:
            self.ops.launch("scale_into", n, self.slope, dy, dx)
        else:
            x = bottom[0].data_mem if self.kept is None else self.kept
            self.ops.launch("power_backward", n, x, dy, dx, self.power, self.scale, self.shift)
