"""Reshape."""

from __future__ import annotations

from math import prod

from ..errors import ParameterError, ShapeError
from ..layer import Layer, register


@register("Reshape")
class Reshape(Layer):
    """The same values under another shape; data and diff are shared, nothing is copied.

    ``num_axes`` axes of the bottom from ``axis`` on (-1: all the rest; 0: none, axes are inserted) are replaced by
    ``shape``. In it 0 keeps the extent of the axis in the same place, and -1, at most once, is what is left over. A
    negative ``axis`` counts from behind the last: -1 appends.

    Options: ``shape``, ``axis`` 0, ``num_axes`` -1. Raises ParameterError for impossible options, ShapeError where the
    number of values would change.

    Example::

        layer { name: "rows" type: "Reshape" bottom: "conv" top: "rows" reshape_param { shape { dim: 0 dim: -1 } } }

    Source: Caffe, src/caffe/layers/reshape_layer.cpp.
    """

    exact_bottoms = 1
    exact_tops = 1

    def setup(self, bottom, top):
        p = self.param.reshape_param
        self.dims = [int(d) for d in p.shape.dim]
        if any(d < -1 for d in self.dims) or self.dims.count(-1) > 1:
            self.fail(ParameterError, f"shape may hold -1 once and else no negative extents, got {self.dims}")
        if p.num_axes < -1:
            self.fail(ParameterError, f"num_axes must be at least 0, or -1 for all from axis on, got {p.num_axes}")

    def reshape(self, bottom, top):
        p, x = self.param.reshape_param, bottom[0]
        start = p.axis if p.axis >= 0 else x.num_axes + p.axis + 1
        end = x.num_axes if p.num_axes == -1 else start + p.num_axes
        if not 0 <= start <= end <= x.num_axes:
            text = f'axis {p.axis} and num_axes {p.num_axes} must lie within bottom "{x.name}" {x.shape}'
            self.fail(ShapeError, text)
        dims = list(self.dims)
        for i, d in enumerate(dims):
            if d == 0:
                if start + i >= x.num_axes:
                    self.fail(ShapeError, f"shape {self.dims}: 0 in place {i} has no axis of bottom {x.shape} to keep")
                dims[i] = x.shape[start + i]
        around = (*x.shape[:start], *x.shape[end:])
        known = prod(around) * prod(d for d in dims if d != -1)
        if -1 in dims:
            if not known or x.count % known:
                self.fail(
                    ShapeError, f"shape {self.dims}: {x.count} values of bottom {x.shape} do not divide by {known}"
                )
            dims[dims.index(-1)] = x.count // known
        shape = (*x.shape[:start], *dims, *x.shape[end:])
        if prod(shape) != x.count:
            self.fail(ShapeError, f"bottom {x.shape} has {x.count} values, the top would have {shape}")
        top[0].reshape(*shape)
        top[0].share_data(x)
        top[0].share_diff(x)

    def forward(self, bottom, top):
        pass

    def backward(self, top, propagate_down, bottom):
        pass
