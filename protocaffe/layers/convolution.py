"""Convolution."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from math import prod
from typing import Any

from ..errors import ParameterError, ShapeError
from ..layer import Layer, register

MAX_SPATIAL = 6


@dataclass(frozen=True)
class ConvShape:
    """The extents of a convolution: ``images`` x ``channels`` x ``in_dims`` to ``num_output`` x ``out_dims``."""

    images: int
    channels: int
    num_output: int
    group: int
    in_dims: tuple[int, ...]
    out_dims: tuple[int, ...]
    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    pad: tuple[int, ...]
    dilation: tuple[int, ...]
    generic: bool = False
    #: "DEFAULT" (the device's faster one), "CAFFE" (im2col and GEMM) or "CUDNN"
    engine: str = "DEFAULT"

    @property
    def pixels(self) -> int:
        """Output positions of one channel."""
        return prod(self.out_dims)

    @property
    def in_count(self) -> int:
        """Values of one input image."""
        return self.channels * prod(self.in_dims)

    @property
    def out_count(self) -> int:
        """Values of one output image."""
        return self.num_output * self.pixels

    @property
    def kernel_dim(self) -> int:
        """Rows of a group's columns."""
        return self.channels // self.group * prod(self.kernel)

    @property
    def out_group(self) -> int:
        """Output channels of a group."""
        return self.num_output // self.group

    @property
    def is_pointwise(self) -> bool:
        """1x1, stride 1, no padding: the image is its own columns."""
        return all(k == 1 and s == 1 and p == 0 for k, s, p in zip(self.kernel, self.stride, self.pad, strict=True))

    @cached_property
    def window2d(self) -> dict[str, int] | None:
        """Fields of the two-dimensional im2col kernel; None for other numbers of axes."""
        if len(self.kernel) != 2 or self.generic:
            return None
        names = ("h", "w", "oh", "ow", "kh", "kw", "sh", "sw", "ph", "pw", "dh", "dw")
        pairs = (self.in_dims, self.out_dims, self.kernel, self.stride, self.pad, self.dilation)
        return dict(zip(names, (v for pair in pairs for v in pair), strict=True)) | {"channels": self.channels}

    @cached_property
    def window_nd(self) -> dict[str, Any]:
        """Fields of the N-dimensional im2col kernel."""
        return {
            "axes": len(self.kernel), "channels": self.channels, "in": self.in_dims, "out": self.out_dims,
            "kernel": self.kernel, "stride": self.stride, "pad": self.pad, "dilation": self.dilation,
        }  # fmt: skip

    @cached_property
    def conv2d(self) -> dict[str, int] | None:
        """Fields for a backend's own 1-D and 2-D convolution; None where the generic one must serve."""
        if len(self.kernel) > 2 or self.generic:
            return None
        two = len(self.kernel) == 2
        h, oh, kh, sh, ph, dh = (v[0] if two else d for v, d in zip(self._spatial(), (1, 1, 1, 1, 0, 1), strict=True))
        w, ow, kw, sw, pw, dw = (v[-1] for v in self._spatial())
        return {
            "n": self.images, "c": self.channels, "h": h, "w": w, "f": self.num_output, "oh": oh, "ow": ow,
            "kh": kh, "kw": kw, "sh": sh, "sw": sw, "ph": ph, "pw": pw, "dh": dh, "dw": dw, "group": self.group,
        }  # fmt: skip

    def _spatial(self) -> tuple[tuple[int, ...], ...]:
        return self.in_dims, self.out_dims, self.kernel, self.stride, self.pad, self.dilation


def spatial(layer: Layer, p: Any, name: str, axes: int, default: int) -> tuple[int, ...]:
    """A setting of a ConvolutionParameter per axis: ``kernel_h`` and ``kernel_w``, one for all axes, or one each."""
    short = {"kernel_size": "kernel"}.get(name, name)
    h, w = f"{short}_h", f"{short}_w"
    given = list(getattr(p, name))
    if name != "dilation" and (p.HasField(h) or p.HasField(w)):
        if axes != 2:
            layer.fail(ParameterError, f"{h} and {w} are for two spatial axes, the bottom has {axes}")
        if given:
            layer.fail(ParameterError, f"give either {name} or {h} and {w}, not both")
        values = (getattr(p, h), getattr(p, w))
        return tuple(v if p.HasField(f) else default for v, f in zip(values, (h, w), strict=True))
    if len(given) not in (0, 1, axes):
        layer.fail(
            ParameterError, f"{name} must be given once or once per spatial axis ({axes}), got {len(given)} values"
        )
    return tuple(given * axes if len(given) == 1 else given or [default] * axes)


class BaseConvolution(Layer):
    """What Convolution and Deconvolution share: reading convolution_param, adding weights."""

    min_bottoms = 1
    min_tops = 1

    def setup(self, bottom, top):
        p = self.param.convolution_param
        first = bottom[0]
        self.channel_axis = self.axis(first, p.axis)
        axes = first.num_axes - self.channel_axis - 1
        if not 1 <= axes <= MAX_SPATIAL:
            self.fail(
                ShapeError,
                f"needs 1 to {MAX_SPATIAL} spatial axes after axis {self.channel_axis}, got bottom {first.shape}",
            )
        self.kernel = spatial(self, p, "kernel_size", axes, 0)
        self.stride = spatial(self, p, "stride", axes, 1)
        self.pad = spatial(self, p, "pad", axes, 0)
        self.dilation = spatial(self, p, "dilation", axes, 1)
        self.channels = first.shape[self.channel_axis]
        self.num_output, self.group = p.num_output, p.group
        for name, values in (("kernel_size", self.kernel), ("stride", self.stride), ("dilation", self.dilation)):
            if min(values) < 1:
                self.fail(ParameterError, f"{name} must be given and at least 1, got {values}")
        if self.num_output < 1:
            self.fail(ParameterError, f"num_output must be given and at least 1, got {self.num_output}")
        if self.group < 1 or self.channels % self.group or self.num_output % self.group:
            self.fail(
                ParameterError,
                f"group {self.group} must divide the {self.channels} input channels and num_output {self.num_output}",
            )
        axis, groups = self.weight_outputs()
        self.add_param(self.weight_shape(), p.weight_filler, True, self.mask_filler(), output_axis=axis, groups=groups)
        self.bias_term = p.bias_term
        if p.bias_term:
            self.add_param((self.num_output,), p.bias_filler)

    def weight_shape(self) -> tuple[int, ...]:
        """Outputs, inputs of a group, kernel."""
        return (self.num_output, self.channels // self.group, *self.kernel)

    def weight_outputs(self) -> tuple[int, int]:
        """The axis of `weight_shape` that counts the outputs, and of how many groups: `add_param` takes them."""
        return 0, 1

    @property
    def engine(self) -> str:
        """Caffe's ``engine``; those of other forks, for processors, mean the default."""
        p = self.param.convolution_param
        name = p.Engine.Name(p.engine)
        return name if name in ("CAFFE", "CUDNN") else "DEFAULT"

    def mask_filler(self) -> Any:
        """The mask's filler, if one is given."""
        p = self.param.convolution_param
        return p.mask_filler if p.HasField("mask_filler") else None

    def check_bottoms(self, bottom):
        """All bottoms must have the first one's shape, and its number of channels may not change."""
        first = bottom[0]
        if first.num_axes != self.channel_axis + 1 + len(self.kernel):
            self.fail(ShapeError, f'bottom "{first.name}" must keep its number of axes, got {first.shape}')
        if first.shape[self.channel_axis] != self.channels:
            self.fail(ShapeError, f'bottom "{first.name}" must have {self.channels} channels, got {first.shape}')
        for other in bottom[1:]:
            if other.shape != first.shape:
                self.fail(
                    ShapeError,
                    f'bottom "{other.name}" must have the first one\'s shape {first.shape}, got {other.shape}',
                )
        return first


@register("Convolution")
class Convolution(BaseConvolution):
    """y[n, f] = b[f] + sum over c, k of W[f, c, k] x[n, c, stride * o + dilation * k - pad], in ``group`` groups.

    Bottoms (N, C, spatial...), tops (N, num_output, spatial...) with out = (in + 2 pad - (dilation (kernel - 1) + 1)) /
    stride + 1, rounded down; any number of bottoms, each with its top. Parameters: weights (num_output, C / group,
    kernel...), prunable; bias (num_output) unless ``bias_term: false``. 1 to 6 spatial axes.

    Options: ``num_output``, ``kernel_size`` (or ``kernel_h``, ``kernel_w``), ``stride`` 1, ``pad`` 0, ``dilation`` 1,
    ``group`` 1, ``axis`` 1, ``weight_filler``, ``bias_filler``, ``mask_filler``; ``force_nd_im2col`` takes the general
    path; ``engine`` on a GPU: CAFFE (im2col and GEMM), CUDNN, or DEFAULT, the faster of both. Raises ParameterError
    for impossible options, ShapeError for a kernel larger than the padded input.

    Example::

        layer { name: "conv1" type: "Convolution" bottom: "data" top: "conv1"
                convolution_param { num_output: 20 kernel_size: 5 weight_filler { type: "xavier" } } }

    Source: Caffe, src/caffe/layers/conv_layer.cpp; im2col: Chellapilla, Puri, Simard 2006.
    """

    def reshape(self, bottom, top):
        first = self.check_bottoms(bottom)
        if len(top) != len(bottom):
            self.fail(ShapeError, f"needs a top for each of its {len(bottom)} bottoms, got {len(top)}")
        in_dims = first.shape[self.channel_axis + 1 :]
        out = []
        for n, k, s, p, d in zip(in_dims, self.kernel, self.stride, self.pad, self.dilation, strict=True):
            extent = d * (k - 1) + 1
            if n + 2 * p < extent:
                self.fail(ShapeError, f"kernel extent {extent} is larger than the padded input, bottom {first.shape}")
            out.append((n + 2 * p - extent) // s + 1)
        images = first.count_range(0, self.channel_axis)
        for t in top:
            t.reshape(*first.shape[: self.channel_axis], self.num_output, *out)
        generic = self.param.convolution_param.force_nd_im2col
        self.shape = ConvShape(
            images, self.channels, self.num_output, self.group, tuple(in_dims), tuple(out),
            self.kernel, self.stride, self.pad, self.dilation, generic, self.engine,
        )  # fmt: skip

    def forward(self, bottom, top):
        bias = self.blobs[1].data_mem if self.bias_term else None
        for b, t in zip(bottom, top, strict=True):
            self.ops.conv_forward(self.shape, b.data_mem, self.blobs[0].data_mem, bias, t.data_mem)

    def backward(self, top, propagate_down, bottom):
        s, w = self.shape, self.blobs[0].data_mem
        dw = self.blobs[0].diff_mem if self.param_propagate_down[0] else None
        db = self.blobs[1].diff_mem if self.bias_term and self.param_propagate_down[1] else None
        for t, down, b in zip(top, propagate_down, bottom, strict=True):
            if dw is None and db is not None:
                self.ops.bias_gradient(s.images, s.num_output, s.pixels, t.diff_mem, db)
            both = (dw, None if dw is None else db)
            self.ops.conv_backward(s, b.data_mem, t.diff_mem, w, *both, b.diff_mem if down else None)
