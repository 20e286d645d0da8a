"""Blob: a named array with data, diff and, for parameters, a mask."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

from .errors import BackendError, ShapeError
from .interop import Exchange, View
from .layout import WeightLayout
from .memory import Memory, Slot, Storage

if TYPE_CHECKING:
    from .arena import Arena
    from .backends.base import Backend

_MAX_COUNT = 2**40


@dataclass
class Values:
    """What blobs may share: where data, diff and mask lie, and the arena that holds them."""

    data: Slot
    diff: Slot
    mask: Slot
    arena: Arena | None = None
    offset: int = 0
    #: they come from a code book: weights that are equal stay equal in fine-tuning (pruning/tying.py)
    tied: bool = False


class Blob(Exchange):
    """An N-dimensional array that layers exchange; also a layer's parameter.

    ``data`` and ``diff`` are NumPy views of the current values (writing to them is seen by the next run); they stay
    valid after the net is gone. ``mask`` is None, or a read-only boolean array of the blob's shape that is False where
    a weight is pruned; assign an array to set it (the weights under it become +0) or None to drop it.

    >>> import numpy as np
    >>> from protocaffe.backends import get_backend
    >>> blob = Blob(get_backend("cpu"), "ip1", (2, 3))
    >>> blob.data[...] = 1
    >>> blob.mask = np.array([[1, 0, 1], [0, 1, 1]])
    >>> float(blob.data.sum())
    4.0
    """

    def __init__(self, backend: Backend, name: str = "", shape: tuple[int, ...] = ()) -> None:
        self.backend = backend
        self.name = name
        self.values = Values(Slot(backend, backend.real), Slot(backend, backend.real), Slot(backend, np.uint8))
        #: declared by the layer: whether pruning may take these weights
        self.prunable = False
        #: declared by the layer, of a parameter: which values belong to which output
        self.layout: WeightLayout | None = None
        #: declared by the layer: it is computed from the data, not learnt, and lies outside the arena
        self.statistic = False
        self._handed_out: dict[Storage, View] = {}
        self._shape: tuple[int, ...] = ()
        self.reshape(*shape)

    # -------------------------------------------------------------------------------------------------------- shape
    @property
    def shape(self) -> tuple[int, ...]:
        """Extents of the axes."""
        return self._shape

    @property
    def count(self) -> int:
        """Number of elements."""
        return prod(self._shape)

    @property
    def num_axes(self) -> int:
        """Number of axes."""
        return len(self._shape)

    def reshape(self, *shape: Any) -> None:
        """Change the shape, as ``reshape(2, 3)`` or ``reshape((2, 3))``; memory is kept where the values still fit."""
        dims = tuple(shape[0]) if len(shape) == 1 and isinstance(shape[0], (tuple, list)) else shape
        dims = tuple(int(d) for d in dims)
        if any(d < 0 for d in dims) or prod(dims) > _MAX_COUNT:
            raise ShapeError(f'blob "{self.name}": extents must be 0 or more and hold at most 2^40 values, got {dims}')
        if self.values.arena is not None and prod(dims) != self.count:
            raise ShapeError(
                f'parameter "{self.name}" has {self.count} values {self._shape} and keeps that number, got {dims}; '
                "for another size build a net from a changed prototxt"
            )
        if dims != self._shape:
            self.backend.layouts += 1
        self._shape = dims

    def canonical_axis(self, axis: int) -> int:
        """``axis`` counted from the front; negative ones count from the back. Raises ShapeError out of range."""
        if not -self.num_axes <= axis < self.num_axes:
            raise ShapeError(f'blob "{self.name}" has {self.num_axes} axes {self.shape}, got axis {axis}')
        return axis % self.num_axes if self.num_axes else 0

    def count_range(self, start: int, end: int | None = None) -> int:
        """Product of the extents of the axes ``start`` up to, without, ``end``."""
        return prod(self._shape[start:end])

    def _legacy(self, axis: int) -> int:
        if self.num_axes > 4:
            raise ShapeError(f'blob "{self.name}": num, channels, height, width need at most 4 axes, got {self.shape}')
        return self._shape[axis] if axis < self.num_axes else 1

    @property
    def num(self) -> int:
        """Extent of axis 0 (1 where there is none)."""
        return self._legacy(0)

    @property
    def channels(self) -> int:
        """Extent of axis 1 (1 where there is none)."""
        return self._legacy(1)

    @property
    def height(self) -> int:
        """Extent of axis 2 (1 where there is none)."""
        return self._legacy(2)

    @property
    def width(self) -> int:
        """Extent of axis 3 (1 where there is none)."""
        return self._legacy(3)

    # ------------------------------------------------------------------------------------------------------- values
    @property
    def data_mem(self) -> Memory:
        """The values as layers hand them to kernels."""
        return self._memory(self.values.data)

    @property
    def diff_mem(self) -> Memory:
        """The gradient as layers hand it to kernels; allocated on first use."""
        return self._memory(self.values.diff)

    def _memory(self, slot: Slot) -> Memory:
        try:
            return slot.memory(self._shape, self.count)
        except BackendError as error:
            raise BackendError(f'blob "{self.name}" {self._shape}: {error}') from error

    @property
    def data(self) -> np.ndarray:
        """The values. Raises NetError where they are not kept (``Net(..., reuse_memory=True)``)."""
        self._check_kept()
        return self.data_mem.array

    @data.setter
    def data(self, values: Any) -> None:
        self._check_kept()
        self.data_mem.assign(values)

    def _check_kept(self) -> None:
        guard = self.values.data.guard
        if guard is not None:
            guard(self)

    @property
    def diff(self) -> np.ndarray:
        """The gradient of the loss with respect to the values."""
        return self.diff_mem.array

    @diff.setter
    def diff(self, values: Any) -> None:
        self.diff_mem.assign(values)

    def share(self, other: Blob) -> None:
        """Have data, diff and mask in common with ``other`` (shared parameters)."""
        self._point(other.values)

    def share_weights(self, other: Blob) -> None:
        """Have data and mask in common with ``other``, a parameter of another net; the diff not."""
        its = other.values
        self._point(Values(its.data, self.values.diff, its.mask, its.arena, its.offset))

    def share_data(self, other: Blob) -> None:
        """Have the data in common with ``other``, the diff not."""
        if self.values.data is not other.values.data:
            self._point(Values(other.values.data, self.values.diff, self.values.mask))

    def share_diff(self, other: Blob) -> None:
        """Have the diff in common with ``other``, the data not."""
        if self.values.diff is not other.values.diff:
            self._point(Values(self.values.data, other.values.diff, self.values.mask))

    def _point(self, values: Values) -> None:
        self.values = values
        self.backend.layouts += 1

    # --------------------------------------------------------------------------------------------------------- mask
    @property
    def mask(self) -> np.ndarray | None:
        """None, or where weights are kept: boolean, read-only, of the blob's shape."""
        memory = self._mask_mem()
        if memory is None:
            return None
        view = memory.array.view(np.bool_)
        view.flags.writeable = False
        return view

    @mask.setter
    def mask(self, keep: Any) -> None:
        values = self.values
        if keep is None:
            if values.arena is not None:
                values.arena.drop_mask(values)
            values.mask.storage = None
            return
        keep = np.asarray(keep)
        if keep.shape != self._shape:
            raise ShapeError(f'blob "{self.name}": a mask must have its shape {self._shape}, got {keep.shape}')
        if values.arena is not None:
            values.arena.place_mask(values)
        memory = values.mask.memory(self._shape, self.count)
        memory.array[...] = keep != 0
        self.apply_mask()

    def _mask_mem(self) -> Memory | None:
        return None if self.values.mask.storage is None else self._memory(self.values.mask)

    def apply_mask(self) -> None:
        """Make every pruned weight +0, also one that was NaN or infinite."""
        keep = self.mask
        if keep is not None:
            self.data[~keep] = 0.0

    def __repr__(self) -> str:
        return f"Blob({self.name!r}, shape={self._shape}{'' if self.values.mask.storage is None else ', masked'})"
