"""BatchNorm."""

from __future__ import annotations

import math

from ..errors import ParameterError, ShapeError
from ..layer import TEST, Layer, register
from .channels import chunks_of_images, work_of_pieces


@register("BatchNorm")
class BatchNorm(Layer):
    """y = (x - mean) / sqrt(variance + eps), for each channel (axis 1; a bottom with one axis is one channel).

    From the batch: mean and (biased) variance over all axes but the channels'; dx = (dy - mean(dy) - y mean(dy y)) /
    sqrt(variance + eps). With ``use_global_stats``: from the stored statistics; dx = dy / sqrt(variance + eps). Any
    shape from one axis on, in place if wanted. There is no scale and no shift: a Scale layer with ``bias_term`` adds
    them.

    Parameters, which are no weights (a solver leaves them alone): sum of means (C), sum of unbiased variances (C), and
    the number (1) by which both have to be divided. Each forward pass from the batch first multiplies all three by
    ``moving_average_fraction``, then adds mean, variance and 1.

    Options: ``use_global_stats`` (by default true in the TEST phase), ``moving_average_fraction`` 0.999, ``eps`` 1e-5.
    Raises ShapeError if the number of channels changes, ParameterError for a ``param`` with an ``lr_mult`` other than 0
    and for impossible options.

    Example::

        layer { name: "bn1" type: "BatchNorm" bottom: "conv1" top: "bn1" }
        layer { name: "scale1" type: "Scale" bottom: "bn1" top: "bn1" scale_param { bias_term: true } }

    Source: Ioffe and Szegedy 2015, arXiv 1502.03167; Caffe, src/caffe/layers/batch_norm_layer.cpp.
    """

    exact_bottoms = 1
    exact_tops = 1
    inplace_ok = True

    def setup(self, bottom, top):
        p = self.param.batch_norm_param
        self.eps, self.decay = p.eps, p.moving_average_fraction
        if not (0 <= self.decay <= 1 and 0 <= self.eps < math.inf):
            text = f"moving_average_fraction must be in [0, 1] and eps at least 0, got {self.decay} and {self.eps}"
            self.fail(ParameterError, text)
        self.stored = p.use_global_stats if p.HasField("use_global_stats") else self.phase == TEST
        self.channels = self._channels(bottom[0])
        for shape in ((self.channels,), (self.channels,), (1,)):
            self.add_param(shape, statistic=True)
        for i, spec in enumerate(self.param.param):
            if spec.HasField("lr_mult") and spec.lr_mult != 0:
                self.fail(ParameterError, f"param {i} is a statistic and cannot be learnt: lr_mult must be 0")
            spec.lr_mult = 0
        for _ in range(len(self.param.param), 3):
            self.param.param.add(lr_mult=0)

    @staticmethod
    def _channels(x):
        return 1 if x.num_axes == 1 else x.shape[1] if x.num_axes else 0

    def reshape(self, bottom, top):
        x = bottom[0]
        if not x.num_axes or self._channels(x) != self.channels:
            self.fail(ShapeError, f'bottom "{x.name}" must have {self.channels} channels (axis 1), got shape {x.shape}')
        self.images = x.shape[0] if x.num_axes > 1 else 1
        self.inner = x.count_range(2) if x.num_axes > 1 else x.count
        self.chunks = chunks_of_images(self.images, self.channels)
        top[0].reshape(x.shape)
        self.factors = self.buffer("factors", (2 * self.channels,))
        if not self.stored:
            self.sums = self.buffer("sums", (2 * self.channels,))
            self.partial = self.buffer("partial", (2 * self.channels * self.chunks,))

    def normalised(self, bottom, top):
        """What backward reads: the bottom, or a copy of the result, which a layer behind this one may write over."""
        inplace = top[0] is bottom[0]
        return self.buffer("normalised", bottom[0].shape, for_backward=True) if inplace else bottom[0].data_mem

    def statistics(self, ops, x):
        """Record on ``ops`` what makes ``factors``, and where they come from the batch ``x`` moves the stored ones."""
        running = [blob.data_mem for blob in self.blobs]
        if self.stored:
            ops.launch("channel_running", self.channels, *running, self.eps, self.factors)
            return
        extents = (self.chunks, self.images, self.channels, self.inner)
        rows = self.channels * self.chunks
        ops.launch_rows("channel_moments", rows, *extents, x, self.partial, work=work_of_pieces(rows))
        args = (self.chunks, self.images, self.inner, self.partial, self.eps, self.decay, self.factors, *running)
        ops.launch_rows("channel_statistics", self.channels, *args, work=128 * self.channels)

    def forward(self, bottom, top):
        x, y, rows = bottom[0].data_mem, top[0].data_mem, self.images * self.channels
        self.statistics(self.ops, x)
        args = (self.inner, self.channels, x, self.factors, y)
        self.ops.launch("batch_norm_forward", rows, *args, work=bottom[0].count)
        if top[0] is bottom[0] and not self.stored:
            self.ops.launch("copy", bottom[0].count, y, self.normalised(bottom, top))

    def backward(self, top, propagate_down, bottom):
        if not propagate_down[0]:
            return
        dy, dx, inplace = top[0].diff_mem, bottom[0].diff_mem, top[0] is bottom[0]
        x = dy if self.stored else self.normalised(bottom, top)
        sums = self.factors if self.stored else self.sums
        if not self.stored:
            extents = (self.chunks, self.images, self.channels, self.inner)
            args = (*extents, x, self.factors, int(not inplace), dy, self.partial)
            rows = self.channels * self.chunks
            self.ops.launch_rows("channel_gradient_sums", rows, *args, work=work_of_pieces(rows))
            count = float(max(1, self.images * self.inner))
            self.ops.launch("channel_gradient_means", self.channels, self.chunks, count, self.partial, self.sums)
        self.ops.launch(
            "batch_norm_backward", self.images * self.channels, self.inner, self.channels, x, int(inplace),
            self.factors, sums, int(not self.stored), dy, dx, work=bottom[0].count,
        )  # fmt: skip
