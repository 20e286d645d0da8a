"""What the source layers share: batches at a position, prepared ahead, that a resumed run can go back to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar, Protocol

from ..errors import DataError
from ..layer import Layer
from .datum_feed import DatumFeed
from .device_feed import DeviceFeed
from .prefetch import Prefetcher, Producer
from .resident import Resident, check, resident_items
from .ring import Ring

if TYPE_CHECKING:
    from ..blob import Blob


class Feed(Producer, Protocol):
    """Batches as a pure function of seed and position; positions count items."""

    #: items in a batch
    batch_size: int
    #: shapes of the arrays of a batch, one for each top
    shapes: list[tuple[int, ...]]

    def rekey(self, seed: int) -> None:
        """Draw from ``seed`` from now on."""


class BatchLayer(Layer):
    """Base of layers that copy the next batch of a feed into their tops; a subclass gives the feed in `open`."""

    is_source: ClassVar[bool] = True
    exact_bottoms: ClassVar[int | None] = 0
    min_tops: ClassVar[int] = 1

    def open(self, tops: Sequence[str]) -> tuple[Feed, int]:
        """Return the feed, and how many batches are prepared ahead."""
        raise TypeError(f"{type(self).__name__} must define open")

    def setup(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        with self.context():
            self.feed, self._depth = self.open([str(name) for name in self.param.top])
            check(self.backend, self.feed)
        self._start = 0
        self._closed = False
        self._device: DeviceFeed | None = None
        self._prefetcher: Prefetcher | None = None
        if self.backend.unified:
            self._prefetcher = Prefetcher(self.feed, self.feed.shapes, self.feed.batch_size, self._depth)

    def reshape(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        for blob, shape in zip(top, self.feed.shapes, strict=True):
            blob.reshape(shape)

    def forward(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        tops, prefetcher = list(top), self._prefetcher
        if prefetcher is None:
            self._forward_on_device(tops)
            return

        def load() -> None:
            with self.context():
                prefetcher.take([blob.data for blob in tops])

        self.ops.host(load, reads=(), writes=tops, name="load")

    def _forward_on_device(self, tops: list[Blob]) -> None:
        if self._closed:
            raise DataError("the data source was closed")
        if self._device is None:
            self._device = self._open_device()
        device = self._device

        def load() -> None:
            with self.context():
                device.ahead()

        self.ops.ahead(load, name="load")
        device.record(self.ops, tops)

    def _open_device(self) -> DeviceFeed:
        """The way to feed the device."""
        if isinstance(self.feed, DatumFeed):
            items = resident_items(self.backend, self.feed)
            if items is not None:
                return Resident(self.backend, self.feed, self._start, items)
        return Ring(self.backend, self.feed, self._start, self._depth)

    def position(self) -> int:
        """Number of items that the net has taken."""
        feeder = self._prefetcher or self._device
        return feeder.position if feeder is not None else self._start

    def seek(self, position: int) -> None:
        """Go on as after ``position`` items, under the seed that the layer has now."""
        self.feed.rekey(self.rng_seed)
        self._start = position
        feeder = self._prefetcher or self._device
        if feeder is not None:
            feeder.seek(position)

    def close(self) -> None:
        """End the prefetching thread."""
        self._closed = True
        feeder = getattr(self, "_prefetcher", None) or getattr(self, "_device", None)
        if feeder is not None:
            feeder.close()
