"""Strided convolutions of few channels, as the first of a net for photos is, as convolutions of stride 1.

A cell of stride x stride pixels of a channel becomes as many channels of one pixel, and a kernel of K x K one of
ceil(K / stride) squared, with zeros behind its end: AlexNet's 11x11 of 3 channels at stride 4 is a 3x3 of 48 channels,
19 % more multiplications in a shape for which fast kernels exist. (The transformation is known as space to depth.)
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ..memory import Memory

#: channels up to which it is worth a trial
_FEW = 4


def applies(step: str, shape: Any) -> bool:
    """Whether a step can be computed so, and may be faster."""
    if shape.window2d is None or step == "backward_data" or shape.group > 1 or max(shape.dilation) > 1:
        return False
    return min(shape.stride) > 1 and shape.channels <= _FEW


class DepthConvolution:
    """Records the steps; ``shape`` is a layers.convolution.ConvShape."""

    def __init__(self, ops: Any, shape: Any) -> None:
        self.ops, self.s = ops, shape
        (sh, sw), (kh, kw), (oh, ow) = shape.stride, shape.kernel, shape.out_dims
        taps = -(-kh // sh), -(-kw // sw)
        cells = oh + taps[0] - 1, ow + taps[1] - 1
        self.inner = replace(
            shape, channels=shape.channels * sh * sw, in_dims=cells, kernel=taps, stride=(1, 1), pad=(0, 0),
            engine="CUDNN",
        )  # fmt: skip
        (h, w), (ph, pw) = shape.in_dims, shape.pad
        self._fields = {
            "channels": shape.channels, "h": h, "w": w, "sh": sh, "sw": sw, "ph": ph, "pw": pw, "cells_h": cells[0],
            "cells_w": cells[1], "kh": kh, "kw": kw, "taps_h": taps[0], "taps_w": taps[1],
        }  # fmt: skip

    def _images(self, x: Memory) -> Memory:
        s = self.inner
        deep = self.ops.backend.empty((s.images, s.channels, *s.in_dims))
        self.ops.launch("depth_images", s.images, self._fields, x, deep, work=deep.count)
        return deep

    def forward(self, x: Memory, w: Memory, bias: Memory | None, y: Memory, relu: bool = False) -> None:
        """y = W * x + b, with ``relu`` max(0, that)."""
        s = self.inner
        weights = self.ops.backend.empty((s.num_output, s.channels, *s.kernel))
        self.ops.launch("depth_weights", s.num_output, self._fields, w, weights, work=weights.count)
        self.ops.conv_forward(s, self._images(x), weights, bias, y, relu)

    def backward_weights(self, x: Memory, dy: Memory, dw: Memory, db: Memory | None) -> None:
        """dw += gradient of the weights, db += of the bias."""
        s = self.inner
        deep = self.ops.backend.empty((s.num_output, s.channels, *s.kernel))
        self.ops.launch("fill", deep.count, deep, 0.0)
        self.ops.conv_backward_weights(s, self._images(x), dy, deep, db)
        self.ops.launch("depth_gradient", s.num_output, self._fields, deep, dw, work=dw.count)
