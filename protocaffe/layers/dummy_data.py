"""DummyData: blobs filled by fillers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from ..data.order import generator, stream_key
from ..errors import ParameterError
from ..fillers import fill
from ..layer import Layer, register

if TYPE_CHECKING:
    from ..blob import Blob

_LEGACY = ("num", "channels", "height", "width")


@register("DummyData")
class DummyData(Layer):
    """Tops filled by fillers: constants once, everything else anew in each forward pass.

    dummy_data_param: shape (or num, channels, height, width), once for all tops or once for each; data_filler, none
    (zeros), once for all tops or once for each.

    Example::

        layer { name: "noise" type: "DummyData" top: "x"
          dummy_data_param { shape { dim: 2 dim: 3 } data_filler { type: "gaussian" std: 1 } } }

    Raises ParameterError when the number of shapes or fillers fits neither. Source: Caffe's dummy_data_layer.cpp.
    """

    is_source: ClassVar[bool] = True
    exact_bottoms: ClassVar[int | None] = 0
    min_tops: ClassVar[int] = 1

    def setup(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        from ..io import schema

        param = self.param.dummy_data_param
        self._shapes = self._read_shapes(param, len(top))
        fillers = list(param.data_filler) or [schema.FillerParameter(type="constant")]
        if len(fillers) not in (1, len(top)):
            self._wrong_count("data_filler", len(top), len(fillers))
        self._fillers = fillers * len(top) if len(fillers) == 1 else fillers
        self._passes = 0
        self._filled = False

    def _read_shapes(self, param: Any, tops: int) -> list[tuple[int, ...]]:
        legacy = [list(getattr(param, name)) for name in _LEGACY]
        if any(legacy):
            if param.shape:
                self.fail(ParameterError, "dummy_data_param has both shape and num/channels/height/width: expected one")
            for name, values in zip(_LEGACY, legacy, strict=True):
                if len(values) not in (1, tops):
                    self._wrong_count(name, tops, len(values))
            columns = [values * tops if len(values) == 1 else values for values in legacy]
            return list(zip(*columns, strict=True))
        if len(param.shape) not in (1, tops):
            self._wrong_count("shape", tops, len(param.shape))
        shapes = [tuple(shape.dim) for shape in param.shape]
        return shapes * tops if len(shapes) == 1 else shapes

    def _wrong_count(self, name: str, tops: int, got: int) -> None:
        self.fail(ParameterError, f"dummy_data_param.{name} must be given once or {tops} times (tops), got {got} times")

    def reshape(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        for i, (blob, shape) in enumerate(zip(top, self._shapes, strict=True)):
            if blob.shape != shape or not self._filled:
                blob.reshape(shape)
                self._fill(i, blob)
        self._filled = True

    def _fill(self, index: int, blob: Blob) -> None:
        key = stream_key(self.rng_seed, self.name, "dummy", index)
        with self.context():
            values = blob.data  # more memory than there is fails here, before it is filled
            values[...] = fill(self._fillers[index], blob.shape, generator(key, self._passes))

    def forward(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        refilled = [(i, blob) for i, blob in enumerate(top) if self._fillers[i].type != "constant"]

        def refill() -> None:
            for i, blob in refilled:
                self._fill(i, blob)
            self._passes += 1

        if refilled:
            self.ops.host(refill, reads=(), writes=[blob for _, blob in refilled], name="fill")

    def position(self) -> int:
        """Number of forward passes so far."""
        return self._passes

    def seek(self, position: int) -> None:
        """Go on as after ``position`` forward passes."""
        self._passes = position
