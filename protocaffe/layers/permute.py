"""Permute."""

from __future__ import annotations

from ..errors import ParameterError
from ..layer import register
from .views import View, steps_of


@register("Permute")
class Permute(View):
    """The bottom with its axes in another order: axis a of the top is axis ``order[a]`` of the bottom.

    Axes that ``order`` does not name follow in their own order. Up to eight axes.

    Options: ``order``. Raises ParameterError for an axis that is not there or comes twice.

    Example::

        layer { name: "nhwc" type: "Permute" bottom: "conv4_3_norm_mbox_loc" top: "nhwc"
                permute_param { order: 0 order: 2 order: 3 order: 1 } }

    Source: SSD's fork of Caffe, src/caffe/layers/permute_layer.cpp (Liu et al. 2016).
    """

    exact_bottoms = 1

    def reshape(self, bottom, top):
        x, given = bottom[0], [int(a) for a in self.param.permute_param.order]
        if len(set(given)) != len(given) or any(a >= x.num_axes for a in given):
            self.fail(ParameterError, f"order must name axes of bottom {x.shape}, each once, got {given}")
        order = given + [a for a in range(x.num_axes) if a not in given]
        steps = steps_of(x.shape)
        shape = [x.shape[a] for a in order]
        self.look(x, shape, [steps[a] for a in order])
        top[0].reshape(*shape)
