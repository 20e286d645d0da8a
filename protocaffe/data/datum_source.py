"""Items of a Datum database by index, decoded once and kept in memory while the set is small."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from ..errors import DataError
from .datum import RawLayout, decode_datum, has_label
from .leveldb_source import LevelDbReader
from .lmdb_source import LmdbReader, is_leveldb

CACHE_BYTES = 512 << 20
LABEL_SEARCH = 1000
#: bytes of an item from which on one copy less outweighs the work on each item
LARGE = 16 << 10


def open_database(path: str | Path) -> LmdbReader | LevelDbReader:
    """A reader of the LMDB or LevelDB at ``path``. Raises DataError, naming it, where it is neither."""
    return LevelDbReader(path) if is_leveldb(Path(path)) else LmdbReader(path)


class DatumSource:
    """Items of an LMDB or LevelDB: ``fetch(indices)`` gives them as one array, or a list where their shapes differ.

    ``shape`` and ``dtype`` are those of the first item. Sets of up to ``cache_bytes`` decoded bytes are kept, so that
    from the second pass on nothing is decoded. Items of differing shapes need ``same_shape=False`` (random crops).

    Raises DataError, naming path and record, for whatever cannot be read. Not for several threads at once.
    """

    def __init__(
        self,
        path: str | Path,
        force_color: bool = False,
        force_gray: bool = False,
        labels: bool = True,
        same_shape: bool = True,
        cache_bytes: int = CACHE_BYTES,
    ) -> None:
        self.path = Path(path)
        self.labels, self.same_shape = labels, same_shape
        self._force = (force_color, force_gray)
        self._reader = open_database(path)
        self.size = len(self._reader)
        payload = self._reader.read(0)
        first, _ = self._decode(0, payload)
        self._layout = RawLayout.of(payload) if first.dtype == np.uint8 and labels else None
        self.shape: tuple[int, int, int] = first.shape
        self.dtype = first.dtype
        if labels:
            self._check_labels()
        self._cache: np.ndarray | None = None
        self._cache_labels = np.zeros(self.size, np.float32)
        self._filled = np.zeros(self.size, bool)
        self.cached = False  # every item is in the cache
        self._scratch = np.empty((0, *self.shape), self.dtype)
        self._item_bytes = first.nbytes
        self.nbytes = self.size * first.nbytes  # of all items, should they have one shape
        if self.nbytes <= cache_bytes:
            self._cache = np.empty((self.size, *self.shape), self.dtype)

    def __len__(self) -> int:
        return self.size

    @property
    def kind(self) -> tuple[bool, ...]:
        """What decides how records become items, beside the records."""
        return (*self._force, self.labels)

    def fetch(self, indices: np.ndarray) -> tuple[np.ndarray | list[np.ndarray], np.ndarray]:
        """Return the items, (n, C, H, W) or a list of (C, H, W), and their labels, (n,) float32.

        The array is good until the next call, and is not to be written to.
        """
        if self._cache is not None and not self.cached:
            self._fill(indices)
        if self._cache is None:
            return self._fetch_uncached(indices)
        first, count = int(indices[0]), len(indices)
        if indices[-1] - first == count - 1 and (count == 1 or (np.diff(indices) == 1).all()):
            return self._cache[first : first + count], self._cache_labels[first : first + count]
        if len(self._scratch) < count:
            self._scratch = np.empty((count, *self.shape), self.dtype)
        items = self._scratch[:count]
        np.take(self._cache, indices, axis=0, out=items, mode="clip")  # "raise" would copy once more
        return items, self._cache_labels[indices]

    def views(self, indices: np.ndarray) -> tuple[np.ndarray | list[np.ndarray], np.ndarray]:
        """As `fetch`, but what would be copied to one array comes as a list of views, unless the items are small."""
        if self._item_bytes < LARGE:
            return self.fetch(indices)
        if self._cache is not None and not self.cached:
            self._fill(indices)
        if self._cache is not None:
            return [self._cache[index] for index in indices.tolist()], self._cache_labels[indices]
        return self._decode_all(indices)

    def pieces(self, count: int) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
        """The whole set, ``count`` items at a time: (first index, items, labels); nothing of it is kept.

        Raises DataError for an item that has not the first one's shape, even if `fetch` takes it.
        """
        for first in range(0, self.size, count):
            indices = np.arange(first, min(first + count, self.size))
            items, labels = self._fetch_uncached(indices)
            if isinstance(items, list):
                at = next(i for i, item in enumerate(items) if item.shape != self.shape)
                raise DataError(
                    f"{self._name(first + at)}: expected {self.shape} (C, H, W) as in the first record, "
                    f"got {items[at].shape}"
                )
            yield first, items, labels

    def release(self) -> None:
        """Let go of what is kept in memory, and of the file."""
        self._cache = None
        self._reader.close()

    def _fill(self, indices: np.ndarray) -> None:
        assert self._cache is not None
        missing = indices[~self._filled[indices]]
        if not len(missing):
            return
        payloads = self._reader.read_many(missing.tolist())
        split = self._layout.split(payloads) if self._layout else None
        if split:
            self._cache[missing], self._cache_labels[missing] = split
        else:
            for index, payload in zip(missing.tolist(), payloads, strict=True):
                item, self._cache_labels[index] = self._decode(index, payload)
                if not self._fits(item, index):
                    self._cache = None
                    return
                self._cache[index] = item
        self._filled[missing] = True
        if self._filled.all():
            self.cached = True
            self._reader.close()

    def _fetch_uncached(self, indices: np.ndarray) -> tuple[np.ndarray | list[np.ndarray], np.ndarray]:
        items, labels = self._decode_all(indices)
        if isinstance(items, list) and all(item.shape == self.shape for item in items):
            items = np.stack(items)
        return items, labels

    def _decode_all(self, indices: np.ndarray) -> tuple[np.ndarray | list[np.ndarray], np.ndarray]:
        payloads = self._reader.read_many(indices.tolist())
        if self._layout is not None:
            found = (self._layout.split if self._item_bytes < LARGE else self._layout.views)(payloads)
            if found:
                return found[0], found[1].astype(np.float32)
        decoded = [self._decode(index, payload) for index, payload in zip(indices.tolist(), payloads, strict=True)]
        for index, (item, _) in zip(indices.tolist(), decoded, strict=True):
            self._fits(item, index)
        return [item for item, _ in decoded], np.array([label for _, label in decoded], np.float32)

    def _decode(self, index: int, payload: bytes) -> tuple[np.ndarray, float]:
        try:
            item, label = decode_datum(payload, *self._force)
        except ValueError as error:
            raise DataError(f"{self._name(index)}: {error}") from error
        return item, 0 if label is None else label

    def _fits(self, item: np.ndarray, index: int) -> bool:
        """True when the item has the first one's shape and type; False when it may differ. Else raises DataError."""
        if item.shape == self.shape and item.dtype == self.dtype:
            return True
        if item.dtype == self.dtype and item.shape[0] == self.shape[0] and not self.same_shape:
            return False
        raise DataError(
            f"{self._name(index)}: expected {self.shape} {self.dtype} (C, H, W) as in the first record, "
            f"got {item.shape} {item.dtype}"
        )

    def _check_labels(self) -> None:
        for index in range(min(self.size, LABEL_SEARCH)):
            if has_label(self._reader.read(index)):
                return
        raise DataError(f'"{self.path}": no item has a label (looked at {index + 1}); leave out the top for labels')

    def _name(self, index: int) -> str:
        return f'"{self.path}": record {index} (key "{self._reader.key(index).decode("utf-8", "replace")}")'
