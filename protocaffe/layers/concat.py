"""Concat."""

from __future__ import annotations

from ..errors import ParameterError, ShapeError
from ..layer import Layer, register


def copy_rows(ops, rows, cols, x, from_stride, y, to_stride):
    """Record y[r, :cols] = x[r, :cols] for rows that lie ``from_stride`` and ``to_stride`` elements apart."""
    if rows == 1 or cols == from_stride == to_stride:
        ops.launch("copy", rows * cols, x, y)
    else:
        ops.launch("copy_rows", rows, cols, x, from_stride, y, to_stride, work=rows * cols)


@register("Concat")
class Concat(Layer):
    """The bottoms one behind the other along an axis: N x (C1 + C2 + ...) x H x W with ``axis`` 1.

    All bottoms have the same extents but along the axis; a single one is shared, not copied. dx_i is the part of dy
    that came from x_i.

    Options: ``axis`` 1, or its old name ``concat_dim`` (not both: ParameterError). Raises ShapeError where other
    extents differ.

    Example::

        layer { name: "join" type: "Concat" bottom: "branch1" bottom: "branch2" top: "join" }

    Source: Caffe, src/caffe/layers/concat_layer.cpp.
    """

    min_bottoms = 1
    exact_tops = 1

    def setup(self, bottom, top):
        p = self.param.concat_param
        if p.HasField("axis") and p.HasField("concat_dim"):
            self.fail(ParameterError, "give either axis or concat_dim (its old name), not both")

    def reshape(self, bottom, top):
        p, x = self.param.concat_param, bottom[0]
        axis = self.axis(x, p.concat_dim if p.HasField("concat_dim") else p.axis)
        for i, b in enumerate(bottom):
            if b.num_axes != x.num_axes or b.shape[:axis] + b.shape[axis + 1 :] != x.shape[:axis] + x.shape[axis + 1 :]:
                text = f'bottom {i} "{b.name}" must have the shape of bottom 0 {x.shape} but for axis {axis}'
                self.fail(ShapeError, f"{text}, got {b.shape}")
        self.rows = x.count_range(0, axis)
        self.cols = [b.count_range(axis) for b in bottom]
        top[0].reshape(*x.shape[:axis], sum(b.shape[axis] for b in bottom), *x.shape[axis + 1 :])
        if len(bottom) == 1:
            top[0].share_data(x)
            top[0].share_diff(x)

    def _parts(self, bottom):
        start = 0
        for b, cols in zip(bottom, self.cols, strict=True):
            yield b, start, cols
            start += cols

    def forward(self, bottom, top):
        if len(bottom) > 1:
            for b, start, cols in self._parts(bottom):
                y = top[0].data_mem.at(start, self.rows, cols)
                copy_rows(self.ops, self.rows, cols, b.data_mem, cols, y, sum(self.cols))

    def backward(self, top, propagate_down, bottom):
        if len(bottom) > 1:
            for (b, start, cols), wanted in zip(self._parts(bottom), propagate_down, strict=True):
                if wanted:
                    dy = top[0].diff_mem.at(start, self.rows, cols)
                    copy_rows(self.ops, self.rows, cols, dy, sum(self.cols), b.diff_mem, cols)
