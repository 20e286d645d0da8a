"""PReLU."""

from __future__ import annotations

from ..errors import ShapeError
from ..io import schema
from ..layer import Layer, register

CHUNKS = 64  # of rows, each with a partial sum of its own, where a channel is one value


@register("PReLU")
class PReLU(Layer):
    """y = max(0, x) + a[c] min(0, x), the slope a learnt for each channel; dx = dy, or a[c] dy where x <= 0;
    da[c] = sum of dy min(0, x) over the channel.

    Bottom (N, C, ...), top alike, in place if wanted (the input is then kept for the gradient). Parameter: slopes (C),
    with ``channel_shared`` one of shape (); not prunable.

    Options: ``filler`` constant 0.25, ``channel_shared`` false. Raises ShapeError for fewer than two axes or another
    number of channels than slopes.

    Example::

        layer { name: "relu1" type: "PReLU" bottom: "conv1" top: "conv1"
                prelu_param { filler { type: "constant" value: 0.1 } } }

    Source: Caffe, src/caffe/layers/prelu_layer.cpp; He et al., "Delving deep into rectifiers", ICCV 2015.
    """

    exact_bottoms = 1
    exact_tops = 1
    inplace_ok = True

    def setup(self, bottom, top):
        self.need_channels(bottom[0])
        p = self.param.prelu_param
        self.shared, self.in_place = p.channel_shared, top[0] is bottom[0]
        filler = p.filler if p.HasField("filler") else schema.FillerParameter(type="constant", value=0.25)
        self.add_param(() if self.shared else (bottom[0].shape[1],), filler)

    def need_channels(self, x):
        """Refuse a bottom without an axis of channels."""
        if x.num_axes < 2:
            self.fail(ShapeError, f'bottom "{x.name}" must have at least 2 axes (N, C, ...), got {x.shape}')

    def reshape(self, bottom, top):
        self.need_channels(bottom[0])
        images, channels = bottom[0].shape[:2]
        if not self.shared and channels != self.blobs[0].count:
            self.fail(
                ShapeError,
                f'bottom "{bottom[0].name}" must have {self.blobs[0].count} channels, one for each slope, '
                f"got {channels} ({bottom[0].shape})",
            )
        top[0].reshape(bottom[0].shape)
        pixels = bottom[0].count_range(2)
        self.rows, self.cols = (images, channels) if pixels == 1 else (images * channels, pixels)
        self.channels = 1 if self.shared else channels
        self.by_column = pixels == 1 and not self.shared
        self.chunks = max(1, min(CHUNKS, images)) if self.by_column else self.rows // max(1, self.channels)
        self.partial = self.buffer("partial", (max(1, self.chunks * self.channels),))
        self.kept = self.buffer("kept", bottom[0].shape) if self.in_place else None

    def forward(self, bottom, top):
        x, y, slope = bottom[0].data_mem, top[0].data_mem, self.blobs[0].data_mem
        args = (slope, x, y, int(self.in_place), y if self.kept is None else self.kept)
        if self.by_column:
            self.ops.launch("prelu_forward_columns", self.rows, self.cols, *args, work=bottom[0].count)
        else:
            self.ops.launch("prelu_forward", self.rows, self.cols, self.channels, *args, work=bottom[0].count)

    def backward(self, top, propagate_down, bottom):
        if not (propagate_down[0] or self.param_propagate_down[0]):
            return
        x = bottom[0].data_mem if self.kept is None else self.kept
        down, slope = int(propagate_down[0]), self.blobs[0].data_mem
        args = (slope, x, top[0].diff_mem, down, bottom[0].diff_mem, self.partial)
        if self.by_column:
            self.ops.launch_rows("prelu_backward_columns", self.chunks, self.cols, self.rows, *args)
        else:
            self.ops.launch_rows("prelu_backward", self.rows, self.cols, self.channels, *args)
        if self.param_propagate_down[0]:
            self.ops.launch("prelu_slope_gradient", self.channels, self.chunks, self.partial, self.blobs[0].diff_mem)
