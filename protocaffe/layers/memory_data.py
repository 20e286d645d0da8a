"""MemoryData."""

from __future__ import annotations

import logging
from typing import Any, ClassVar

import numpy as np

from ..errors import DataError, ParameterError, ShapeError
from ..layer import Layer, register

logger = logging.getLogger("protocaffe.net")


@register("MemoryData")
class MemoryData(Layer):
    """Batches from arrays that Python hands over: ``net.set_input_arrays(data, labels)``.

    Tops: data (batch_size, channels, height, width) and labels (batch_size, 1, 1, 1). The arrays, (N, channels, height,
    width) and N labels, are read batch after batch, over and over; N is a multiple of batch_size. They are not copied:
    what is written to them later is seen, and so each batch is copied when it is due, by the host.

    Options: ``batch_size``, ``channels``, ``height``, ``width``, all at least 1 (ParameterError). Raises DataError for
    a forward pass before there are arrays, ShapeError for arrays of another shape. transform_param is not applied to
    arrays, as in Caffe; that is logged.

    Example::

        layer { name: "data" type: "MemoryData" top: "data" top: "label"
                memory_data_param { batch_size: 10 channels: 3 height: 32 width: 32 } }

    Source: Caffe, src/caffe/layers/memory_data_layer.cpp.
    """

    is_source: ClassVar[bool] = True
    exact_bottoms = 0
    exact_tops = 2

    def setup(self, bottom, top):
        p = self.param.memory_data_param
        self.extents = (p.batch_size, p.channels, p.height, p.width)
        if min(self.extents) < 1:
            text = f"batch_size, channels, height and width must be given and at least 1, got {self.extents}"
            self.fail(ParameterError, text)
        self._data: np.ndarray | None = None
        self._labels: np.ndarray | None = None
        self._at = 0
        if self.param.HasField("transform_param"):
            logger.warning("%s: transform_param is not applied to arrays", self.describe())

    def reshape(self, bottom, top):
        top[0].reshape(*self.extents)
        top[1].reshape(self.extents[0], 1, 1, 1)

    def set_arrays(self, data: Any, labels: Any = None) -> None:
        """Read batches from ``data`` and ``labels`` (0 without) from now on, beginning with the first.

        After a solver's ``restore``, the first arrays begin where the state says.
        """
        data = np.asarray(data)
        labels = np.zeros(len(data)) if labels is None else np.asarray(labels)
        if data.ndim != 4 or data.shape[1:] != self.extents[1:]:
            self.fail(
                ShapeError, f"data must have shape (N, {', '.join(map(str, self.extents[1:]))}), got {data.shape}"
            )
        if not len(data) or len(data) % self.extents[0]:
            text = f"the number of items must be a multiple of batch_size {self.extents[0]} and not 0"
            self.fail(ShapeError, f"{text}, got {len(data)}")
        if labels.size != len(data):
            self.fail(ShapeError, f"there must be a label for each of the {len(data)} items, got shape {labels.shape}")
        self._at = self._at % len(data) if self._data is None else 0  # a position sought before there were arrays holds
        self._data, self._labels = data, labels.reshape(-1, 1, 1, 1)

    def forward(self, bottom, top):
        data, label = top

        def load() -> None:
            if self._data is None or self._labels is None:
                self.fail(DataError, "has no arrays yet: call net.set_input_arrays(data, labels) first")
            items = slice(self._at, self._at + self.extents[0])
            data.data[...] = self._data[items]
            label.data[...] = self._labels[items]
            self._at = items.stop % len(self._data)

        self.ops.host(load, writes=list(top), name="load")

    def position(self) -> int:
        """The item with which the next batch begins."""
        return self._at

    def seek(self, position: int) -> None:
        """Go on with the item ``position``."""
        self._at = position % len(self._data) if self._data is not None else position
