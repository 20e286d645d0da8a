"""Rows of the HDF5 files that a text file lists, as Caffe's HDF5Data reads them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from ..errors import DataError
from .datum_source import CACHE_BYTES
from .order import permutation, stream_key

#: bytes of values for a byte of a file: gzip packs up to 1032 to 1
MAX_RATIO = 1100


class Hdf5Source:
    """Batches of rows: file after file as listed, row after row, then all over again.

    With ``shuffle`` the files, and the rows of each, are permuted in every pass. Each name is a data set of the files,
    (rows, ...), read as float32. Files are read whole and kept while they need less than ``cache_bytes``.

    Raises DataError, naming the file, for what is missing, of another shape or no number.
    """

    def __init__(
        self,
        list_file: str | Path,
        names: Sequence[str],
        batch_size: int,
        shuffle: bool = False,
        key_names: Sequence[object] = (),
        seed: int = 0,
        cache_bytes: int = CACHE_BYTES,
    ) -> None:
        self.names, self.batch_size, self.shuffle = list(names), batch_size, shuffle
        self._key_names, self._cache_bytes = tuple(key_names), cache_bytes
        self.files = _read_list(Path(list_file))
        self._rows: list[int] = []
        row_shapes: list[tuple[int, ...]] = []
        for path in self.files:
            rows, shapes = self._inspect(path)
            self._rows.append(rows)
            row_shapes = row_shapes or shapes
            for name, wanted, got in zip(self.names, row_shapes, shapes, strict=True):
                if wanted != got:
                    raise DataError(f'"{path}": rows of "{name}" must be {wanted} as in "{self.files[0]}", got {got}')
        self.size = sum(self._rows)
        self.shapes: list[tuple[int, ...]] = [(batch_size, *shape) for shape in row_shapes]
        self._loaded: dict[int, list[np.ndarray]] = {}
        self.rekey(seed)

    @property
    def settled(self) -> bool:
        """True when all files are in memory."""
        return len(self._loaded) == len(self.files)

    def rekey(self, seed: int) -> None:
        """Draw from ``seed`` from now on."""
        self._plan = _Plan(self._rows, self.shuffle, seed, self._key_names)

    def produce(self, position: int, arrays: Sequence[np.ndarray]) -> None:
        """Write the rows from ``position`` on into ``arrays``, one array (batch_size, ...) for each name."""
        done = 0
        while done < self.batch_size:
            file, rows = self._plan.rows(position + done, self.batch_size - done)
            for source, target in zip(self._load(file), arrays, strict=True):
                target[done : done + len(rows)] = source[rows]
            done += len(rows)

    def _load(self, file: int) -> list[np.ndarray]:
        if file not in self._loaded:
            arrays = self._read(self.files[file])
            self._loaded[file] = arrays
            while len(self._loaded) > 1 and self._bytes() > self._cache_bytes:
                self._loaded.pop(next(iter(self._loaded)))
        return self._loaded[file]

    def _bytes(self) -> int:
        return sum(array.nbytes for arrays in self._loaded.values() for array in arrays)

    def _read(self, path: Path) -> list[np.ndarray]:
        with _open_file(path) as file, _damage_of(path):
            return [file[name].astype(np.float32)[...] for name in self.names]

    def _inspect(self, path: Path) -> tuple[int, list[tuple[int, ...]]]:
        """Return the number of rows of a file, and a row's shape for each name."""
        import h5py

        with _open_file(path) as file, _damage_of(path):
            shapes = []
            for name in self.names:
                if name not in file:
                    raise DataError(f'"{path}" has no data set "{name}" (a top\'s name): it has {_listing(file)}')
                data_set = file[name]
                if not isinstance(data_set, h5py.Dataset) or data_set.dtype.kind not in "fiub":
                    raise DataError(f'"{path}": "{name}" must be a data set of numbers')
                if not data_set.ndim or not data_set.shape[0]:
                    raise DataError(
                        f'"{path}": "{name}" must have one axis or more and at least one row, got {data_set.shape}'
                    )
                if data_set.nbytes > MAX_RATIO * path.stat().st_size:
                    raise DataError(
                        f'"{path}": "{name}" claims the shape {data_set.shape}, more than a file of this size can hold'
                    )
                shapes.append(tuple(data_set.shape))
        for name, shape in zip(self.names, shapes, strict=True):
            if shape[0] != shapes[0][0]:
                raise DataError(
                    f'"{path}": all data sets must have as many rows as "{self.names[0]}" ({shapes[0][0]}), '
                    f'"{name}" has {shape[0]}'
                )
        return shapes[0][0], [shape[1:] for shape in shapes]


class _Plan:
    """Which rows of which file stand at a position."""

    def __init__(self, rows: Sequence[int], shuffle: bool, seed: int, names: Sequence[object]) -> None:
        self._rows, self._shuffle = list(rows), shuffle
        self._size = sum(rows)
        self._file_key = stream_key(seed, *names, "files")
        self._row_key = stream_key(seed, *names, "rows")
        self._epoch = -1
        self._files = np.arange(len(rows))
        self._ends = np.cumsum(rows)
        self._row_order: tuple[int, np.ndarray] = (-1, np.empty(0, np.int64))

    def rows(self, position: int, count: int) -> tuple[int, np.ndarray]:
        """Return a file and up to ``count`` of its rows, for the positions from ``position`` on."""
        epoch, at = divmod(position, self._size)
        if self._shuffle and epoch != self._epoch:
            self._files = permutation(self._file_key, epoch, len(self._rows))
            self._ends = np.cumsum(np.asarray(self._rows)[self._files])
            self._epoch = epoch
        turn = int(np.searchsorted(self._ends, at, side="right"))
        file = int(self._files[turn])
        first = at - (int(self._ends[turn]) - self._rows[file])
        last = min(first + count, self._rows[file])
        if not self._shuffle:
            return file, np.arange(first, last, dtype=np.int64)
        stream = epoch * len(self._rows) + file
        if self._row_order[0] != stream:
            self._row_order = (stream, permutation(self._row_key, stream, self._rows[file]))
        return file, self._row_order[1][first:last]


def _read_list(path: Path) -> list[Path]:
    try:
        names = path.read_text(encoding="utf-8").split()
    except OSError as error:
        raise DataError(f'"{path}": the list of HDF5 files cannot be read ({error.strerror})') from error
    except UnicodeDecodeError as error:
        raise DataError(f'"{path}" must be a text file that lists HDF5 files') from error
    if not names:
        raise DataError(f'"{path}": the list of HDF5 files is empty')
    return [Path(name) for name in names]


@contextmanager
def _damage_of(path: Path) -> Iterator[None]:
    """Whatever h5py raises at a damaged file becomes a DataError: which exceptions these are is not documented."""
    try:
        yield
    except (DataError, MemoryError):
        raise
    except Exception as error:
        raise DataError(f'"{path}" cannot be read ({error})') from error


def _open_file(path: Path):
    import h5py

    if not path.is_file():
        raise DataError(f'"{path}": no such HDF5 file (relative paths start at {Path.cwd()})')
    try:
        return h5py.File(path, "r")
    except Exception as error:
        raise DataError(f'"{path}" cannot be opened as HDF5 ({error})') from error


def _listing(file: object) -> str:
    return ", ".join(f'"{name}"' for name in file) or "none"  # type: ignore[attr-defined]
