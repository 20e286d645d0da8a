"""EuclideanLoss."""

from __future__ import annotations

from ..errors import ShapeError
from ..layer import Layer, register
from .chunked import chunks_of


@register("EuclideanLoss")
class EuclideanLoss(Layer):
    """L = sum (a - b)^2 / (2 N); da = (a - b) loss weight / N, db = -da.

    Bottoms: a and b, as many values in each of the N items; top: the loss, of shape (). Either bottom may be the
    target: both have gradients. N = 0 gives 0.

    Options: none. Raises ShapeError for bottoms that do not go together.

    Example::

        layer { name: "loss" type: "EuclideanLoss" bottom: "prediction" bottom: "target" top: "loss" }

    Source: Caffe, src/caffe/layers/euclidean_loss_layer.cpp.
    """

    exact_bottoms = 2
    exact_tops = 1
    auto_top = True
    default_loss_weight = 1.0

    def reshape(self, bottom, top):
        a, b = bottom
        if not a.num_axes or not b.num_axes or a.shape[0] != b.shape[0] or a.count != b.count:
            self.fail(
                ShapeError,
                f'bottoms "{a.name}" and "{b.name}" must have the same number of items (axis 0) and of values, '
                f"got {a.shape} and {b.shape}",
            )
        top[0].reshape(())
        self.items = max(1, a.shape[0])
        self.chunks = chunks_of(a.count)
        self.partial = self.buffer("partial", (self.chunks,))
        self.normalizer = self.buffer("normalizer", (1,))

    def forward(self, bottom, top):
        a, b = bottom
        self.ops.launch_rows("euclidean_loss_chunks", self.chunks, a.count, a.data_mem, b.data_mem, self.partial)
        args = (self.chunks, self.partial, self.partial, float(self.items), self.normalizer, top[0].data_mem)
        self.ops.launch_rows("loss_mean", 1, *args)

    def backward(self, top, propagate_down, bottom):
        a, b = bottom
        for blob, sign, wanted in zip(bottom, (1, -1), propagate_down, strict=True):
            if wanted:
                args = (a.data_mem, b.data_mem, sign / self.items, top[0].diff_mem, blob.diff_mem)
                self.ops.launch("euclidean_loss_backward", a.count, *args)
