"""Input: blobs that the caller fills."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from ..errors import ParameterError
from ..layer import Layer, register

if TYPE_CHECKING:
    from ..blob import Blob


@register("Input")
class Input(Layer):
    """Tops with given shapes, zero at first; whoever runs the net writes ``net.blobs[name].data``.

    input_param: shape, once for all tops or once for each top.

    Example::

        layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 1 dim: 1 dim: 28 dim: 28 } } }

    Raises ParameterError when the number of shapes fits neither. Source: Caffe's input_layer.cpp.
    """

    exact_bottoms: ClassVar[int | None] = 0
    min_tops: ClassVar[int] = 1

    def setup(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        shapes = self.param.input_param.shape
        if len(shapes) not in (0, 1, len(top)):
            self.fail(ParameterError, f"input_param.shape must be given once or {len(top)} times, got {len(shapes)}")
        for i, blob in enumerate(top if shapes else ()):
            blob.reshape(tuple(shapes[i if len(shapes) > 1 else 0].dim))

    def reshape(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        """Shapes are the caller's: ``net.blobs["data"].reshape(...)`` changes them."""

    def forward(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        """Nothing to compute."""
