"""The pieces of LevelDB's files: numbers, checksums, snappy, log records, the entries of a table's block.

Everything that a file says about sizes is checked before it is used. Source: LevelDB's own description of its files
(doc/log_format.md, doc/table_format.md) and of snappy (format_description.txt).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import numpy as np

LOG_BLOCK = 32768
MAX_BLOCK = 1 << 30  # of one block, plain: an item larger than this is none of Caffe's
CRC_ROW = 256


class Damage(ValueError):
    """Bytes that are no LevelDB; the reader adds the folder's name."""


def varint(data: bytes, at: int) -> tuple[int, int]:
    """The number at ``at``, and the position behind it."""
    value = shift = 0
    while True:
        if at >= len(data) or shift > 63:
            raise Damage("a number ends too early or is too long")
        byte = data[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
        shift += 7


def text(data: bytes, at: int) -> tuple[int, int]:
    """Begin and end of the bytes at ``at``, which follow their length."""
    size, at = varint(data, at)
    if size > len(data) - at:
        raise Damage("a text is longer than what is there")
    return at, at + size


# ----------------------------------------------------------------------------------------------------------- checksums
@cache
def _crc_tables() -> tuple[np.ndarray, np.ndarray, list[list[int]]]:
    """What each byte of a row adds to the row's CRC, by place and value; where a place begins; the first 4 as lists."""
    table = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        table = np.where(table & 1, table >> 1 ^ np.uint32(0x82F63B78), table >> 1)
    places = [table]
    for _ in range(CRC_ROW - 1):
        places.append(table[places[-1] & 255] ^ places[-1] >> 8)
    places.reverse()
    begins = np.arange(0, CRC_ROW * 256, 256, dtype=np.intp)
    return np.concatenate(places), begins, [place.tolist() for place in places[:4]]


def crc32c(data: bytes) -> int:
    """The CRC with Castagnoli's polynomial.

    >>> hex(crc32c(b"123456789"))
    '0xe3069283'
    """
    table, begins, (first, second, third, fourth) = _crc_tables()
    # A CRC is linear: zeros in front add nothing, and the start value may be added to the first four bytes.
    rows = np.zeros((-(-len(data) // CRC_ROW), CRC_ROW), np.uint8)
    flat = rows.reshape(-1)
    begin = flat.size - len(data)
    flat[begin:] = np.frombuffer(data, np.uint8)
    flat[begin : begin + 4] ^= 255
    crc = 0
    for at in range(0, len(rows), 256):
        for row in np.bitwise_xor.reduce(table.take(rows[at : at + 256] + begins), axis=1).tolist():
            crc = row ^ first[crc & 255] ^ second[crc >> 8 & 255] ^ third[crc >> 16 & 255] ^ fourth[crc >> 24]
    return crc ^ 0xFFFFFFFF >> 8 * min(len(data), 4) ^ 0xFFFFFFFF


def check_crc(data: bytes, stored: int, what: str) -> None:
    """Raise Damage where the checksum of ``data`` is not the stored one, which LevelDB rotates and shifts."""
    crc = crc32c(data)
    if (crc >> 15 | crc << 17) + 0xA282EAD8 & 0xFFFFFFFF != stored:
        raise Damage(f"{what} does not have its checksum")


# -------------------------------------------------------------------------------------------------------------- snappy
def unsnappy(data: bytes) -> bytes:
    """What snappy packed.

    >>> unsnappy(bytes([9, 8]) + b"abc" + bytes([9, 3]))
    b'abcabcabc'

    Raises ValueError for damaged data.
    """
    size, at = varint(data, 0)
    if size > MAX_BLOCK:
        raise Damage(f"a packed block says that it holds {size} bytes")
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
                raise Damage("a packed block ends too early")
            out += data[at : at + count]
            at += count
            continue
        if tag & 3 == 1:  # a copy of what came before
            count, width = 4 + (tag >> 2 & 7), 1
            offset = (tag >> 5) << 8
        else:
            count, width, offset = (tag >> 2) + 1, 2 if tag & 3 == 2 else 4, 0
        if at + width > len(data):
            raise Damage("a packed block ends too early")
        offset |= int.from_bytes(data[at : at + width], "little")
        at += width
        if not 0 < offset <= len(out):
            raise Damage("a packed block repeats what it does not have")
        start = len(out) - offset
        while count > 0:  # a copy may reach into itself
            part = out[start : start + min(count, offset)]
            out += part
            count -= len(part)
            start += len(part)
        if len(out) > size:
            break
    if len(out) != size:
        raise Damage(f"a packed block holds {len(out)} bytes, not {size}")
    return bytes(out)


# ----------------------------------------------------------------------------------------------------- logs and blocks
def log_records(path: Path, start: int = 0) -> Iterator[tuple[int, bytes]]:
    """The records of a log file (a write-ahead log, the manifest) from ``start`` on, with their positions.

    A record that ends too early is Damage, though LevelDB leaves it out: it is not known whether the writer was killed
    or the file truncated later.
    """
    parts: list[bytes] = []
    first = at = start
    with open(path, "rb") as file:
        file.seek(start)
        while block := file.read(LOG_BLOCK - at % LOG_BLOCK):
            pos = 0
            while pos + 7 <= len(block):
                crc, size, kind = struct.unpack_from("<IHB", block, pos)
                if kind == 0 and size == 0:
                    break
                if not 1 <= kind <= 4 or (kind in (1, 2)) == bool(parts):
                    raise Damage(f'a record of "{path.name}" is damaged')
                if size > len(block) - pos - 7:
                    raise Damage(f'"{path.name}" ends inside a record')
                check_crc(block[pos + 6 : pos + 7 + size], crc, f'a record of "{path.name}"')
                if kind in (1, 2):
                    first = at + pos
                parts.append(block[pos + 7 : pos + 7 + size])
                pos += 7 + size
                if kind in (1, 4):
                    yield first, b"".join(parts)
                    parts = []
            if any(block[pos:]):  # zeros fill a block, and what a writer had reserved
                raise Damage(f'"{path.name}" ends inside a record')
            at += len(block)
    if parts:
        raise Damage(f'"{path.name}" ends inside a record')


def entries(block: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Keys of a table's block, and where their values begin and end; keys lack what they share with the one before."""
    if len(block) < 4:
        raise Damage("a block is too short")
    end = len(block) - 4 - 4 * int.from_bytes(block[-4:], "little")
    if end < 0:
        raise Damage("a block has more restart points than room")
    at, key = 0, b""
    while at < end:
        shared, at = varint(block, at)
        own, at = varint(block, at)
        size, at = varint(block, at)
        if shared > len(key) or own + size > end - at:
            raise Damage("an entry of a block is longer than the block")
        key = key[:shared] + block[at : at + own]
        at += own + size
        yield key, at - size, at


def block_of(path: Path, offset: int, size: int) -> bytes:
    """A table's block, unpacked."""
    if size > MAX_BLOCK:
        raise Damage(f'a block of "{path.name}" says that it holds {size} bytes')
    data = file_bytes(path, offset, size + 5)
    check_crc(data[: size + 1], int.from_bytes(data[-4:], "little"), f'a block of "{path.name}"')
    if data[size] > 1:
        raise Damage(f'a block of "{path.name}" is packed in an unknown way ({data[size]}; known: 0 not, 1 snappy)')
    return unsnappy(data[:size]) if data[size] else data[:size]


def file_bytes(path: Path, offset: int, size: int) -> bytes:
    """``size`` bytes of a file, which is opened for them alone: a large database has more tables than may be open."""
    with open(path, "rb", buffering=0) as file:
        if offset + size > file.seek(0, 2):
            raise Damage(f'a block lies beyond the end of "{path.name}"')
        file.seek(offset)
        data = file.read(size)
    if len(data) != size:
        raise Damage(f'"{path.name}" has become shorter')
    return data
