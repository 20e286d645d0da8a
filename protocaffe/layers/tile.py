"""Tile."""

from __future__ import annotations

from ..errors import ParameterError
from ..layer import Layer, register


@register("Tile")
class Tile(Layer):
    """The bottom ``tiles`` times, one behind the other along an axis; dx = the sum of the copies' diffs.

    Options: ``axis`` 1, ``tiles`` (at least 1: ParameterError).

    Example::

        layer { name: "both" type: "Tile" bottom: "x" top: "both" tile_param { axis: 1 tiles: 2 } }

    Source: Caffe, src/caffe/layers/tile_layer.cpp.
    """

    exact_bottoms = 1
    exact_tops = 1

    def setup(self, bottom, top):
        self.tiles = self.param.tile_param.tiles
        if self.tiles < 1:
            self.fail(ParameterError, f"tiles must be given and at least 1, got {self.tiles}")

    def reshape(self, bottom, top):
        x = bottom[0]
        axis = self.axis(x, self.param.tile_param.axis)
        self.rows, self.cols = x.count_range(0, axis), x.count_range(axis)
        top[0].reshape(*x.shape[:axis], x.shape[axis] * self.tiles, *x.shape[axis + 1 :])

    def forward(self, bottom, top):
        args = (self.cols, self.tiles, bottom[0].data_mem, top[0].data_mem)
        self.ops.launch("tile_forward", self.rows * self.tiles, *args, work=top[0].count)

    def backward(self, top, propagate_down, bottom):
        if propagate_down[0]:
            args = (self.cols, self.tiles, top[0].diff_mem, bottom[0].diff_mem)
            self.ops.launch("tile_backward", self.rows, *args, work=bottom[0].count)
