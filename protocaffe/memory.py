"""Arrays that may live on the host and on a device, and which copy of them is current."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from .backends.base import Backend


class Storage:
    """A flat array. Where host and device share memory there is one copy and nothing to do; elsewhere a storage is

    - *stale* on the host after a kernel ran: reading it downloads;
    - *current* on both sides after a download or an upload;
    - *dirty* on the host after Python took a view of it (a view may be written to): the next run uploads it.

    A kernel run makes every host copy stale (``backend.epoch``), so nothing has to be noted per call.
    """

    __slots__ = ("_host", "_host_epoch", "backend", "device", "dtype", "size", "__weakref__")

    def __init__(self, backend: Backend, size: int, dtype: Any) -> None:
        self.backend = backend
        self.size = int(size)
        self.dtype = np.dtype(dtype)
        self.device, self._host = backend.allocate(self.size, self.dtype)
        self._host_epoch = backend.epoch

    def host(self) -> np.ndarray:
        """The host copy, brought up to date; it counts as written to."""
        values = self.read()
        if not self.backend.unified:
            self.backend.dirty.add(self)
        return values

    def read(self) -> np.ndarray:
        """The host copy, brought up to date, for those who do not write to it."""
        if self.backend.unified:
            return self._host  # type: ignore[return-value]
        if self._host is None or self._host_epoch != self.backend.epoch:
            self._host = self.backend.download(self)
            self._host_epoch = self.backend.epoch
        return self._host

    def fresh(self) -> np.ndarray:
        """A host copy that is about to be written to in whole, so that nothing need be brought from the device."""
        if not self.backend.unified:
            if self._host is None:
                self._host = np.empty(self.size, self.dtype)
            self._host_epoch = self.backend.epoch
        return self.host()


class Memory:
    """A shaped piece of a storage: what layers hand to kernels."""

    __slots__ = ("offset", "shape", "storage")

    def __init__(self, storage: Storage, shape: tuple[int, ...], offset: int = 0) -> None:
        self.storage = storage
        self.shape = shape
        self.offset = offset

    @property
    def count(self) -> int:
        """Number of elements."""
        return int(np.prod(self.shape, dtype=np.int64))

    @property
    def dtype(self) -> np.dtype:
        """Type of the elements."""
        return self.storage.dtype

    @property
    def array(self) -> np.ndarray:
        """The elements as a NumPy view on the host."""
        return self.storage.host()[self.offset : self.offset + self.count].reshape(self.shape)

    def read(self) -> np.ndarray:
        """A copy of the elements; unlike a view (`array`) it brings nothing back to the device."""
        return self.storage.read()[self.offset : self.offset + self.count].reshape(self.shape).copy()

    def assign(self, values: Any) -> None:
        """Set all elements."""
        whole = self.offset == 0 and self.count == self.storage.size
        (self.storage.fresh().reshape(self.shape) if whole else self.array)[...] = values

    def at(self, offset: int, *shape: int) -> Memory:
        """A piece of this one that starts ``offset`` elements into it."""
        return Memory(self.storage, shape, self.offset + offset)


class Slot:
    """Where a blob's values lie. Blobs that share values share the slot; moving it (into an arena) moves them all.

    ``guard`` is asked before Python reads a blob whose memory is not its own at all times (reuse.py).
    """

    __slots__ = ("backend", "dtype", "guard", "offset", "room", "storage")

    def __init__(self, backend: Backend, dtype: Any) -> None:
        self.backend = backend
        self.dtype = dtype
        self.storage: Storage | None = None
        self.offset = 0
        self.room = 0
        self.guard: Callable[[Any], None] | None = None

    def memory(self, shape: tuple[int, ...], count: int) -> Memory:
        """The values as ``shape``; allocated, zeroed, on first use or when they no longer fit."""
        if self.storage is None or count > self.room:
            storage = Storage(self.backend, max(count, 1), self.dtype)
            self.place(storage, 0)
            return Memory(storage, shape)
        return Memory(self.storage, shape, self.offset)

    def place(self, storage: Storage, offset: int, room: int | None = None) -> None:
        """Point to a piece of ``storage``: ``room`` elements, or all there are from ``offset`` on."""
        self.backend.layouts += 1
        self.storage, self.offset = storage, offset
        self.room = storage.size - offset if room is None else room
