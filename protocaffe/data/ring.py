"""Batches that a thread prepares and that are copied to a device beside its work."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from .datum_feed import DatumFeed
from .device_feed import DeviceFeed
from .prefetch import Prefetcher, Producer

if TYPE_CHECKING:
    from ..backends.base import Backend
    from ..backends.copies import Mark
    from ..blob import Blob
    from ..plan import Recorder
    from .feed import Feed

#: batches that the ring holds on the device: one in use, one that waits, one that is being copied
SLOTS = 3
#: arrays beside those that are prepared ahead, so that some may be in flight
IN_FLIGHT = 2


class _Cutter:
    """A feed as a producer of items as they are stored."""

    def __init__(self, feed: DatumFeed) -> None:
        self._feed = feed

    @property
    def settled(self) -> bool:
        return self._feed.settled

    def produce(self, position: int, arrays: Sequence[np.ndarray]) -> None:
        self._feed.cut(position, arrays)


class _Wide:
    """A feed, which makes float32, as a producer of arrays of another type."""

    def __init__(self, feed: Feed) -> None:
        self._feed = feed
        self._arrays = [np.empty(shape, np.float32) for shape in feed.shapes]

    @property
    def settled(self) -> bool:
        return self._feed.settled

    def produce(self, position: int, arrays: Sequence[np.ndarray]) -> None:
        self._feed.produce(position, self._arrays)
        for array, made in zip(arrays, self._arrays, strict=True):
            array[...] = made


class Ring(DeviceFeed):
    """Batches that are prepared ahead by a thread, ``depth`` of them, and copied while the device works.

    Bytes travel as bytes, cropped; what is left to do is done by the device. Everything else travels finished.
    """

    def __init__(self, backend: Backend, feed: Feed, position: int, depth: int) -> None:
        super().__init__(backend, feed, position)
        self._depth = depth
        self._cut = isinstance(feed, DatumFeed) and feed.source.dtype == np.uint8 and feed.transformer.resize is None
        self._means = self._mean() if self._cut else None
        self._dtypes = [np.dtype(np.uint8) if self._cut and i == 0 else backend.real for i in range(len(feed.shapes))]
        self._ring = [
            backend.empty((SLOTS, *shape), dtype) for shape, dtype in zip(feed.shapes, self._dtypes, strict=True)
        ]
        #: what stands behind the last use of a slot, and behind the copy into it
        self._used = [backend.mark() for _ in range(SLOTS)]
        self._arrived: list[Mark] = list(self._used)
        self._hosts: list[list[np.ndarray]] = []
        self._copied: dict[int, Mark] = {}
        self._prefetcher: Prefetcher | None = None
        self._flying: deque[list[np.ndarray]] = deque()
        self._sent = 0

    def record(self, ops: Recorder, top: Sequence[Blob]) -> None:
        """A kernel for each array; the last one, or one of its own, goes on to the next slot."""
        tops = [blob.data_mem for blob in top]
        if not self._cut:
            for ring, memory in zip(self._ring, tops, strict=True):
                ops.launch("transform_take", memory.count, SLOTS, self._state, ring, memory)
            ops.launch("transform_next", 1, self.feed.batch_size, self._state)
            return
        assert isinstance(self.feed, DatumFeed)
        form = self._form(cropped=1, slots=SLOTS)
        rows, scale = form["batch"] * form["pieces"], float(self.feed.transformer.scale)
        ops.launch_rows("transform_bytes", rows, form, 0, self._ring[0], None, self._state, self._means, scale, tops[0])
        labels = (self._ring[1], tops[1]) if len(tops) > 1 else (None, None)
        ops.launch_rows("transform_labels", 1, form, 0, labels[0], None, self._state, labels[1])

    def close(self) -> None:
        """End the thread, and wait for copies under way."""
        super().close()
        self._stop()

    def _stop(self) -> None:
        if self._prefetcher is not None:
            self._prefetcher.close()
        self._prefetcher = None
        for mark in self._copied.values():
            mark.wait()

    def _restart(self) -> None:
        self._stop()
        feed, backend = self.feed, self.backend
        self._hosts = [
            [backend.pinned(shape, dtype) for shape, dtype in zip(feed.shapes, self._dtypes, strict=True)]
            for _ in range(self._depth + IN_FLIGHT)
        ]
        self._copied = {id(host): backend.mark() for host in self._hosts}
        producer: Producer = feed
        if self._cut:
            assert isinstance(feed, DatumFeed)
            producer = _Cutter(feed)
        elif backend.real != np.float32:
            producer = _Wide(feed)
        self._prefetcher = Prefetcher(producer, feed.shapes, feed.batch_size, self._depth, list(self._hosts))
        self._prefetcher.seek(self.position)
        self._flying.clear()
        self._sent = self._batches
        for ring in self._ring:  # a device may take memory, zeroed in order with its work, when it is first used
            backend.put(ring.at(0, 1), np.zeros(1, ring.dtype))
        for mark in self._used:  # what is sent comes behind that, and behind what used the ring before
            backend.reach(mark)

    def _prepare(self) -> None:
        assert self._prefetcher is not None
        if self._batches:
            self.backend.reach(self._used[(self._batches - 1) % SLOTS])
        while self._flying and self._copied[id(self._flying[0])].reached():
            self._prefetcher.release(self._flying.popleft())
        if self._sent == self._batches:
            self._send(self._next())
        self.backend.follow(self._arrived[self._batches % SLOTS])
        while self._sent < self._batches + SLOTS:
            host = self._prefetcher.acquire(wait=False)
            if host is None:
                break
            self._send(host)

    def _next(self) -> list[np.ndarray]:
        """The batch that is due."""
        assert self._prefetcher is not None
        if len(self._flying) == len(self._hosts):
            landed = self._flying.popleft()
            self._copied[id(landed)].wait()
            self._prefetcher.release(landed)
        host = self._prefetcher.acquire()
        assert host is not None
        return host

    def _send(self, host: list[np.ndarray]) -> None:
        slot = self._sent % SLOTS
        mark = self._copied[id(host)]
        for ring, array in zip(self._ring, host, strict=True):
            self.backend.send(ring.at(slot * array.size, array.size), array, mark, self._used[slot])
        self._arrived[slot] = mark
        self._flying.append(host)
        self._sent += 1
