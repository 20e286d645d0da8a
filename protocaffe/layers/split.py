"""Split."""

from __future__ import annotations

from ..layer import Layer, register


@register("Split")
class Split(Layer):
    """Every top is the bottom (no copy); dx = sum of the tops' diffs. Nets insert it where a blob has several readers.

    Example::

        layer { name: "twice" type: "Split" bottom: "x" top: "x1" top: "x2" }

    Source: Caffe, src/caffe/layers/split_layer.cpp.
    """

    exact_bottoms = 1
    min_tops = 1

    def reshape(self, bottom, top):
        for t in top:
            t.reshape(bottom[0].shape)
            t.share_data(bottom[0])

    def forward(self, bottom, top):
        pass

    def backward(self, top, propagate_down, bottom):
        if not propagate_down[0]:
            return
        n, dx = bottom[0].count, bottom[0].diff_mem
        if len(top) == 1:
            self.ops.launch("copy", n, top[0].diff_mem, dx)
            return
        self.ops.launch("add", n, top[0].diff_mem, top[1].diff_mem, dx)
        for t in top[2:]:
            self.ops.launch("axpy", n, 1.0, t.diff_mem, dx)
