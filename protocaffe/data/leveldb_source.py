"""LevelDBs as Caffe wrote them (``backend: LEVELDB``, its default): read only, without a library.

Opening one reads it whole, to find every key's newest value; positions are kept, values are read block by block. Each
checksum is verified. Nothing is written and nothing locked, so it must not be in use.

Source: LevelDB's own description of its files (doc/impl.md, doc/log_format.md, doc/table_format.md).
"""

from __future__ import annotations

import heapq
import struct
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path

from ..errors import DataError
from .leveldb_format import Damage, block_of, entries, file_bytes, log_records, text, varint

MAGIC = 0xDB4775248B80FB57
FOOTER = 48

#: key, -(sequence number * 256 + kind), block, begin and end of the value in it: in a stream's order the newest first
Entry = tuple[bytes, int, int, int, int]


@dataclass
class _Version:
    """What the manifest says: of each table its level, size and first key; and the logs that are in no table yet."""

    tables: dict[int, tuple[int, int, bytes]] = field(default_factory=dict)
    log: int = -1
    previous_log: int = 0
    next_file: int = -1
    last_sequence: int = -1

    def edit(self, record: bytes) -> None:
        at = 0
        while at < len(record):
            tag, at = varint(record, at)
            if tag == 1:
                begin, at = text(record, at)
                if record[begin:at] != b"leveldb.BytewiseComparator":
                    raise Damage(f"its keys are sorted by {record[begin:at].decode(errors='replace')}")
            elif tag == 2:
                self.log, at = varint(record, at)
            elif tag == 3:
                self.next_file, at = varint(record, at)
            elif tag == 4:
                self.last_sequence, at = varint(record, at)
            elif tag == 5:  # where compaction goes on
                _, at = varint(record, at)
                _, at = text(record, at)
            elif tag == 6:
                _, at = varint(record, at)
                number, at = varint(record, at)
                self.tables.pop(number, None)
            elif tag == 7:
                level, at = varint(record, at)
                number, at = varint(record, at)
                size, at = varint(record, at)
                begin, end = text(record, at)
                _, at = text(record, end)
                self.tables[number] = (level, size, record[begin:end])
            elif tag == 9:
                self.previous_log, at = varint(record, at)
            else:
                raise Damage(f"the manifest has an entry of an unknown kind ({tag})")


def _version(folder: Path) -> _Version:
    name = (folder / "CURRENT").read_bytes().decode("ascii", "replace")
    if not (name.startswith("MANIFEST-") and name[9:-1].isdecimal() and name.endswith("\n")):
        raise Damage(f'CURRENT names "{name[:40].strip()}"')
    version = _Version()
    for _, record in log_records(folder / name[:-1]):
        version.edit(record)
    if min(version.log, version.next_file, version.last_sequence) < 0:
        raise Damage("the manifest ends too early")
    # An interrupted compaction leaves new tables too; but the first log stays until a listed table has its writes.
    if not (folder / f"{version.log:06d}.log").exists():
        for path in chain(folder.glob("*.ldb"), folder.glob("*.sst")):
            if path.stem.isdecimal() and int(path.stem) >= version.next_file:
                raise Damage(f'"{path.name}" is newer than the manifest')
    return version


def _split(key: bytes) -> tuple[bytes, int]:
    """A user's key, and what sorts its versions: the newest first."""
    if len(key) < 8:
        raise Damage("a key is too short")
    return key[:-8], -int.from_bytes(key[-8:], "little")


def _batch(record: bytes) -> Iterator[tuple[bytes, int, int, int]]:
    """Key, version, begin and end of the value of each write in a log's record."""
    if len(record) < 12:
        raise Damage("a log record is too short")
    sequence, count = struct.unpack_from("<QI", record)
    at = 12
    for i in range(count):
        if at >= len(record):
            raise Damage("a log record holds fewer writes than it says")
        kind = record[at]
        if kind > 1:
            raise Damage(f"a log record has a write of an unknown kind ({kind})")
        begin, end = text(record, at + 1)
        start, at = text(record, end) if kind else (end, end)
        yield record[begin:end], -(sequence + i << 8 | kind), start, at
    if at != len(record):
        raise Damage("a log record holds more than its writes")


def _ordered(stream: Iterator[Entry]) -> Iterator[Entry]:
    last: tuple[bytes, int] = (b"", -(1 << 64))
    for entry in stream:
        if entry[:2] <= last:
            raise Damage("keys are not in order")
        last = entry[:2]
        yield entry


class LevelDbReader:
    """Values of a LevelDB by index in the order of their keys; reading on from the last index is fastest.

    Not for several threads at once. Raises DataError, naming the folder, when it is missing, of another kind,
    truncated, damaged or empty. What no reader could notice is a log that was truncated exactly between two batches.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        # A block is a table's, or a record of a log (size 0): file number, position and size.
        self._files, self._offsets, self._sizes = array("Q"), array("Q"), array("Q")
        self._keys, self._key_ends = bytearray(), array("Q", [0])
        self._block_of, self._begins, self._ends = array("Q"), array("Q"), array("Q")
        try:
            self._index(_version(self.path))
        except (Damage, OverflowError) as error:
            raise DataError(f'"{self.path}" is a damaged LevelDB: {error}') from error
        except OSError as error:
            reason = f"{error.strerror} ({error.filename})"
            raise DataError(f'"{self.path}" cannot be read as a LevelDB: {reason}') from error
        if not len(self):
            raise DataError(f'"{self.path}": the LevelDB is empty')
        self._block: tuple[int, bytes] = (-1, b"")

    def _index(self, version: _Version) -> None:
        streams = [self._logs(version)]
        levels: dict[int, list[int]] = {}
        for number, (level, _, _) in version.tables.items():
            levels.setdefault(level, []).append(number)
        for level, numbers in levels.items():
            numbers.sort(key=lambda number: _split(version.tables[number][2]))
            tables = [self._table(number, version.tables[number][1]) for number in numbers]
            # tables of level 0 overlap each other, those of a higher one do not
            streams += tables if level == 0 else [chain.from_iterable(tables)]
        last = None
        for key, tag, block, begin, end in heapq.merge(*map(_ordered, streams)):
            if key == last:
                continue
            last = key
            if -tag & 255 == 0:  # deleted
                continue
            self._keys += key
            self._key_ends.append(len(self._keys))
            self._block_of.append(block)
            self._begins.append(begin)
            self._ends.append(end)

    def _logs(self, version: _Version) -> Iterator[Entry]:
        newest: dict[bytes, Entry] = {}
        numbers = (int(path.stem) for path in self.path.glob("*.log") if path.stem.isdecimal())
        for number in sorted(n for n in numbers if n >= version.log or n == version.previous_log):
            for offset, record in log_records(self._name(number, "log")):
                block = self._new_block(number, offset, 0)
                for key, tag, begin, end in _batch(record):
                    if key not in newest or tag <= newest[key][1]:
                        newest[key] = (key, tag, block, begin, end)
        return iter(sorted(newest.values()))

    def _table(self, number: int, size: int) -> Iterator[Entry]:
        path = self._table_path(number)
        if path.stat().st_size != size:
            raise Damage(f'"{path.name}" must have {size} bytes, got {path.stat().st_size}')
        footer = file_bytes(path, size - FOOTER, FOOTER) if size >= FOOTER else b""
        if int.from_bytes(footer[40:], "little") != MAGIC:
            raise Damage(f'"{path.name}" is no table')
        at = 0
        for _ in range(2):  # the index of filters and the like is not needed
            _, at = varint(footer, at)
        offset, at = varint(footer, at)
        index = block_of(path, offset, varint(footer, at)[0])
        for _, begin, _ in entries(index):
            offset, at = varint(index, begin)
            length, _ = varint(index, at)
            data, block = block_of(path, offset, length), self._new_block(number, offset, length)
            for key, start, end in entries(data):
                user_key, tag = _split(key)
                yield user_key, tag, block, start, end

    def _new_block(self, number: int, offset: int, size: int) -> int:
        self._files.append(number)
        self._offsets.append(offset)
        self._sizes.append(size)
        return len(self._files) - 1

    def _name(self, number: int, ending: str) -> Path:
        return self.path / f"{number:06d}.{ending}"

    def _table_path(self, number: int) -> Path:
        path = self._name(number, "ldb")
        return path if path.exists() else self._name(number, "sst")

    def __len__(self) -> int:
        return len(self._block_of)

    def key(self, index: int) -> bytes:
        """Return the key of record ``index``."""
        return bytes(self._keys[self._key_ends[index] : self._key_ends[index + 1]])

    def read(self, index: int) -> bytes:
        """Return the value of record ``index``, 0 <= index < len(self)."""
        block = self._block_of[index]
        if self._block[0] != block:
            number, offset, size = self._files[block], self._offsets[block], self._sizes[block]
            try:
                if size:
                    data = block_of(self._table_path(number), offset, size)
                else:
                    data = next(log_records(self._name(number, "log"), offset), (0, b""))[1]
            except (Damage, OSError) as error:
                raise DataError(f'"{self.path}": record {index} cannot be read ({error})') from error
            self._block = (block, data)
        data = self._block[1]
        if self._ends[index] > len(data):
            raise DataError(f'"{self.path}": record {index} is gone: its file has changed')
        return data[self._begins[index] : self._ends[index]]

    def read_many(self, indices: Sequence[int]) -> list[bytes]:
        """Return the values of these records."""
        return [self.read(index) for index in indices]

    def close(self) -> None:
        """Let go of the block that was read last; no file is open."""
        self._block = (-1, b"")
