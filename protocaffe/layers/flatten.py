"""Flatten."""

from __future__ import annotations

from ..errors import ParameterError
from ..layer import Layer, register


@register("Flatten")
class Flatten(Layer):
    """The axes ``axis`` to ``end_axis`` as one; values and gradients are shared, nothing is copied.

    Options: ``axis`` 1, ``end_axis`` -1; ParameterError if the end lies before the start.

    Example::

        layer { name: "flat" type: "Flatten" bottom: "pool5" top: "flat" }

    Source: Caffe, src/caffe/layers/flatten_layer.cpp.
    """

    exact_bottoms = 1
    exact_tops = 1

    def reshape(self, bottom, top):
        p, x = self.param.flatten_param, bottom[0]
        start, end = self.axis(x, p.axis), self.axis(x, p.end_axis)
        if end < start:
            self.fail(ParameterError, f"end_axis {p.end_axis} lies before axis {p.axis} of bottom {x.shape}")
        top[0].reshape(*x.shape[:start], x.count_range(start, end + 1), *x.shape[end + 1 :])
        top[0].share_data(x)
        top[0].share_diff(x)

    def forward(self, bottom, top):
        pass

    def backward(self, top, propagate_down, bottom):
        pass
