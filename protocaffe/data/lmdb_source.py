"""LMDBs as Caffe writes them: a folder with data.mdb, one record an item, in the order of their keys."""

from __future__ import annotations

import os
import shutil
import threading
import weakref
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import DataError

BATCH = 1000
FIRST_MAP_SIZE = 1 << 28


class _Environment:
    """An open LMDB. A process may open one only once, so readers of one folder share it."""

    def __init__(self, path: Path) -> None:
        import lmdb

        try:
            self.env = lmdb.open(str(path), readonly=True, lock=False, create=False)
        except lmdb.Error as error:
            raise DataError(f'"{path}" cannot be opened as an LMDB: {_reason(error)}') from error
        stat, info = self.env.stat(), self.env.info()
        needed = (info["last_pgno"] + 1) * stat["psize"]
        size = (path / "data.mdb").stat().st_size
        if size < needed:  # reading on would end the process with SIGBUS
            self.env.close()
            raise DataError(f'"{path}" is truncated: data.mdb must have {needed} bytes, got {size}')
        self.entries = int(stat["entries"])
        self.error: type[Exception] = lmdb.Error


_open: weakref.WeakValueDictionary[str, _Environment] = weakref.WeakValueDictionary()
_open_lock = threading.Lock()


def _reason(error: Exception) -> str:
    return str(error).rpartition(": ")[2]


def _check_folder(path: Path) -> None:
    if not path.exists():
        raise DataError(f'"{path}": no such folder (expected an LMDB; relative paths start at {Path.cwd()})')
    if not path.is_dir():
        raise DataError(f'"{path}" is a file: an LMDB is a folder with data.mdb in it')
    if not (path / "data.mdb").is_file():
        if is_leveldb(path):
            raise DataError(f'"{path}" is a LevelDB, which is not supported: convert it to LMDB')
        raise DataError(f'"{path}" is not an LMDB: it has no data.mdb')
    if not (path / "data.mdb").stat().st_size:
        raise DataError(f'"{path}" is not an LMDB: data.mdb is empty')


def is_leveldb(path: Path) -> bool:
    """True when the folder looks like a LevelDB."""
    return (path / "CURRENT").is_file() and any(path.glob("MANIFEST-*"))


class LmdbReader:
    """Values of an LMDB by index in the order of their keys; reading on from the last index is fastest.

    Not for several threads at once. Raises DataError, naming the folder, when it is missing, of another kind,
    truncated or empty.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        _check_folder(self.path)
        with _open_lock:
            real = os.path.realpath(self.path)
            environment = _open.get(real)
            if environment is None:
                environment = _open[real] = _Environment(self.path)
        self._environment: _Environment | None = environment
        self._environment_error = environment.error
        self._count = environment.entries
        if not self._count:
            raise DataError(f'"{self.path}": the LMDB is empty')
        self._transaction: Any = environment.env.begin(buffers=True)
        self._cursor: Any = self._transaction.cursor()
        self._keys: tuple[bytes, np.ndarray] | None = None
        self._at = -1  # index of the record under the cursor, -1 before the first, -2 unknown

    def __len__(self) -> int:
        return self._count

    def read(self, index: int) -> bytes:
        """Return the value of record ``index``, 0 <= index < len(self)."""
        at, self._at = self._at, -2  # unknown, should this fail
        try:
            if index == at + 1:
                found = self._cursor.next()
            elif index == 0:
                found = self._cursor.first()
            else:
                found = self._cursor.set_key(self.key(index))
            if not found:
                raise DataError(f'"{self.path}" has no record {index}: its tree does not hold {self._count} records')
            self._at = index
            return bytes(self._cursor.value())
        except self._environment_error as error:
            raise DataError(f'"{self.path}": record {index} cannot be read ({_reason(error)})') from error

    def key(self, index: int) -> bytes:
        """Return the key of record ``index``. The first call lists all keys."""
        if self._keys is None:
            keys = [bytes(key) for key in self._transaction.cursor().iternext(keys=True, values=False)]
            ends = np.cumsum([0] + [len(key) for key in keys])
            self._keys = (b"".join(keys), ends)
        joined, ends = self._keys
        return joined[ends[index] : ends[index + 1]]

    def close(self) -> None:
        """Let go of the LMDB; it is closed when no other reader holds it."""
        self._cursor = self._transaction = self._environment = None


class LmdbWriter:
    """Writes records with Caffe's keys (%08d) into a temporary folder, which gets its name when all is well.

    Use as a context manager; an exception inside leaves nothing behind. Raises DataError when ``path`` exists.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.count = 0
        self._pending: list[tuple[bytes, bytes]] = []
        self._temporary = self.path.with_name(f".{self.path.name}.{os.getpid()}.tmp")
        self._env: Any = None

    def __enter__(self) -> LmdbWriter:
        import lmdb

        if self.path.exists():
            raise DataError(f'"{self.path}" is there already: an LMDB is not written over it')
        self.path.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(self._temporary, ignore_errors=True)
        try:
            self._env = lmdb.open(str(self._temporary), map_size=FIRST_MAP_SIZE, sync=False)
        except (lmdb.Error, OSError) as error:
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
        try:
            if kind is None:
                self._flush()
                self._env.sync(True)
            self._env.close()
            if kind is None:
                (self._temporary / "lock.mdb").unlink(missing_ok=True)
                os.rename(self._temporary, self.path)
        except OSError as error:
            raise DataError(f'"{self.path}" cannot be written ({error.strerror})') from error
        finally:
            shutil.rmtree(self._temporary, ignore_errors=True)


def write_lmdb(path: str | Path, values: Iterable[bytes], progress: Callable[[int], None] | None = None) -> int:
    """Write ``values`` as a new LMDB at ``path``; return how many. ``progress`` gets the count now and then."""
    with LmdbWriter(path) as writer:
        for value in values:
            writer.put(value)
            if progress and writer.count % BATCH == 0:
                progress(writer.count)
    return writer.count
