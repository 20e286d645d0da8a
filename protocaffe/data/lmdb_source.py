"""LMDBs as Caffe writes them: a folder with data.mdb, one record an item, in the order of their keys."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from ..errors import DataError
from ..io.files import claim, make_folders, sync_folder
from .lmdb_pages import LmdbFile, PageError

BATCH = 1000
FIRST_MAP_SIZE = 1 << 28
#: records from which on they are read page by page
WORTH_A_RUN = 64


def _reason(error: Exception) -> str:
    return str(error).rpartition(": ")[2]


def _check_folder(path: Path) -> None:
    if not path.exists():
        raise DataError(f'"{path}": no such folder (expected an LMDB; relative paths start at {Path.cwd()})')
    if not path.is_dir():
        raise DataError(f'"{path}" is a file: an LMDB is a folder with data.mdb in it')
    if not (path / "data.mdb").is_file():
        if is_leveldb(path):
            raise DataError(f'"{path}" is a LevelDB, expected an LMDB')
        raise DataError(f'"{path}" is not an LMDB: it has no data.mdb')
    if not (path / "data.mdb").stat().st_size:
        raise DataError(f'"{path}" is not an LMDB: data.mdb is empty')


def is_leveldb(path: Path) -> bool:
    """True when the folder looks like a LevelDB."""
    return (path / "CURRENT").is_file() and any(path.glob("MANIFEST-*"))


class LmdbReader:
    """Values of an LMDB by index in the order of their keys; reading on from the last index is fastest.

    Not for several threads at once. Raises DataError, naming the folder, when it is missing, of another kind,
    truncated, damaged or empty.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        _check_folder(self.path)
        try:
            self._file = LmdbFile(self.path / "data.mdb")
        except PageError as error:
            raise DataError(f'"{self.path}" {error}') from error
        except OSError as error:
            raise DataError(f'"{self.path}" cannot be read: {error.strerror}') from error
        if not self._file.entries:
            raise DataError(f'"{self.path}": the LMDB is empty')
        self._at = -1  # index of the current record, -1 before the first, -2 unknown

    def __len__(self) -> int:
        return self._file.entries

    def read(self, index: int) -> bytes:
        """Return the value of record ``index``, 0 <= index < len(self)."""
        return self._get(index, self._file.value)

    def read_many(self, indices: Sequence[int]) -> list[bytes]:
        """Return the values of these records; fast where they follow one another."""
        if len(indices) < WORTH_A_RUN or list(indices) != list(range(indices[0], indices[0] + len(indices))):
            return [self.read(index) for index in indices]
        found: list[bytes] = []
        while len(found) < len(indices):
            index = indices[len(found)]
            found.append(self.read(index))
            self._at = -2  # unknown, should this fail
            try:
                more = self._file.run(len(indices) - len(found))
            except (PageError, OSError) as error:
                raise DataError(f'"{self.path}": record {index + 1} cannot be read ({error})') from error
            self._at = index + len(more)
            found += more
        return found

    def key(self, index: int) -> bytes:
        """Return the key of record ``index``."""
        return self._get(index, self._file.key)

    def _get(self, index: int, what: Callable[[], bytes]) -> bytes:
        at, self._at = self._at, -2  # unknown, should this fail
        try:
            if index == 0:
                self._file.first()
            elif index == at + 1 and at >= 0:
                self._file.next()
            elif index != at:
                self._file.go(index)
            found = what()
        except (PageError, OSError) as error:
            raise DataError(f'"{self.path}": record {index} cannot be read ({error})') from error
        self._at = index
        return found

    def close(self) -> None:
        """Let go of the file."""
        self._file.close()


class LmdbWriter:
    """Writes records with Caffe's keys (%08d) into a temporary folder, which gets its name when all is well.

    Use as a context manager; an exception inside leaves nothing behind. What a killed process left is removed by the
    next writer of the same name. Raises DataError when ``path`` exists.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.count = 0
        self._pending: list[tuple[bytes, bytes]] = []
        self._env: Any = None
        self._lock = -1

    def __enter__(self) -> LmdbWriter:
        import lmdb

        if self.path.exists():
            raise DataError(f'"{self.path}" is there already: an LMDB is not written over it')
        try:
            make_folders(self.path.parent)
            self._temporary, self._lock = claim(self.path, _make_folder)
        except OSError as error:
            raise DataError(f'"{self.path}" cannot be written: {error.strerror}') from error
        try:
            self._env = lmdb.open(str(self._temporary), map_size=FIRST_MAP_SIZE, sync=False)
        except lmdb.Error as error:
            self._remove()
            raise DataError(f'"{self.path}" cannot be written ({_reason(error)})') from error
        return self

    def put(self, value: bytes) -> None:
        """Append one record."""
        self._pending.append((b"%08d" % self.count, value))
        self.count += 1
        if len(self._pending) >= BATCH:
            self._flush()

    def _flush(self) -> None:
        import lmdb

        while self._pending:
            try:
                with self._env.begin(write=True) as transaction:
                    for key, value in self._pending:
                        transaction.put(key, value, append=True)
                self._pending.clear()
            except lmdb.MapFullError:
                self._env.set_mapsize(self._env.info()["map_size"] * 2)
            except lmdb.Error as error:
                raise DataError(f'"{self.path}" cannot be written ({_reason(error)})') from error

    def __exit__(self, kind: object, *_: object) -> None:
        import lmdb

        try:
            try:
                if kind is None:
                    self._flush()
                    self._env.sync(True)
            finally:
                self._env.close()
            if kind is None:
                (self._temporary / "lock.mdb").unlink(missing_ok=True)
                sync_folder(self._temporary)
                os.rename(self._temporary, self.path)
                sync_folder(self.path.parent)
        except (OSError, lmdb.Error) as error:
            reason = error.strerror if isinstance(error, OSError) else _reason(error)
            raise DataError(f'"{self.path}" cannot be written ({reason})') from error
        finally:
            self._remove()

    def _remove(self) -> None:
        shutil.rmtree(self._temporary, ignore_errors=True)
        os.close(self._lock)


def _make_folder(path: Path) -> int:
    path.mkdir()
    return os.open(path, os.O_RDONLY)


def write_lmdb(path: str | Path, values: Iterable[bytes], progress: Callable[[int], None] | None = None) -> int:
    """Write ``values`` as a new LMDB at ``path``; return how many. ``progress`` gets the count now and then."""
    with LmdbWriter(path) as writer:
        for value in values:
            writer.put(value)
            if progress and writer.count % BATCH == 0:
                progress(writer.count)
    return writer.count
