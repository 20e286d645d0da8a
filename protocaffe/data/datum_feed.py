"""Batches of a Datum LMDB: order, cache and transformation put together."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import DataError, ParameterError
from .datum_source import CACHE_BYTES, DatumSource
from .lmdb_source import is_leveldb
from .order import Order, draws, stream_key
from .transformer import Transformer

#: names of data_param.cache's values, and what HOST and DEVICE may keep in the host's memory
CACHES = ("AUTO", "NONE", "HOST", "DEVICE")
MEMORY_BYTES = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


class DatumFeed:
    """Batches for a Data layer: items (N, C, H, W) and, with ``labels``, labels (N,).

    ``param`` is the LayerParameter, whose data_param and transform_param are read; ``seed`` and its name address what
    is drawn (order, skip, crop, mirror).

    Raises DataError for a source that cannot be read, ParameterError for a batch size of 0.
    """

    def __init__(self, param: Any, phase: int, seed: int, labels: bool = True, cache_bytes: int | None = None) -> None:
        data, transform = param.data_param, param.transform_param
        self.cache = CACHES[data.cache]
        if cache_bytes is None:
            cache_bytes = {"AUTO": CACHE_BYTES, "NONE": 0}.get(self.cache, MEMORY_BYTES)
        _check_backend(data)
        if not data.batch_size:
            raise ParameterError("data_param.batch_size must be 1 or more, got 0")
        if transform.force_color and transform.force_gray:
            raise ParameterError("force_color and force_gray are both set: expected one of them")
        self._param, self._phase = param, phase
        self.batch_size = int(data.batch_size)
        self.source = DatumSource(
            data.source,
            force_color=transform.force_color or data.force_encoded_color,
            force_gray=transform.force_gray,
            labels=labels,
            same_shape=not transform.crop_size and not transform.HasField("resize_param"),
            cache_bytes=cache_bytes,
        )
        if self.cache in ("HOST", "DEVICE") and self.source.nbytes > MEMORY_BYTES:
            raise ParameterError(
                f"data_param.cache: {self.cache} needs {self.source.nbytes >> 20} MiB for the items of "
                f'"{data.source}", the machine has {MEMORY_BYTES >> 20}'
            )
        try:
            self.transformer = Transformer(transform, phase, self.source.shape)
        except DataError as error:
            raise DataError(f'"{data.source}": {error}') from error
        self.shapes: list[tuple[int, ...]] = [(self.batch_size, *self.transformer.shape)]
        if labels:
            self.shapes.append((self.batch_size,))
        self.rekey(seed)

    @property
    def settled(self) -> bool:
        """True when all items are in memory."""
        return self.source.cached

    def rekey(self, seed: int) -> None:
        """Draw from ``seed`` from now on."""
        data, name = self._param.data_param, self._param.name
        skip = 0
        if data.rand_skip:
            skip = int(draws(stream_key(seed, name, "skip"), 0, 1)[0, 0]) % data.rand_skip
        key = stream_key(seed, name, "transform")
        self.order = Order(len(self.source), data.shuffle, stream_key(seed, name, "order"), skip)
        self.transformer = self.transformer.with_key(key)

    def cut(self, position: int, arrays: Sequence[np.ndarray]) -> None:
        """As `produce`, but items as they are stored, cropped and nothing else: a device does the rest."""
        items, labels = self.source.views(self.order.indices(position, self.batch_size))
        try:
            self.transformer.cut(items, position, arrays[0])
        except DataError as error:
            raise DataError(f'"{self.source.path}": {error}') from error
        if len(arrays) > 1:
            arrays[1][...] = labels

    def produce(self, position: int, arrays: Sequence[np.ndarray]) -> None:
        """Write the batch that begins at ``position`` into ``arrays``."""
        items, labels = self.source.fetch(self.order.indices(position, self.batch_size))
        try:
            self.transformer.apply(items, position, arrays[0])
        except DataError as error:
            raise DataError(f'"{self.source.path}": {error}') from error
        if len(arrays) > 1:
            arrays[1][...] = labels


def _check_backend(data: Any) -> None:
    from ..io import schema

    if not data.source:
        raise ParameterError("data_param.source must name a folder, got nothing")
    path = Path(data.source)
    if data.backend == schema.DataParameter.LMDB:
        if is_leveldb(path):
            raise DataError(f'"{path}" is a LevelDB, but data_param.backend is LMDB: write backend: LEVELDB')
        return
    if (path / "data.mdb").is_file():
        raise DataError(f'"{path}" is an LMDB, but data_param.backend is LEVELDB (its default): write backend: LMDB')
    if not path.exists():
        raise DataError(f'"{path}": no such folder (expected a LevelDB; relative paths start at {Path.cwd()})')
    if not is_leveldb(path):
        raise DataError(f'"{path}" is not a LevelDB: it has no CURRENT and MANIFEST files')
