"""Parameter."""

from __future__ import annotations

from ..errors import ParameterError
from ..layer import Layer, register


@register("Parameter")
class Parameter(Layer):
    """A parameter as a top, for layers that take learnt values as a bottom; it begins with zeros.

    The top's values are the parameter's own; its diff is added to the parameter's. Not prunable.

    Options: ``shape`` (ParameterError without).

    Example::

        layer { name: "weights" type: "Parameter" top: "weights" parameter_param { shape { dim: 3 dim: 4 } } }

    Source: Caffe, include/caffe/layers/parameter_layer.hpp.
    """

    exact_bottoms = 0
    exact_tops = 1

    def setup(self, bottom, top):
        if not self.param.parameter_param.HasField("shape"):
            self.fail(ParameterError, "parameter_param.shape must be given")
        self.add_param(tuple(self.param.parameter_param.shape.dim))

    def reshape(self, bottom, top):
        top[0].reshape(self.blobs[0].shape)
        top[0].share_data(self.blobs[0])

    def forward(self, bottom, top):
        pass

    def backward(self, top, propagate_down, bottom):
        if self.param_propagate_down[0]:
            self.ops.launch("axpy", top[0].count, 1.0, top[0].diff_mem, self.blobs[0].diff_mem)
