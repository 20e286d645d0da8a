"""Eltwise."""

from __future__ import annotations

import numpy as np

from ..errors import ParameterError, ShapeError
from ..layer import Layer, register


@register("Eltwise")
class Eltwise(Layer):
    """SUM: y = sum_i coeff_i x_i; PROD: y = prod_i x_i; MAX: y = max_i x_i, element by element.

    Two bottoms or more, all of one shape. Gradients: SUM dx_i = coeff_i dy; PROD dx_i = dy prod_{j != i} x_j (with
    ``stable_prod_grad: false`` dy y / x_i: fewer products, wrong where x_i is 0); MAX dx_i = dy where x_i is the
    largest. Of equal values the second of the first two bottoms is taken as the largest, later ones only if larger.

    Options: ``operation`` SUM, ``coeff`` (all 1; SUM only), ``stable_prod_grad`` true. Raises ShapeError for bottoms of
    different shapes, ParameterError for ``coeff`` in another number than bottoms, or with PROD (MAX ignores it).

    Example::

        layer { name: "sum" type: "Eltwise" bottom: "branch1" bottom: "branch2" top: "sum" }

    Source: Caffe, src/caffe/layers/eltwise_layer.cpp.
    """

    min_bottoms = 2
    exact_tops = 1

    def setup(self, bottom, top):
        p = self.param.eltwise_param
        operations = p.DESCRIPTOR.enum_types_by_name["EltwiseOp"].values_by_number
        self.operation = operations[p.operation].name
        if p.coeff and self.operation == "PROD":
            self.fail(ParameterError, "coeff is for SUM, the operation is PROD")
        if p.coeff and len(p.coeff) != len(bottom):
            self.fail(ParameterError, f"coeff must be given for none or all {len(bottom)} bottoms, got {len(p.coeff)}")
        self.coeff = list(p.coeff) or [1.0] * len(bottom)
        self.stable = p.stable_prod_grad

    def reshape(self, bottom, top):
        for i, b in enumerate(bottom):
            if b.shape != bottom[0].shape:
                text = f'bottom {i} "{b.name}" must have the shape of bottom 0 {bottom[0].shape}, got {b.shape}'
                self.fail(ShapeError, text)
        top[0].reshape(bottom[0].shape)
        if self.operation == "MAX":
            self.winner = self.buffer("winner", bottom[0].shape, np.int32, for_backward=True)

    def forward(self, bottom, top):
        n, y, launch = bottom[0].count, top[0].data_mem, self.ops.launch
        first, second, *more = (b.data_mem for b in bottom)
        if self.operation == "SUM":
            launch("eltwise_sum", n, first, second, *self.coeff[:2], y)
            for coeff, x in zip(self.coeff[2:], more, strict=True):
                launch("axpy", n, coeff, x, y)
        elif self.operation == "PROD":
            launch("eltwise_prod", n, first, second, y)
            for x in more:
                launch("eltwise_prod", n, y, x, y)
        else:
            launch("eltwise_max", n, first, second, y, self.winner)
            for i, x in enumerate(more, start=2):
                launch("eltwise_max_more", n, x, i, y, self.winner)

    def backward(self, top, propagate_down, bottom):
        n, dy = top[0].count, top[0].diff_mem
        for i, (b, wanted) in enumerate(zip(bottom, propagate_down, strict=True)):
            if not wanted:
                continue
            if self.operation == "SUM":
                self.ops.launch("scale_into", n, self.coeff[i], dy, b.diff_mem)
            elif self.operation == "MAX":
                self.ops.launch("eltwise_max_backward", n, dy, self.winner, i, b.diff_mem)
            elif self.stable:
                factor = dy
                for j, other in enumerate(bottom):
                    if j != i:
                        self.ops.launch("eltwise_prod", n, factor, other.data_mem, b.diff_mem)
                        factor = b.diff_mem
            else:
                self.ops.launch("eltwise_prod_quotient", n, b.data_mem, top[0].data_mem, dy, b.diff_mem)
