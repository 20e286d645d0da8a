"""Deconvolution."""

from __future__ import annotations

from ..errors import ShapeError
from ..layer import register
from .convolution import BaseConvolution, ConvShape


@register("Deconvolution")
class Deconvolution(BaseConvolution):
    """The gradient of a convolution as a layer (a transposed convolution): each input value times the kernel goes to
    the outputs under it.

    y[n, f, stride * i + dilation * k - pad] += W[c, f, k] x[n, c, i], then y[n, f] += b[f], in ``group`` groups.
    Bottoms (N, C, spatial...), tops (N, num_output, spatial...), where an axis has out = stride (in - 1) + dilation
    (kernel - 1) + 1 - 2 pad; any number of bottoms, each with its top. Parameters: weights (C, num_output / group,
    kernel...), prunable; bias (num_output) unless ``bias_term: false``. 1 to 6 spatial axes.

    Options are Convolution's (convolution_param). Raises ParameterError for impossible options, ShapeError where
    nothing would be left of the output.

    Example::

        layer { name: "up" type: "Deconvolution" bottom: "score" top: "up"
                convolution_param { num_output: 21 group: 21 kernel_size: 4 stride: 2 bias_term: false
                                    weight_filler { type: "bilinear" } } }

    Source: Zeiler et al. 2010; Long, Shelhamer and Darrell 2015; Caffe, src/caffe/layers/deconv_layer.cpp.
    """

    def weight_shape(self) -> tuple[int, ...]:
        """Inputs, outputs of a group, kernel."""
        return (self.channels, self.num_output // self.group, *self.kernel)

    def weight_outputs(self) -> tuple[int, int]:
        """Axis 1 counts those of each group."""
        return 1, self.group

    def reshape(self, bottom, top):
        first = self.check_bottoms(bottom)
        if len(top) != len(bottom):
            self.fail(ShapeError, f"needs a top for each of its {len(bottom)} bottoms, got {len(top)}")
        in_dims = first.shape[self.channel_axis + 1 :]
        out = tuple(
            s * (n - 1) + d * (k - 1) + 1 - 2 * p
            for n, k, s, p, d in zip(in_dims, self.kernel, self.stride, self.pad, self.dilation, strict=True)
        )
        if min(in_dims) < 1 or min(out) < 1:
            self.fail(ShapeError, f"the output would have extents {out}: pad {self.pad}, bottom {first.shape}")
        for t in top:
            t.reshape(*first.shape[: self.channel_axis], self.num_output, *out)
        #: of the convolution whose gradient this is: it leads from the top to the bottom
        self.shape = ConvShape(
            first.count_range(0, self.channel_axis), self.num_output, self.channels, self.group, out, tuple(in_dims),
            self.kernel, self.stride, self.pad, self.dilation, self.param.convolution_param.force_nd_im2col,
            self.engine,
        )  # fmt: skip

    @property
    def _bias_extents(self) -> tuple[int, int]:
        return self.shape.images, self.shape.in_count // self.num_output

    def forward(self, bottom, top):
        images, pixels = self._bias_extents
        for b, t in zip(bottom, top, strict=True):
            self.ops.conv_backward_data(self.shape, b.data_mem, self.blobs[0].data_mem, t.data_mem)
            if self.bias_term:
                args = (pixels, self.num_output, self.blobs[1].data_mem, t.data_mem)
                self.ops.launch_rows("bias_add", images * self.num_output, *args)

    def backward(self, top, propagate_down, bottom):
        images, pixels = self._bias_extents
        for t, down, b in zip(top, propagate_down, bottom, strict=True):
            if self.bias_term and self.param_propagate_down[1]:
                self.ops.bias_gradient(images, self.num_output, pixels, t.diff_mem, self.blobs[1].diff_mem)
            if self.param_propagate_down[0]:
                self.ops.conv_backward_weights(self.shape, t.diff_mem, b.data_mem, self.blobs[0].diff_mem, None)
            if down:
                self.ops.conv_forward(self.shape, t.diff_mem, self.blobs[0].data_mem, None, b.diff_mem)
