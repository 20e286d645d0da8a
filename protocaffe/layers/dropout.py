"""Dropout."""

from __future__ import annotations

import numpy as np

from ..errors import ParameterError
from ..layer import TRAIN, Layer, register


@register("Dropout")
class Dropout(Layer):
    """TRAIN: y = x / (1 - dropout_ratio) where kept, else 0; each value is dropped with probability dropout_ratio.
    TEST: y = x.

    The draws are a function of net seed, layer name and forward pass, so a resumed run repeats them. Any shape, in
    place if wanted. Options: ``dropout_ratio`` 0.5, at least 0 and below 1 (ParameterError).

    Example::

        layer { name: "drop6" type: "Dropout" bottom: "fc6" top: "fc6" dropout_param { dropout_ratio: 0.5 } }

    Source: Caffe, src/caffe/layers/dropout_layer.cpp; Srivastava et al. 2014; Philox: Salmon et al. 2011.
    """

    exact_bottoms = 1
    exact_tops = 1
    inplace_ok = True
    uses_random = True

    def setup(self, bottom, top):
        self.ratio = self.param.dropout_param.dropout_ratio
        if not 0 <= self.ratio < 1:
            self.fail(ParameterError, f"dropout_ratio must be at least 0 and below 1, got {self.ratio}")

    def reshape(self, bottom, top):
        top[0].reshape(bottom[0].shape)
        if self.phase == TRAIN:
            self.keep = self.buffer("keep", bottom[0].shape, np.uint8)

    def forward(self, bottom, top):
        x, y, n = bottom[0].data_mem, top[0].data_mem, bottom[0].count
        if self.phase == TRAIN:
            self.ops.launch("dropout_mask", n, self.random_key, self.forward_count, self.ratio, self.keep)
            self.ops.launch("dropout_apply", n, x, self.keep, 1 / (1 - self.ratio), y)
        elif top[0] is not bottom[0]:
            self.ops.launch("copy", n, x, y)

    def backward(self, top, propagate_down, bottom):
        if not propagate_down[0]:
            return
        dy, dx, n = top[0].diff_mem, bottom[0].diff_mem, bottom[0].count
        if self.phase == TRAIN:
            self.ops.launch("dropout_apply", n, dy, self.keep, 1 / (1 - self.ratio), dx)
        elif top[0] is not bottom[0]:
            self.ops.launch("copy", n, dy, dx)
