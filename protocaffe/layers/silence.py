"""Silence."""

from __future__ import annotations

from ..layer import Layer, register


@register("Silence")
class Silence(Layer):
    """Takes any number of bottoms and does nothing with them; their gradient is 0.

    Example::

        layer { name: "quiet" type: "Silence" bottom: "unused" }

    Source: Caffe, src/caffe/layers/silence_layer.cpp.
    """

    min_bottoms = 1
    exact_tops = 0

    def reshape(self, bottom, top):
        pass

    def forward(self, bottom, top):
        pass

    def backward(self, top, propagate_down, bottom):
        for b, down in zip(bottom, propagate_down, strict=True):
            if down:
                self.ops.launch("fill", b.count, b.diff_mem, 0.0)
