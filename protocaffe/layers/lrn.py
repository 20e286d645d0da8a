"""LRN."""

from __future__ import annotations

from ..errors import ParameterError, ShapeError
from ..layer import Layer, register

#: pixels that a row of the kernels takes through all channels: a tile of a hundred channels stays in the cache
WIDTH = 256


@register("LRN")
class LRN(Layer):
    """y = x s^-beta. ACROSS_CHANNELS: s = k + alpha / n sum of x^2 over n neighbouring channels; WITHIN_CHANNEL: s = 1
    + alpha / n^2 sum of x^2 over n x n neighbouring pixels. Beyond the border is 0.

    dx_i = dy_i s_i^-beta - 2 a beta x_i sum over the window around i of dy_j y_j / s_j, with a = alpha / n or
    alpha / n^2. Bottom and top (N, C, H, W).

    Options: ``local_size`` n, 5, odd; ``alpha`` 1, ``beta`` 0.75, ``k`` 1 (ACROSS_CHANNELS only, as in Caffe),
    ``norm_region`` ACROSS_CHANNELS. Raises ParameterError for an even size, ShapeError for a bottom without four axes.

    Example::

        layer { name: "norm1" type: "LRN" bottom: "pool1" top: "norm1"
                lrn_param { local_size: 5 alpha: 1e-4 beta: 0.75 } }

    Source: Krizhevsky, Sutskever and Hinton 2012; Caffe, src/caffe/layers/lrn_layer.cpp.
    """

    exact_bottoms = 1
    exact_tops = 1

    def setup(self, bottom, top):
        p = self.param.lrn_param
        if p.local_size % 2 == 0:
            self.fail(ParameterError, f"local_size must be odd, got {p.local_size}")
        self.across = p.NormRegion.Name(p.norm_region) == "ACROSS_CHANNELS"
        self.half, self.beta = p.local_size // 2, p.beta
        self.k = p.k if self.across else 1.0
        self.a = p.alpha / p.local_size ** (1 if self.across else 2)

    def reshape(self, bottom, top):
        if bottom[0].num_axes != 4:
            self.fail(ShapeError, f'bottom "{bottom[0].name}" must have 4 axes (N, C, H, W), got {bottom[0].shape}')
        n, c, h, w = bottom[0].shape
        top[0].reshape(bottom[0].shape)
        self.scale = self.buffer("scale", bottom[0].shape, for_backward=True)
        #: name of the kernels, rows, and the arguments that give extents
        self.region, self.rows = "within", n * c
        #: a window that reaches beyond every border takes the whole plane, however wide it is
        reach = min(self.half, max(h, w))
        self.extents: tuple[int, ...] = (h, w, reach)
        #: sums down the columns, with zeros around each line
        self.column = n * c * h * (w + 2 * reach)
        #: elements of all rows, for four of which a thread is worth it
        self.lanes: int | None = None
        if self.across:
            self.region, self.rows = "across", n * -(-h * w // WIDTH)
            self.extents = (c, h * w, WIDTH, self.half)
            self.lanes = 4 * self.rows * min(WIDTH, h * w)

    def forward(self, bottom, top):
        form = (self.k, self.a, self.beta, int(self.beta == 0.75))
        room = [] if self.across else [self.ops.scratch((self.column,))]
        args = (*self.extents, *form, bottom[0].data_mem, *room, self.scale, top[0].data_mem)
        self.ops.launch_rows(f"lrn_{self.region}_forward", self.rows, *args, work=self.lanes)

    def backward(self, top, propagate_down, bottom):
        if propagate_down[0]:
            self.gradient(self.ops, bottom[0], top[0])

    def gradient(self, ops, bottom, top, relu=False):
        """Record dx; with ``relu`` (ACROSS_CHANNELS only) 0 where x is not above 0, as a ReLU in place leaves it."""
        form, count = (self.a, self.beta, int(self.beta == 0.75)), bottom.count
        values = (bottom.data_mem, self.scale, top.data_mem, top.diff_mem)
        if self.across:
            args = (*self.extents, self.k, *form, int(relu), *values, ops.scratch((count,)), bottom.diff_mem)
        else:
            both = ops.scratch((count + self.column,))
            args = (*self.extents, *form, *values, both.at(0, count), both.at(count, self.column), bottom.diff_mem)
        ops.launch_rows(f"lrn_{self.region}_backward", self.rows, *args, work=self.lanes)
