"""All items of a Datum database in a device's memory; nets of one process that read the same database share them."""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING
from weakref import WeakValueDictionary

import numpy as np

from .datum_source import DatumSource

if TYPE_CHECKING:
    from ..backends.base import Backend

logger = logging.getLogger("protocaffe.net")

#: bytes that are decoded at a time
PIECE_BYTES = 16 << 20

_sets: WeakValueDictionary[tuple, ItemSet] = WeakValueDictionary()


class ItemSet:
    """The items, bytes as bytes, and their labels. Raises DataError for an item that has not the first one's shape."""

    def __init__(self, backend: Backend, source: DatumSource) -> None:
        dtype = np.dtype(np.uint8) if source.dtype == np.uint8 else backend.real
        self.size = len(source)
        self.values = backend.empty((self.size, *source.shape), dtype)
        self.labels = backend.empty((self.size,)) if source.labels else None
        item = int(np.prod(source.shape))
        labels = np.empty(self.size, backend.real)
        for first, items, some in source.pieces(max(1, PIECE_BYTES // item)):
            piece = np.ascontiguousarray(items, dtype)
            backend.put(self.values.at(first * item, piece.size), piece)
            labels[first : first + len(some)] = some
        if self.labels is not None:
            backend.put(self.labels, labels)
        backend.synchronize()

    @staticmethod
    def bytes_of(source: DatumSource, backend: Backend) -> int:
        """What the items of ``source`` take on the device."""
        size = 1 if source.dtype == np.uint8 else backend.real.itemsize
        return source.nbytes // source.dtype.itemsize * size


def shared_set(backend: Backend, source: DatumSource) -> ItemSet | None:
    """The items of ``source``, should they be on the device already; the source is let go then."""
    found = _sets.get(_key(backend, source))
    if found is not None:
        source.release()
    return found


def read_set(backend: Backend, source: DatumSource) -> ItemSet:
    """The items of ``source``, brought to the device; the source is let go."""
    made = _sets[_key(backend, source)] = ItemSet(backend, source)
    size = ItemSet.bytes_of(source, backend) >> 20
    logger.info("%s: %d items, %d MiB, are kept on the device", source.path, len(source), size)
    source.release()
    return made


def _key(backend: Backend, source: DatumSource) -> tuple:
    """What tells items from any others: the device, how records become items, the files as they are now."""
    with os.scandir(source.path) as entries:
        files = sorted((e.name, e.stat().st_mtime_ns, e.stat().st_size) for e in entries if e.name != "lock.mdb")
    return backend, source.kind, os.path.realpath(source.path), tuple(files)
