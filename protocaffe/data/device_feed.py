"""Batches for a device with memory of its own: what a replay needs is there before it starts, and nothing in it waits.

Either all items lie in the device's memory (`Resident`) and kernels make batches of them, or batches come through a
ring (`Ring`): a thread prepares them in pinned memory, copies run beside the device's work, kernels do the rest.
"""

from __future__ import annotations

import logging
import threading
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import DataError, ParameterError
from .datum_feed import DatumFeed
from .item_set import ItemSet, item_set
from .order import Order, permutation
from .prefetch import Prefetcher, Producer

if TYPE_CHECKING:
    from ..backends.base import Backend, Mark
    from ..blob import Blob
    from ..memory import Memory
    from ..plan import Recorder
    from .feed import Feed

logger = logging.getLogger("protocaffe.net")

#: batches that the ring holds on the device: one in use, one that waits, one that is being copied
SLOTS = 3
#: arrays beside those that are prepared ahead, so that some may be in flight
IN_FLIGHT = 2
#: sets up to this size are kept on the device unless told otherwise, if they take no more than this part of what is free
AUTO_BYTES, AUTO_PART = 1 << 30, 4
#: a row of the kernels: pieces of items have so many values, but there are no more pieces than fill a device
PIECE, PIECES = 4096, 2048
#: permutations of fewer items are made when they are due
WORTH_A_THREAD = 4096


class DeviceFeed(ABC):
    """What loads batch after batch: `record` says how, `ahead` runs before each replay of what was recorded.

    The host counts the position along with the device, and its count is the one that holds: a replay that never came
    (an error, an interrupt between the two) has taken its batch all the same.
    """

    def __init__(self, backend: Backend, feed: Feed, position: int) -> None:
        self.backend, self.feed = backend, feed
        self.position = position
        #: see kernels/transform.cu
        self._state = backend.empty((5,), np.uint64)
        self._batches = 0
        self._epoch = -1
        self._whole = False
        self._closed = False

    @abstractmethod
    def record(self, ops: Recorder, top: Sequence[Blob]) -> None:
        """Record the calls that write the next batch into the tops and go on to the one after it."""

    def ahead(self) -> None:
        """Let the device have what the next replay reads. Raises DataError for a batch that cannot be read."""
        if self._closed:
            raise DataError("the data source was closed")
        if not self._whole:
            self._restart()
            self._write_state()
        elif self._epoch == self.backend.epoch:  # nothing was replayed since the last time
            self._write_state()
        self._whole = False
        self._prepare()
        self.position += self.feed.batch_size
        self._batches += 1
        self._epoch = self.backend.epoch
        self._whole = True

    def seek(self, position: int) -> None:
        """Go on as after ``position`` items, with what the feed draws now."""
        self.position, self._whole = position, False

    def close(self) -> None:
        """Let go of threads; there will be no more batches."""
        self._closed = True

    def _restart(self) -> None:
        """Drop whatever was prepared."""

    @abstractmethod
    def _prepare(self) -> None:
        """Make sure that the next batch is there, in order with what the device was given."""

    def _write_state(self) -> None:
        key = skip = 0
        if isinstance(self.feed, DatumFeed):
            key, skip = self.feed.transformer.key, self.feed.order.skip
        self._state.assign(
            np.array([self.position, key & (1 << 64) - 1, key >> 64, skip, self._batches], np.uint64)
        )

    def _form(self, **more: int) -> dict[str, int]:
        """The struct that kernels/transform.cu takes."""
        assert isinstance(self.feed, DatumFeed)
        t, batch = self.feed.transformer, self.feed.batch_size
        channels, height, width = self.feed.source.shape
        pieces = min(-(-int(np.prod(t.shape)) // PIECE), -(-PIECES // batch))
        return {
            "channels": channels,
            "height": height,
            "width": width,
            "out_height": t.shape[1],
            "out_width": t.shape[2],
            "random": int(t.random_crop),
            "mirror": int(t.mirror),
            "cropped": 0,
            "mean": 0 if t.mean is None else 2 if t.full_mean else 1,
            "batch": batch,
            "pieces": pieces,
            "slots": 0,
            "epochs": 1,
        } | more

    def _mean(self) -> Memory | None:
        assert isinstance(self.feed, DatumFeed)
        t = self.feed.transformer
        if t.mean is None:
            return None
        mean = t.mean if t.full_mean else np.broadcast_to(t.mean, (t.shape[0], 1, 1))
        return self.backend.from_array(mean, self.backend.real)


class Resident(DeviceFeed):
    """All items in the device's memory. ``feed``'s source is read once, before."""

    def __init__(self, backend: Backend, feed: DatumFeed, position: int, items: ItemSet) -> None:
        super().__init__(backend, feed, position)
        self._items, self._datum = items, feed
        self._means = self._mean()
        self._order = OrderTable(backend, feed.order, feed.batch_size) if feed.order.shuffle else None

    def record(self, ops: Recorder, top: Sequence[Blob]) -> None:
        """Two kernels: items, and labels."""
        form, items = self._form(), self._items
        table = None
        if self._order is not None:
            table = self._order.memory
            form["epochs"] = self._order.epochs
        kernel = "transform_bytes" if items.values.dtype == np.uint8 else "transform_reals"
        rows, scale = form["batch"] * form["pieces"], float(self._datum.transformer.scale)
        ops.launch_rows(
            kernel, rows, form, items.size, items.values, table, self._state, self._means, scale, top[0].data_mem
        )
        labels = (items.labels, top[1].data_mem) if len(top) > 1 else (None, None)
        ops.launch_rows("transform_labels", 1, form, items.size, labels[0], table, self._state, labels[1])

    def _restart(self) -> None:
        if self._order is not None:
            self._order.restart(self._datum.order)

    def _prepare(self) -> None:
        if self._order is not None:
            self._order.need(self.position, self.feed.batch_size)


class OrderTable:
    """The permutations of the epochs that a batch may touch, int32 in the device's memory: epoch e at e % epochs.

    A thread makes the next one while the device works.
    """

    def __init__(self, backend: Backend, order: Order, batch: int) -> None:
        self.epochs = max(2, (batch + order.size - 2) // order.size + 1)
        self.memory = backend.empty((self.epochs * order.size,), np.int32)
        self._backend, self._order = backend, order
        self._hosts = [backend.pinned((order.size,), np.int32) for _ in range(2)]
        self._copied = [backend.mark() for _ in range(2)]
        self._last = -1  # the last epoch that is there
        self._made = -1  # the one that the thread makes, or has made
        self._thread: threading.Thread | None = None

    def restart(self, order: Order) -> None:
        """Begin again, in the order of ``order``."""
        self._join()
        self._order, self._last, self._made = order, -1, -1

    def need(self, position: int, count: int) -> None:
        """Make sure that the order of these positions is there for what the device is given from now on."""
        size = self._order.size
        first = position + self._order.skip
        last = (first + count - 1) // size
        if last <= self._last:
            return
        for epoch in range(max(first // size, self._last + 1), last + 1):
            self._join()
            host = self._hosts[epoch % 2]
            if self._made != epoch:
                self._copied[epoch % 2].wait()
                _permute(self._order, epoch, host)
            self._made = -1
            self._backend.put(self.memory.at(epoch % self.epochs * size, size), host)
            self._backend.reach(self._copied[epoch % 2])
        self._last = last
        self._begin(last + 1)

    def _begin(self, epoch: int) -> None:
        """Let a thread make the permutation of ``epoch``."""
        if self._order.size < WORTH_A_THREAD:
            return
        self._copied[epoch % 2].wait()
        self._made = epoch
        self._thread = threading.Thread(
            target=_permute, args=(self._order, epoch, self._hosts[epoch % 2]), name="protocaffe-order", daemon=True
        )
        self._thread.start()

    def _join(self) -> None:
        if self._thread is not None:
            self._thread.join()
            self._thread = None


def _permute(order: Order, epoch: int, target: np.ndarray) -> None:
    target[...] = permutation(order.key, epoch, order.size)


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
        ops.launch_rows(
            "transform_bytes", rows, form, 0, self._ring[0], None, self._state, self._means, scale, tops[0]
        )
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
        for mark in self._used:  # the ring's memory is zeroed, and its last batches are taken, before this
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


def check(backend: Backend, feed: Feed) -> None:
    """Raise ParameterError where the items shall lie on the device and cannot, whatever they are."""
    if isinstance(feed, DatumFeed) and feed.cache == "DEVICE" and not backend.unified and feed.transformer.resize:
        raise ParameterError(
            "data_param.cache: DEVICE keeps items as they are stored, but resize_param is given: write cache: HOST, or "
            "convert the data set to the size that is wanted"
        )


def device_feed(backend: Backend, feed: Feed, position: int, depth: int) -> DeviceFeed:
    """The way to feed this device."""
    if isinstance(feed, DatumFeed):
        items = _resident_items(backend, feed)
        if items is not None:
            return Resident(backend, feed, position, items)
    return Ring(backend, feed, position, depth)


def _resident_items(backend: Backend, feed: DatumFeed) -> ItemSet | None:
    source = feed.source
    size = ItemSet.bytes_of(source, backend)
    if feed.cache == "DEVICE":
        if size > backend.free_memory():
            raise ParameterError(
                f'data_param.cache: DEVICE needs {size >> 20} MiB for the items of "{source.path}", '
                f"{backend.free_memory() >> 20} MiB of the device's memory are free"
            )
        try:
            return item_set(backend, source)
        except DataError as error:
            raise DataError(f"data_param.cache: DEVICE needs items of one shape that can all be read: {error}") from error
    fits = size <= AUTO_BYTES and size <= backend.free_memory() // AUTO_PART
    if feed.cache != "AUTO" or feed.transformer.resize or not fits:
        return None
    try:
        return item_set(backend, source)
    except DataError as error:  # the ring comes to it when it is due
        logger.info("%s is not kept on the device: %s", source.path, error)
        return None
