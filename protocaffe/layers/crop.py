"""Crop."""

from __future__ import annotations

from ..errors import NetError, ParameterError, ShapeError
from ..layer import register
from .views import View, steps_of


@register("Crop")
class Crop(View):
    """The part of bottom 0 that has bottom 1's extents from ``axis`` on, beginning at ``offset``.

    Bottom 1 gives its shape only, and gets no gradient; dx is dy in the part that was taken, else 0. Up to eight axes.

    Options: ``axis`` 2, ``offset`` 0: one for all these axes or one for each. Raises ShapeError where bottom 0 does not
    hold the part, ParameterError for another number of offsets.

    Example::

        layer { name: "score" type: "Crop" bottom: "upscore" bottom: "data" top: "score"
                crop_param { axis: 2 offset: 19 } }

    Source: Caffe, src/caffe/layers/crop_layer.cpp.
    """

    exact_bottoms = 2

    def allow_force_backward(self, index):
        return index == 0

    def reshape(self, bottom, top):
        (x, like), p = bottom, self.param.crop_param
        axis = self.axis(x, p.axis)
        cropped = x.num_axes - axis
        if like.num_axes != x.num_axes:
            self.fail(ShapeError, f'bottom 1 "{like.name}" must have {x.num_axes} axes as bottom 0, got {like.shape}')
        if len(p.offset) not in (0, 1, cropped):
            text = f"offset must be given once, or once for each of the {cropped} axes from {axis} on"
            self.fail(ParameterError, f"{text}, got {list(p.offset)}")
        given = list(p.offset) or [0]
        offsets = [0] * axis + (given if len(given) == cropped else given * cropped)
        shape = (*x.shape[:axis], *like.shape[axis:])
        for a in range(axis, x.num_axes):
            if offsets[a] + shape[a] > x.shape[a]:
                text = f"axis {a}: offset {offsets[a]} + {shape[a]} values of bottom 1 {like.shape}"
                self.fail(ShapeError, f"{text} go beyond bottom 0 {x.shape}")
        steps = steps_of(x.shape)
        self.look(x, shape, steps, sum(o * s for o, s in zip(offsets, steps, strict=True)))
        top[0].reshape(*shape)

    def backward(self, top, propagate_down, bottom):
        if propagate_down[1]:
            self.fail(NetError, f'bottom 1 "{bottom[1].name}" gives a shape and gets no gradient')
        super().backward(top, propagate_down, bottom)
