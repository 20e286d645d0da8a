"""Arrays that may live on the host and on a device, and which copy of them is current."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

import numpy as np

if TYPE_CHECKING:
    from .backends.base import Backend


class Loans:
    """Who else may use memory of the device: arrays of other tools on it, for as long as they live."""

    __slots__ = ("_holders", "_open")

    def __init__(self) -> None:
        self._holders: WeakSet[Any] = WeakSet()
        self._open = False

    def add(self, holder: Any) -> None:
        """Lend to one more."""
        self._holders.add(holder)
        self._open = True

    def __bool__(self) -> bool:
        return bool(self._holders)

    def may_have_written(self) -> bool:
        """Whether anybody had it since this was last asked: one who is gone may have written before."""
        opened, self._open = self._open, bool(self._holders)
        return opened


class Storage:
    """A flat array. Where host and device share memory there is one copy and nothing to do; elsewhere a storage is

    - *stale* on the host after a kernel ran: reading it downloads;
    - *current* on both sides after a download or an upload;
    - *dirty* on the host after Python took a view of it (a view may be written to): the next run uploads it.

    A kernel run makes every host copy stale (``backend.epoch``), so nothing has to be noted per call.

    While it is *lent* (`lend`) other tools may write to the device's copy at any time: the host's is then stale
    whenever it is read, and of a dirty one only the elements that Python changed are uploaded, so that neither side's
    writes undo the other's. (Of an element that both wrote, Python's value stays.)
    """

    __slots__ = ("_before", "_host", "_host_epoch", "_loans", "backend", "device", "dtype", "size", "__weakref__")

    def __init__(self, backend: Backend, size: int, dtype: Any) -> None:
        self.backend = backend
        self.size = int(size)
        self.dtype = np.dtype(dtype)
        self.device, self._host = backend.allocate(self.size, self.dtype)
        self._host_epoch = backend.epoch
        self._loans: Loans | None = None
        #: of a dirty host copy of lent memory: what it was when Python got it
        self._before: np.ndarray | None = None

    def host(self) -> np.ndarray:
        """The host copy, brought up to date; it counts as written to."""
        values = self.read()
        if not self.backend.unified:
            self.backend.dirty.add(self)
            if self._loans and self._before is None:
                self._before = values.copy()
        return values

    def read(self) -> np.ndarray:
        """The host copy, brought up to date, for those who do not write to it."""
        if self.backend.unified:
            return self._host  # type: ignore[return-value]
        lent = self._loans is not None and self._loans.may_have_written()
        if lent:
            self.backend.wait_for_others()
            self._push_and_stay_dirty()
        if lent or self._host is None or self._host_epoch != self.backend.epoch:
            self._host = self.backend.download(self)
            self._host_epoch = self.backend.epoch
            if self._before is not None:
                self._before[...] = self._host
        return self._host

    def assign(self, values: Any, shape: tuple[int, ...]) -> None:
        """Set all elements; nothing need be brought from the device for it."""
        if self._host is None:
            self._host, self._host_epoch = np.empty(self.size, self.dtype), -1
        self._host.reshape(shape)[...] = values  # values that do not fit leave the device's as they are
        if not self.backend.unified:
            self._host_epoch = self.backend.epoch
            self._before = None
            self.backend.dirty.add(self)

    def push(self) -> None:
        """Bring to the device what Python wrote."""
        host, before, self._before = self._host, self._before, None
        assert host is not None
        if before is not None:
            bits = f"u{self.dtype.itemsize}"
            same = host.view(bits) == before.view(bits)
            if same.all():
                return
            self._host = None
            host[same] = self.backend.download(self)[same]
            self._host = host
        self.backend.upload(self)

    def _push_and_stay_dirty(self) -> None:
        """Python may go on to write to the views it has."""
        if self in self.backend.dirty:
            self.push()
            assert self._host is not None
            self._before = self._host.copy()

    def lend(self, holder: Any) -> None:
        """Let others use the device's copy, with all that Python wrote so far, for as long as ``holder`` lives."""
        if self.backend.unified:
            return
        self.backend.wait_for_others()
        self._push_and_stay_dirty()
        if self._loans is None:
            self._loans = Loans()
        self._loans.add(holder)
        self.backend.loans.add(holder)
        self.backend.let_others_wait()


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
        if self.offset == 0 and self.count == self.storage.size:
            self.storage.assign(values, self.shape)
        else:
            self.array[...] = values

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
