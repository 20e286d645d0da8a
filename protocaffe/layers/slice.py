"""Slice."""

from __future__ import annotations

from itertools import pairwise

from ..errors import ParameterError, ShapeError
from ..layer import Layer, register
from .concat import copy_rows


@register("Slice")
class Slice(Layer):
    """The bottom cut along an axis, a piece for each top; what Concat puts together.

    Without ``slice_point`` the pieces are equal; with it, one point fewer than tops, piece i goes from point i - 1 to
    point i. A single top is shared, not copied. dx is the tops' diffs one behind the other.

    Options: ``axis`` 1, or its old name ``slice_dim`` (not both: ParameterError), ``slice_point``. Raises ShapeError
    where the axis does not divide evenly or points do not rise from above 0 to below the extent.

    Example::

        layer { name: "cut" type: "Slice" bottom: "pair" top: "left" top: "right" slice_param { slice_point: 3 } }

    Source: Caffe, src/caffe/layers/slice_layer.cpp.
    """

    exact_bottoms = 1
    min_tops = 1

    def setup(self, bottom, top):
        p = self.param.slice_param
        if p.HasField("axis") and p.HasField("slice_dim"):
            self.fail(ParameterError, "give either axis or slice_dim (its old name), not both")
        if p.slice_point and len(p.slice_point) != len(top) - 1:
            text = f"slice_point must be given once less than there are tops ({len(top)}), got {list(p.slice_point)}"
            self.fail(ParameterError, text)

    def reshape(self, bottom, top):
        p, x = self.param.slice_param, bottom[0]
        axis = self.axis(x, p.slice_dim if p.HasField("slice_dim") else p.axis)
        extent, pieces = x.shape[axis], len(top)
        if not p.slice_point and extent % pieces:
            self.fail(ShapeError, f"axis {axis} of bottom {x.shape} must divide into {pieces} equal pieces")
        points = list(p.slice_point) or [extent // pieces * i for i in range(1, pieces)]
        if p.slice_point and any(a >= b for a, b in pairwise([0, *points, extent])):
            self.fail(ShapeError, f"slice_point must rise from above 0 to below {extent}, got {points}")
        inner = x.count_range(axis + 1)
        self.rows, self.width = x.count_range(0, axis), extent * inner
        self.parts = [(a * inner, (b - a) * inner) for a, b in pairwise([0, *points, extent])]
        for t, (_, cols) in zip(top, self.parts, strict=True):
            t.reshape(*x.shape[:axis], cols // inner if inner else 0, *x.shape[axis + 1 :])
        if pieces == 1:
            top[0].share_data(x)
            top[0].share_diff(x)

    def forward(self, bottom, top):
        if len(top) > 1:
            for t, (start, cols) in zip(top, self.parts, strict=True):
                x = bottom[0].data_mem.at(start, self.rows, cols)
                copy_rows(self.ops, self.rows, cols, x, self.width, t.data_mem, cols)

    def backward(self, top, propagate_down, bottom):
        if len(top) > 1 and propagate_down[0]:
            for t, (start, cols) in zip(top, self.parts, strict=True):
                dx = bottom[0].diff_mem.at(start, self.rows, cols)
                copy_rows(self.ops, self.rows, cols, t.diff_mem, cols, dx, self.width)
