"""LevelDBs as Caffe wrote them (``backend: LEVELDB``, its default): read only, without a library.

Opening one reads it whole, to find every key's newest value; then values are read block by block. Nothing is written
and nothing locked, so it must not be in use. Numbers that come from the files are checked before they are used;
checksums are not: as with an LMDB, a bit that is turned inside a picture is not noticed.

Source: LevelDB's own description of its files (doc/log_format.md, doc/table_format.md, doc/impl.md) and of snappy
(format_description.txt).
"""

from __future__ import annotations

import os
import struct
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..errors import DataError

LOG_BLOCK = 32768
MAGIC = 0xDB4775248B80FB57
MAX_BLOCK = 1 << 30  # of one block, plain: an item larger than this is none of Caffe's


class _Damage(ValueError):
    """Bytes that are no LevelDB; the reader adds the folder's name."""


# ------------------------------------------------------------------------------------------------------------- numbers
def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        if at >= len(data) or shift > 63:
            raise _Damage("a number ends too early or is too long")
        byte = data[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
        shift += 7


def _text(data: bytes, at: int) -> tuple[bytes, int]:
    size, at = _varint(data, at)
    if size > len(data) - at:
        raise _Damage("a text is longer than what is there")
    return data[at : at + size], at + size


def unsnappy(data: bytes) -> bytes:
    """What snappy packed.

    >>> unsnappy(bytes([9, 8]) + b"abc" + bytes([9, 3]))
    b'abcabcabc'

    Raises ValueError for damaged data.
    """
    size, at = _varint(data, 0)
    if size > MAX_BLOCK:
        raise _Damage(f"a packed block says that it holds {size} bytes")
    out = bytearray()
    while at < len(data):
        tag = data[at]
        at += 1
        if tag & 3 == 0:  # bytes as they are
            count = tag >> 2
            if count >= 60:
                extra = count - 59
                count = int.from_bytes(data[at : at + extra], "little")
                at += extra
            count += 1
            if count > len(data) - at:
                raise _Damage("a packed block ends too early")
            out += data[at : at + count]
            at += count
            continue
        if tag & 3 == 1:  # a copy of what came before
            count, width = 4 + (tag >> 2 & 7), 1
            offset = (tag >> 5) << 8
        else:
            count, width, offset = (tag >> 2) + 1, 2 if tag & 3 == 2 else 4, 0
        if at + width > len(data):
            raise _Damage("a packed block ends too early")
        offset |= int.from_bytes(data[at : at + width], "little")
        at += width
        if not 0 < offset <= len(out):
            raise _Damage("a packed block repeats what it does not have")
        start = len(out) - offset
        while count > 0:  # a copy may reach into itself
            part = out[start : start + min(count, offset)]
            out += part
            count -= len(part)
            start += len(part)
        if len(out) > size:
            break
    if len(out) != size:
        raise _Damage(f"a packed block holds {len(out)} bytes, not {size}")
    return bytes(out)


# ---------------------------------------------------------------------------------------------------------------- files
def _log_records(data: bytes) -> Iterator[bytes]:
    """The records of a log file (the write-ahead logs, the manifest); what was being written when it ended is left."""
    at = 0
    parts: list[bytes] = []
    while at + 7 <= len(data):
        left = LOG_BLOCK - at % LOG_BLOCK
        if left < 7:
            at += left
            continue
        size, kind = struct.unpack_from("<HB", data, at + 4)
        if kind == 0 and size == 0:
            at += left
            continue
        if not 1 <= kind <= 4 or size > left - 7:
            raise _Damage("a log record is damaged")
        piece = data[at + 7 : at + 7 + size]
        if len(piece) < size:
            return
        at += 7 + size
        if kind in (1, 2):
            parts = []
        parts.append(piece)
        if kind in (1, 4):
            yield b"".join(parts)


def _entries(block: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Keys and values of a table's block, whose keys are stored without what they share with the key before."""
    if len(block) < 4:
        raise _Damage("a block is too short")
    restarts = int.from_bytes(block[-4:], "little")
    end = len(block) - 4 - 4 * restarts
    if end < 0:
        raise _Damage("a block has more restart points than room")
    at, key = 0, b""
    while at < end:
        shared, at = _varint(block, at)
        own, at = _varint(block, at)
        size, at = _varint(block, at)
        if shared > len(key) or own + size > end - at:
            raise _Damage("an entry of a block is longer than the block")
        key = key[:shared] + block[at : at + own]
        yield key, block[at + own : at + own + size]
        at += own + size


class _Table:
    """A table file: sorted blocks of entries, and an index of the blocks."""

    def __init__(self, path: Path) -> None:
        self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self.close = weakref.finalize(self, os.close, self._fd)
        self.size = os.fstat(self._fd).st_size
        if self.size < 48:
            raise _Damage(f'"{path.name}" is too short for a table')
        footer = self._bytes(self.size - 48, 48)
        if int.from_bytes(footer[40:], "little") != MAGIC:
            raise _Damage(f'"{path.name}" is no table')
        _, at = _varint(footer, 0)
        _, at = _varint(footer, at)
        offset, at = _varint(footer, at)
        size, at = _varint(footer, at)
        self.places = [self._handle(value) for _, value in _entries(self.block(offset, size))]

    @staticmethod
    def _handle(value: bytes) -> tuple[int, int]:
        offset, at = _varint(value, 0)
        return offset, _varint(value, at)[0]

    def _bytes(self, offset: int, size: int) -> bytes:
        if offset + size > self.size:
            raise _Damage("a block lies beyond the end of its file")
        data = os.pread(self._fd, size, offset)
        if len(data) != size:
            raise _Damage("a file has become shorter")
        return data

    def block(self, offset: int, size: int) -> bytes:
        """A block, unpacked."""
        if size > MAX_BLOCK:
            raise _Damage(f"a block says that it holds {size} bytes")
        data = self._bytes(offset, size + 5)
        kind = data[size]
        if kind > 1:
            raise _Damage(f"a block is packed in an unknown way ({kind})")
        return unsnappy(data[:size]) if kind else data[:size]


def _live_files(manifest: bytes) -> tuple[set[int], int]:
    """Numbers of the tables in use, and of the first log whose writes are in no table."""
    tables: set[int] = set()
    log = 0
    for record in _log_records(manifest):
        at = 0
        while at < len(record):
            tag, at = _varint(record, at)
            if tag == 1:
                name, at = _text(record, at)
                if name != b"leveldb.BytewiseComparator":
                    raise _Damage(f"its keys are sorted by {name.decode(errors='replace')}")
            elif tag == 2:
                log, at = _varint(record, at)
            elif tag in (3, 4, 9):
                _, at = _varint(record, at)
            elif tag == 5:
                _, at = _varint(record, at)
                _, at = _text(record, at)
            elif tag == 6:
                _, at = _varint(record, at)
                number, at = _varint(record, at)
                tables.discard(number)
            elif tag == 7:
                _, at = _varint(record, at)
                number, at = _varint(record, at)
                _, at = _varint(record, at)
                _, at = _text(record, at)
                _, at = _text(record, at)
                tables.add(number)
            else:
                raise _Damage(f"the manifest has an entry of an unknown kind ({tag})")
    return tables, log


def _batch(record: bytes) -> Iterator[tuple[int, bytes, bytes | None]]:
    """Sequence number, key and value (None: deleted) of each write in a log's record."""
    if len(record) < 12:
        raise _Damage("a log record is too short")
    sequence, count = struct.unpack_from("<QI", record)
    at = 12
    for i in range(count):
        if at >= len(record):
            raise _Damage("a log record holds fewer writes than it says")
        kind = record[at]
        key, at = _text(record, at + 1)
        value: bytes | None = None
        if kind == 1:
            value, at = _text(record, at)
        elif kind != 0:
            raise _Damage(f"a log record has a write of an unknown kind ({kind})")
        yield sequence + i, key, value


class LevelDbReader:
    """Values of a LevelDB by index in the order of their keys; reading on from the last index is fastest.

    Not for several threads at once. Raises DataError, naming the folder, when it is missing, of another kind,
    truncated, damaged or empty.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._tables: list[_Table] = []
        try:
            newest = self._read_all()
        except (_Damage, struct.error) as error:
            raise DataError(f'"{self.path}" is a damaged LevelDB: {error}') from error
        except OSError as error:
            reason = f"{error.strerror} ({error.filename})"
            raise DataError(f'"{self.path}" cannot be read as a LevelDB: {reason}') from error
        self._keys = sorted(key for key, (_, place) in newest.items() if place is not None)
        if not self._keys:
            raise DataError(f'"{self.path}": the LevelDB is empty')
        self._places = [newest[key][1] for key in self._keys]
        self._block: tuple[tuple[int, int], list[bytes]] = ((-1, -1), [])

    def _read_all(self) -> dict[bytes, tuple[int, Any]]:
        """For each key its newest sequence number, and where the value is: (table, block, entry), bytes, or None."""
        current = (self.path / "CURRENT").read_bytes()
        name = current.decode("ascii", "replace").strip()
        if not name.startswith("MANIFEST-") or "/" in name:
            raise _Damage(f'CURRENT names "{name[:40]}"')
        tables, first_log = _live_files((self.path / name).read_bytes())
        newest: dict[bytes, tuple[int, Any]] = {}

        def note(key: bytes, sequence: int, place: Any) -> None:
            if key not in newest or newest[key][0] <= sequence:
                newest[key] = (sequence, place)

        for number in sorted(tables):
            path = self.path / f"{number:06d}.ldb"
            table = _Table(path if path.exists() else path.with_suffix(".sst"))
            self._tables.append(table)
            for b, (offset, size) in enumerate(table.places):
                for e, (key, _) in enumerate(_entries(table.block(offset, size))):
                    if len(key) < 8:
                        raise _Damage("a key is too short")
                    tail = int.from_bytes(key[-8:], "little")
                    place = (len(self._tables) - 1, b, e) if tail & 255 else None
                    note(key[:-8], tail >> 8, place)
        logs = sorted(p for p in self.path.glob("*.log") if p.stem.isdigit() and int(p.stem) >= first_log)
        for path in logs:
            for record in _log_records(path.read_bytes()):
                for sequence, key, value in _batch(record):
                    note(key, sequence, value)
        return newest

    def __len__(self) -> int:
        return len(self._keys)

    def key(self, index: int) -> bytes:
        """Return the key of record ``index``."""
        return self._keys[index]

    def read(self, index: int) -> bytes:
        """Return the value of record ``index``, 0 <= index < len(self)."""
        place = self._places[index]
        if isinstance(place, bytes):
            return place
        number, block, entry = place
        if self._block[0] != (number, block):
            table = self._tables[number]
            try:
                values = [value for _, value in _entries(table.block(*table.places[block]))]
            except (_Damage, OSError) as error:
                raise DataError(f'"{self.path}": record {index} cannot be read ({error})') from error
            self._block = ((number, block), values)
        if entry >= len(self._block[1]):
            raise DataError(f'"{self.path}": record {index} is gone: its file has changed')
        return self._block[1][entry]

    def close(self) -> None:
        """Let go of the files."""
        for table in self._tables:
            table.close()
