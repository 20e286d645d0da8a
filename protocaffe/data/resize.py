"""Resizing of items to one height and width (transform_param's resize_param).

Source: the field and its conventions are those of SSD's and NVCaffe's data transformer, which call OpenCV.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..errors import ParameterError

#: values resized in one go: pieces that stay in the cache
PIECE = 1 << 18


class Resize:
    """Items (n, C, h, w) to (n, C, ``height``, ``width``), in float32, sides independent of each other (WARP).

    LINEAR: output pixel i lies at p = (i + 1/2) h / height - 1/2 of the input, kept within 0 ... h - 1; its value is
    interpolated between its two neighbours, along columns, then rows. Values are not rounded to whole grey levels (as
    OpenCV does with bytes), and shrinking does not average. NEAREST: input pixel floor(i h / height).

    Raises ParameterError for a missing side and for what is not offered: other modes, several, ``prob`` below 1.

    >>> from protocaffe.io import schema
    >>> out = np.empty((1, 1, 1, 4), np.float32)
    >>> Resize(schema.ResizeParameter(height=1, width=4))(np.array([[[[0, 8]]]], np.uint8), out)
    >>> out.ravel().tolist()
    [0.0, 2.0, 6.0, 8.0]
    """

    def __init__(self, param: Any) -> None:
        self.height, self.width = int(param.height), int(param.width)
        if not (self.height and self.width):
            raise ParameterError(
                f"resize_param: height and width must be given and at least 1, got {self.height} and {self.width}"
            )
        if param.resize_mode != param.WARP:
            name = type(param).Resize_mode.Name(param.resize_mode)
            raise ParameterError(f"resize_param: resize_mode must be WARP, got {name}, which is not offered")
        names = [type(param).Interp_mode.Name(mode) for mode in param.interp_mode] or ["LINEAR"]
        if names not in (["LINEAR"], ["NEAREST"]):
            raise ParameterError(f"resize_param: interp_mode must be LINEAR or NEAREST, got {', '.join(names)}")
        if param.prob != 1:
            raise ParameterError(f"resize_param: prob must be 1 (every item is resized), got {param.prob:g}")
        self.linear = names == ["LINEAR"]
        self._taps: dict[tuple[int, int], tuple[np.ndarray, np.ndarray, np.ndarray]] = {}
        self._scratch: dict[str, np.ndarray] = {}

    def __call__(self, items: np.ndarray | Sequence[np.ndarray], out: np.ndarray) -> None:
        """Write the resized items into ``out`` (n, C, height, width); a list's (C, h, w) may differ in h and w."""
        if not isinstance(items, np.ndarray):
            for i, item in enumerate(items):
                self(item[None], out[i : i + 1])
            return
        if items.shape[2:] == out.shape[2:]:
            np.copyto(out, items)
            return
        step = max(1, PIECE // max(1, out[:1].size))
        for start in range(0, len(items), step):
            self._piece(items[start : start + step], out[start : start + step])

    def _piece(self, items: np.ndarray, out: np.ndarray) -> None:
        rows = self._array("rows", (*items.shape[:3], self.width))
        values = self._array("values", items.shape)
        np.copyto(values, items)
        self._along(values, 3, rows)
        self._along(rows, 2, out)

    def _along(self, x: np.ndarray, axis: int, out: np.ndarray) -> None:
        """Interpolate ``x`` along one axis into ``out``: low + (high - low) * weight."""
        low, high, weight = self._positions(x.shape[axis], out.shape[axis])
        if not self.linear:
            np.take(x, low, axis=axis, out=out, mode="clip")
            return
        base = self._array("base", out.shape)
        np.take(x, low, axis=axis, out=base, mode="clip")  # "raise" would copy once more
        np.take(x, high, axis=axis, out=out, mode="clip")
        out -= base
        out *= weight.reshape(-1, *(1,) * (x.ndim - 1 - axis))
        out += base

    def _positions(self, extent: int, wanted: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """For each output position the two input positions around it, and the second one's weight."""
        if (extent, wanted) not in self._taps:
            where = np.arange(wanted) * extent // wanted
            if self.linear:
                where = np.clip((np.arange(wanted) + 0.5) * extent / wanted - 0.5, 0, extent - 1)
            low = np.floor(where).astype(np.intp)
            self._taps[extent, wanted] = (low, np.minimum(low + 1, extent - 1), (where - low).astype(np.float32))
        return self._taps[extent, wanted]

    def _array(self, name: str, shape: tuple[int, ...]) -> np.ndarray:
        """Memory that is kept: fresh memory would cost more than the arithmetic."""
        size = int(np.prod(shape))
        if name not in self._scratch or self._scratch[name].size < size:
            self._scratch[name] = np.empty(size, np.float32)
        return self._scratch[name][:size].reshape(shape)
