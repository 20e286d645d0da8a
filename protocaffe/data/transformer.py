"""Resize, crop, mirror, mean and scale (transform_param), over a whole batch at once.

Source: Caffe's data_transformer.cpp, for the order of operations.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from ..errors import DataError
from .order import draws
from .resize import Resize

TRAIN = 0


class Transformer:
    """``out = (crop(resize(item)) - mean) * scale``, mirrored left to right with probability 1/2 if ``mirror`` is set.

    ``resize_param`` gives all items one height and width (see Resize); without it they stay as they are. The crop
    (crop_size x crop_size) lies at random in TRAIN, in the middle in TEST. The mean is that of ``mean_file`` (same
    shape as the resized item), or one ``mean_value`` for all or for each channel. What is drawn depends on ``key`` and
    the item's position only.

    Raises DataError when these do not fit ``item_shape`` (C, H, W), ParameterError for a resize_param not offered.
    """

    def __init__(self, param: Any, phase: int, item_shape: tuple[int, int, int], key: int = 0) -> None:
        self.scale = np.float32(param.scale)
        self.crop = int(param.crop_size)
        self.mirror = bool(param.mirror)
        self.random_crop = self.crop > 0 and phase == TRAIN
        self.key = key
        self.resize = Resize(param.resize_param) if param.HasField("resize_param") else None
        if self.resize:
            item_shape = (item_shape[0], self.resize.height, self.resize.width)
        self._resized = np.empty((0, *item_shape), np.float32)
        channels, height, width = item_shape
        if self.crop > min(height, width):
            raise DataError(f"crop_size is {self.crop}, but the items have {height} x {width} pixels")
        self.shape = (channels, self.crop, self.crop) if self.crop else item_shape
        self.mean = self._read_mean(param, item_shape)
        self.full_mean = self.mean is not None and self.mean.shape == tuple(item_shape)

    def with_key(self, key: int) -> Transformer:
        """Return the same transformer with other draws."""
        other = copy(self)
        other.key = key
        return other

    def _read_mean(self, param: Any, shape: tuple[int, int, int]) -> np.ndarray | None:
        values = np.array(param.mean_value, np.float32)
        if param.mean_file:
            if len(values):
                raise DataError("mean_file and mean_value are both given: expected one of them")
            from ..io.binaryproto import read_mean

            try:
                mean = np.asarray(read_mean(param.mean_file), np.float32)
            except OSError as error:
                raise DataError(f'"{param.mean_file}": the mean cannot be read ({error.strerror})') from error
            if mean.size != np.prod(shape) or tuple(mean.shape[-3:]) != tuple(shape):
                raise DataError(
                    f'"{param.mean_file}": the mean must be {shape} (C, H, W) as the items, got {mean.shape}'
                )
            return mean.reshape(shape)
        if len(values) not in (0, 1, shape[0]):
            raise DataError(f"mean_value must be given once or {shape[0]} times (channels), got {len(values)} times")
        return values.reshape(-1, 1, 1) if values.any() else None

    def apply(self, items: np.ndarray | Sequence[np.ndarray], position: int, out: np.ndarray) -> None:
        """Write the transformed items, of positions ``position`` ..., into ``out`` (n, C, h, w)."""
        random = draws(self.key, position, len(items)) if self.random_crop or self.mirror else None
        if self.resize:
            items = self._resize(self.resize, items, out)
        if isinstance(items, np.ndarray):
            self._crop_all(items, random, out)
        else:
            self._crop_each(items, random, out)
        if self.scale != 1:
            np.multiply(out, self.scale, out=out)
        if self.mirror:
            assert random is not None
            chosen = np.flatnonzero(random[:, 2] & np.uint64(1))
            out[chosen] = out[chosen, :, :, ::-1]

    def _resize(self, resize: Resize, items: np.ndarray | Sequence[np.ndarray], out: np.ndarray) -> np.ndarray:
        """The items resized: in ``out`` itself where nothing is cropped afterwards."""
        if not self.crop:
            resize(items, out)
            return out
        if len(self._resized) < len(items):
            self._resized = np.empty((len(items), *self._resized.shape[1:]), np.float32)
        resize(items, self._resized[: len(items)])
        return self._resized[: len(items)]

    def _crop_all(self, items: np.ndarray, random: np.ndarray | None, out: np.ndarray) -> None:
        mean = self.mean
        if self.crop:
            top, left = self._offsets(items.shape[2:], random)
            if self.random_crop:
                size = (self.crop, self.crop)
                items = sliding_window_view(items, size, (2, 3))[np.arange(len(items)), :, top, left]
                if mean is not None and self.full_mean:
                    mean = sliding_window_view(mean, size, (1, 2))[:, top, left].swapaxes(0, 1)
            else:
                window = (..., slice(top, top + self.crop), slice(left, left + self.crop))
                items = items[window]
                mean = mean[window] if mean is not None and self.full_mean else mean
        if mean is None:
            if items is not out:
                np.copyto(out, items)
        else:
            np.subtract(items, mean, out=out)

    def _crop_each(self, items: Sequence[np.ndarray], random: np.ndarray | None, out: np.ndarray) -> None:
        for i, item in enumerate(items):
            self._check_fit(item)
            single = None if random is None else random[i : i + 1]
            self._crop_all(item[None], single, out[i : i + 1])

    def _check_fit(self, item: np.ndarray) -> None:
        if min(item.shape[1:]) < self.crop or self.full_mean and item.shape != self.mean.shape:  # type: ignore[union-attr]
            raise DataError(f"an item of shape {item.shape} does not fit crop_size {self.crop} and the mean")

    def cut(self, items: np.ndarray | Sequence[np.ndarray], position: int, out: np.ndarray) -> None:
        """Write the items of positions ``position`` ..., cropped and nothing else, into ``out`` of their own type.

        What is left (mean, mirror, scale) a device does (kernels/transform.cu). There is no resize_param.
        """
        if not self.crop and isinstance(items, np.ndarray):
            np.copyto(out, items)
            return
        random = draws(self.key, position, len(items)) if self.random_crop else None
        for i, item in enumerate(items):
            self._check_fit(item)
            if not self.crop:
                out[i] = item
                continue
            top, left = self._offsets(item.shape[1:], None if random is None else random[i])
            out[i] = item[:, top : top + self.crop, left : left + self.crop]

    def _offsets(self, size: tuple[int, ...], random: np.ndarray | None) -> tuple[Any, Any]:
        spare = [extent - self.crop for extent in size]
        if not self.random_crop:
            return spare[0] // 2, spare[1] // 2
        assert random is not None
        return tuple((random[..., axis] % np.uint64(spare[axis] + 1)).astype(np.intp) for axis in (0, 1))
