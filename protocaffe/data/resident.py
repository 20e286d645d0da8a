"""Batches of items that all lie in a device's memory."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from ..errors import DataError, ParameterError
from .datum_feed import DatumFeed
from .datum_source import DatumSource
from .device_feed import DeviceFeed
from .item_set import ItemSet, read_set, shared_set
from .order_table import OrderTable

if TYPE_CHECKING:
    from ..backends.base import Backend
    from ..blob import Blob
    from ..plan import Recorder
    from .feed import Feed

logger = logging.getLogger("protocaffe.net")

#: unless told otherwise sets up to this size are kept on the device, if they take no more than this part of what is
#: free
AUTO_BYTES, AUTO_PART = 1 << 30, 4


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


def check(backend: Backend, feed: Feed) -> None:
    """Raise ParameterError where the items shall lie on the device and cannot, whatever they are."""
    if isinstance(feed, DatumFeed) and feed.cache == "DEVICE" and not backend.unified and feed.transformer.resize:
        raise ParameterError(
            "data_param.cache: DEVICE keeps items as they are stored, but resize_param is given: write cache: HOST, or "
            "convert the data set to the size that is wanted"
        )


def resident_items(backend: Backend, feed: DatumFeed) -> ItemSet | None:
    """The feed's items on the device, or None where they are not to lie there.

    Raises ParameterError or DataError where they must and cannot.
    """
    if feed.cache not in ("AUTO", "DEVICE") or feed.transformer.resize:
        return None
    source = feed.source
    return shared_set(backend, source) or (_read if feed.cache == "DEVICE" else _read_if_it_fits)(backend, source)


def _read(backend: Backend, source: DatumSource) -> ItemSet:
    size, free = ItemSet.bytes_of(source, backend), backend.free_memory()
    if size > free:
        raise ParameterError(
            f'data_param.cache: DEVICE needs {size >> 20} MiB for the items of "{source.path}", '
            f"{free >> 20} MiB of the device's memory are free"
        )
    try:
        return read_set(backend, source)
    except DataError as error:
        text = "data_param.cache: DEVICE needs items of one shape that can all be read"
        raise DataError(f"{text}: {error}") from error


def _read_if_it_fits(backend: Backend, source: DatumSource) -> ItemSet | None:
    size = ItemSet.bytes_of(source, backend)
    if size > AUTO_BYTES or size > backend.free_memory() // AUTO_PART:
        return None
    try:
        return read_set(backend, source)
    except DataError as error:  # the ring comes to it when it is due
        logger.info("%s is not kept on the device: %s", source.path, error)
        return None
