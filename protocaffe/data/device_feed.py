"""Batches for a device with memory of its own: what a replay needs is there before it starts, and nothing in it waits.

Either all items lie in the device's memory (resident.py) and kernels make batches of them, or batches come through a
ring (ring.py): a thread prepares them in pinned memory, copies run beside the device's work, kernels do the rest.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from ..errors import DataError
from .datum_feed import DatumFeed

if TYPE_CHECKING:
    from ..backends.base import Backend
    from ..blob import Blob
    from ..memory import Memory
    from ..plan import Recorder
    from .feed import Feed

#: a row of the kernels is a piece of an item of so many values, but there are no more pieces than fill a device
PIECE, PIECES = 4096, 2048


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
        self._epoch = self._broken = -1
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
        elif (
            self._epoch == self.backend.epoch  # nothing was replayed since the last time
            or self._broken != self.backend.broken
        ):  # or maybe not all that follows a batch
            self._write_state()
        self._whole = False
        self._prepare()
        self.position += self.feed.batch_size
        self._batches += 1
        self._epoch, self._broken = self.backend.epoch, self.backend.broken
        self._whole = True

    def seek(self, position: int) -> None:
        """Go on as after ``position`` items, with what the feed draws now."""
        self.position, self._whole = position, False

    def close(self) -> None:
        """Let go of threads; there will be no more batches."""
        self._closed = True

    @abstractmethod
    def _restart(self) -> None:
        """Drop whatever was prepared: the next batch begins at the position."""

    @abstractmethod
    def _prepare(self) -> None:
        """Make sure that the next batch is there, in order with what the device was given."""

    def _write_state(self) -> None:
        key = skip = 0
        if isinstance(self.feed, DatumFeed):
            key, skip = self.feed.transformer.key, self.feed.order.skip
        self._state.assign(np.array([self.position, key & (1 << 64) - 1, key >> 64, skip, self._batches], np.uint64))

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
