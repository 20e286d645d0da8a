"""ArgMax."""

from __future__ import annotations

from ..errors import ParameterError, ShapeError
from ..layer import Layer, register


@register("ArgMax")
class ArgMax(Layer):
    """The places of the ``top_k`` largest values, in order; of equal values the larger place comes first, NaN counts as
    the largest number. No gradient.

    Bottom (N, ...). Without ``axis`` each of the N items is searched as a whole: top (N, 1, top_k, 1...) holds places,
    with ``out_max_val`` (N, 2, top_k, 1...) places and then values; it has as many axes as the bottom, at least 3.
    With ``axis`` the top is the bottom's shape with top_k in place of that axis and holds places, with ``out_max_val``
    values instead.

    Options: ``out_max_val`` false, ``top_k`` 1, ``axis`` none (negative: from the end). Raises ParameterError for a
    top_k below 1 or above the number of values, ShapeError for an axis that the bottom does not have.

    Example::

        layer { name: "class" type: "ArgMax" bottom: "score" top: "class" argmax_param { axis: 1 } }

    Source: Caffe, src/caffe/layers/argmax_layer.cpp.
    """

    exact_bottoms = 1
    exact_tops = 1

    def reshape(self, bottom, top):
        x, p = bottom[0], self.param.argmax_param
        if not x.num_axes:
            self.fail(ShapeError, f'bottom "{x.name}" must have at least 1 axis, got {x.shape}')
        k = p.top_k
        if p.HasField("axis"):
            axis = self.axis(x, p.axis)
            outer, self.channels, self.inner = x.count_range(0, axis), x.shape[axis], x.count_range(axis + 1)
            shape = [*x.shape]
            shape[axis] = k
            self.index_at, self.value_at = (-1, 0) if p.out_max_val else (0, -1)
        else:
            outer, self.channels, self.inner = x.shape[0], x.count_range(1), 1
            shape = [outer, 2 if p.out_max_val else 1, k, *[1] * (x.num_axes - 3)]
            self.index_at, self.value_at = 0, k if p.out_max_val else -1
        if not 1 <= k <= self.channels:
            self.fail(ParameterError, f"top_k must be 1 to the number of values {self.channels}, got {k}")
        top[0].reshape(*shape)
        self.rows = outer * self.inner
        #: what a row, or the rows that share their outer index, take up in the top
        self.block = top[0].count // max(1, outer)

    def forward(self, bottom, top):
        self.ops.launch(
            "arg_max_rows", self.rows, self.channels, self.inner, self.param.argmax_param.top_k, self.block, self.inner,
            self.index_at, self.value_at, bottom[0].data_mem, top[0].data_mem,
        )  # fmt: skip

    def allow_force_backward(self, index):
        return False
