"""Pooling."""

from __future__ import annotations

import numpy as np

from ..errors import ParameterError, ShapeError
from ..layer import Layer, register


def pooled_extent(n: int, kernel: int, stride: int, pad: int, floor: bool, clip: bool) -> int:
    """Output extent: (n + 2 pad - kernel) / stride + 1, rounded up (or down). ``clip``, given where any axis is padded:
    the last window must start inside.

    >>> pooled_extent(5, 2, 2, 0, False, clip=False), pooled_extent(5, 2, 2, 0, True, clip=False)
    (3, 2)
    """
    span = n + 2 * pad - kernel
    out = (span // stride if floor else -(-span // stride)) + 1
    return out - 1 if clip and (out - 1) * stride >= n + pad else out


@register("Pooling")
class Pooling(Layer):
    """MAX: y = max over the window; AVE: y = sum over the window / its size (padding counted, as Caffe does).

    Bottom (N, C, H, W), top (N, C, H', W') with H' = ceil((H + 2 pad - kernel) / stride) + 1 (``round_mode`` FLOOR:
    floor), less 1 where pads would let the last window begin behind the input. With MAX a second top gives each
    maximum's place in its plane (y * W + x); of equal values the first wins.

    Options: ``pool`` MAX or AVE, ``kernel_size`` (or ``kernel_h``, ``kernel_w``), ``stride`` 1, ``pad`` 0,
    ``global_pooling``, ``round_mode`` CEIL (or FLOOR). Raises ParameterError for impossible options (STOCHASTIC pooling
    is not offered), ShapeError for a bottom without four axes.

    Example::

        layer { name: "pool1" type: "Pooling" bottom: "conv1" top: "pool1"
                pooling_param { pool: MAX kernel_size: 2 stride: 2 } }

    Source: Caffe, src/caffe/layers/pooling_layer.cpp.
    """

    exact_bottoms = 1
    min_tops = 1
    max_tops = 2

    def setup(self, bottom, top):
        p = self.param.pooling_param
        methods = p.DESCRIPTOR.enum_types_by_name["PoolMethod"].values_by_name
        if p.pool not in (methods["MAX"].number, methods["AVE"].number):
            self.fail(ParameterError, "pool must be MAX or AVE; STOCHASTIC pooling is not offered")
        self.is_max = p.pool == methods["MAX"].number
        if len(top) == 2 and not self.is_max:
            self.fail(ParameterError, "a second top (the places of the maxima) needs pool: MAX")
        sized = p.HasField("kernel_size") or p.HasField("kernel_h") or p.HasField("kernel_w")
        if p.global_pooling and sized:
            self.fail(ParameterError, "global_pooling takes the whole plane: give no kernel size with it")
        if not p.global_pooling and not (
            p.HasField("kernel_size") or (p.HasField("kernel_h") and p.HasField("kernel_w"))
        ):
            self.fail(ParameterError, "kernel_size (or kernel_h and kernel_w) must be given")

        def pair(size: str, h: str, w: str) -> tuple[int, int]:
            both = p.HasField(h) or p.HasField(w)
            if p.HasField(size) and both:
                self.fail(ParameterError, f"give either {size} or {h} and {w}, not both")
            if p.HasField(h) != p.HasField(w):
                self.fail(ParameterError, f"{h} and {w} go together")
            return (getattr(p, h), getattr(p, w)) if both else (getattr(p, size),) * 2

        self.kernel = pair("kernel_size", "kernel_h", "kernel_w")
        self.stride, self.pad = pair("stride", "stride_h", "stride_w"), pair("pad", "pad_h", "pad_w")
        if min(self.stride) < 1 or (not p.global_pooling and min(self.kernel) < 1):
            self.fail(ParameterError, f"kernel and stride must be at least 1, got {self.kernel} and {self.stride}")
        if p.global_pooling and (self.pad != (0, 0) or self.stride != (1, 1)):
            self.fail(ParameterError, f"global_pooling needs pad 0 and stride 1, got {self.pad} and {self.stride}")
        if not p.global_pooling and any(a >= k for a, k in zip(self.pad, self.kernel, strict=True)):
            self.fail(ParameterError, f"pad {self.pad} must be smaller than the kernel {self.kernel}")
        self.floor = p.round_mode == p.DESCRIPTOR.enum_types_by_name["RoundMode"].values_by_name["FLOOR"].number

    def reshape(self, bottom, top):
        if bottom[0].num_axes != 4:
            self.fail(ShapeError, f'bottom "{bottom[0].name}" must have 4 axes (N, C, H, W), got {bottom[0].shape}')
        n, c, *dims = bottom[0].shape
        kernel = tuple(dims) if self.param.pooling_param.global_pooling else self.kernel
        out = []
        for extent, k, s, p in zip(dims, kernel, self.stride, self.pad, strict=True):
            if extent + 2 * p < k:
                self.fail(ShapeError, f"kernel {kernel} is larger than the padded input, bottom {bottom[0].shape}")
            out.append(pooled_extent(extent, k, s, p, self.floor, clip=any(self.pad)))
        for t in top:
            t.reshape(n, c, *out)
        self.planes = n * c
        values = (*dims, *out, *kernel, *self.stride, *self.pad)
        names = ("h", "w", "oh", "ow", "kh", "kw", "sh", "sw", "ph", "pw")
        self.shape = dict(zip(names, values, strict=True))
        #: 2x2 windows at stride 2 that tile the plane have kernels of their own
        self.tiled = kernel == (2, 2) == self.stride and self.pad == (0, 0) and dims == [2 * o for o in out]
        if self.is_max:
            self.index = self.buffer("index", top[0].shape, np.int32, for_backward=True)

    def forward(self, bottom, top):
        x, y, count = bottom[0].data_mem, top[0].data_mem, top[0].count
        if not self.is_max:
            self.ops.launch("pooling_ave_forward", self.planes, self.shape, x, y, work=count)
            return
        if self.tiled:
            oh, ow = self.shape["oh"], self.shape["ow"]
            self.ops.launch_rows("pooling_max2_forward", self.planes, oh, ow, x, y, self.index)
        else:
            self.ops.launch("pooling_max_forward", self.planes, self.shape, x, y, self.index, work=count)
        if len(top) == 2:
            self.ops.launch("index_to_real", count, self.index, top[1].data_mem)

    def backward(self, top, propagate_down, bottom):
        if not propagate_down[0]:
            return
        dy, dx, count = top[0].diff_mem, bottom[0].diff_mem, bottom[0].count
        if not self.is_max:
            self.ops.launch("pooling_ave_backward", self.planes, self.shape, dy, dx, work=count)
        elif self.tiled:
            oh, ow = self.shape["oh"], self.shape["ow"]
            self.ops.launch_rows("pooling_max2_backward", self.planes, oh, ow, dy, self.index, dx)
        else:
            self.ops.launch("pooling_max_backward", self.planes, self.shape, dy, self.index, dx, work=count)
