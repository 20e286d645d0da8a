"""Blobs as protobuf wire bytes.

Weights do not pass through protobuf's lists (20M floats would take seconds): a file is scanned for the fields that
matter, and the bytes of an array are copied once. Everything that such a file could claim is checked before memory is
taken.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

VARINT, FIXED64, LENGTH, START_GROUP, END_GROUP, FIXED32 = range(6)
MAX_AXES = 32

# NVCaffe's element types (enum Type): raw_data_type -> dtype.
_RAW_TYPES = {0: "<f8", 1: "<f4", 2: "<f2", 3: "<i4", 4: "<u4", 5: "<u1"}


class WireError(ValueError):
    """Bytes that are no valid message; the reader of a file adds its name."""


@dataclass
class Blob:
    """A blob from a file: values in the stored shape, diff and mask if stored, and whether equal values are tied."""

    data: np.ndarray
    diff: np.ndarray | None = None
    mask: np.ndarray | None = None
    tied: bool = False


def varint(buf: Any, pos: int, end: int) -> tuple[int, int]:
    """An unsigned number at `pos`, and the position behind it."""
    value = shift = 0
    while True:
        if pos >= end:
            raise WireError(f"ends inside a number at byte {pos}")
        byte = buf[pos]
        pos += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & 0xFFFFFFFFFFFFFFFF, pos
        shift += 7
        if shift > 63:
            raise WireError(f"has a malformed number at byte {pos}")


def signed(value: int) -> int:
    """A varint as the int32 or int64 it stands for."""
    return value - (1 << 64) if value >= 1 << 63 else value


def scan(buf: Any, pos: int, end: int) -> Iterator[tuple[int, int, int, int]]:
    """The fields of a message: (number, wire type, begin, stop); for a varint `begin` is its value.

    Raises WireError where the bytes are no message.
    """
    while pos < end:
        at = pos
        key, pos = varint(buf, pos, end)
        number, kind = key >> 3, key & 7
        if not 0 < number < 1 << 29:
            raise WireError(f"has a malformed field at byte {at}")
        if kind == VARINT:
            value, pos = varint(buf, pos, end)
            yield number, kind, value, pos
            continue
        if kind == LENGTH:
            size, pos = varint(buf, pos, end)
        elif kind == FIXED32:
            size = 4
        elif kind == FIXED64:
            size = 8
        elif kind == START_GROUP:
            size = _group_end(buf, pos, end, number) - pos
        else:
            raise WireError(f"has a malformed field at byte {at}")
        if size > end - pos:
            raise WireError(f"ends too early: field {number} at byte {at} claims {size} bytes, {end - pos} are left")
        yield number, kind, pos, pos + size
        pos += size


def _group_end(buf: Any, pos: int, end: int, number: int) -> int:
    """The position behind a group (a form of nesting that protobuf gave up)."""
    open_groups = [number]
    while open_groups:
        at = pos
        key, pos = varint(buf, pos, end)
        inner, kind = key >> 3, key & 7
        if kind == START_GROUP:
            open_groups.append(inner)
        elif kind == END_GROUP:
            if open_groups.pop() != inner:
                raise WireError(f"has a malformed group at byte {at}")
        elif kind == VARINT:
            _, pos = varint(buf, pos, end)
        elif kind == LENGTH:
            size, pos = varint(buf, pos, end)
            pos += size
        elif kind in (FIXED32, FIXED64):
            pos += 4 if kind == FIXED32 else 8
        else:
            raise WireError(f"has a malformed field at byte {at}")
        if pos > end:
            raise WireError(f"ends inside a group at byte {at}")
    return pos


def expect(kind: int, wanted: int, what: str) -> None:
    """Raise unless a field has the wire type it must have."""
    if kind != wanted:
        raise WireError(f"has a malformed {what}")


def text(buf: Any, begin: int, stop: int, what: str) -> str:
    """A string field."""
    try:
        return bytes(buf[begin:stop]).decode("utf-8")
    except UnicodeDecodeError:
        raise WireError(f"has a {what} that is no UTF-8") from None


def _dims(buf: Any, begin: int, stop: int) -> list[int]:
    """BlobShape: `dim` packed or not."""
    dims: list[int] = []
    for number, kind, a, b in scan(buf, begin, stop):
        if number == 1 and kind == VARINT:
            dims.append(signed(a))
        elif number == 1 and kind == LENGTH:
            while a < b:
                value, a = varint(buf, a, b)
                dims.append(signed(value))
        elif number == 1:
            raise WireError("has a malformed blob shape")
        if len(dims) > MAX_AXES:
            raise WireError(f"has a blob of more than {MAX_AXES} axes")
    return dims


def read_blob(buf: Any, begin: int, stop: int) -> Blob:
    """Decode a BlobProto.

    Values come as float32 (float64 where doubles are stored; NVCaffe's half floats and integers become float32), in the
    stored shape: `shape`, or the four legacy extents.

    Raises
    ------
    WireError : malformed, or the number of values is not that of the shape
    """
    parts: dict[int, list[np.ndarray]] = {5: [], 6: [], 8: [], 9: []}
    raw: dict[int, tuple[int, int]] = {}
    kinds: dict[int, int] = {}
    legacy: dict[int, int] = {}
    dims: list[int] | None = None
    masked: tuple[int, int] | None = None
    tied = False
    for number, kind, a, b in _fields_of_blob(buf, begin, stop):
        if number in (5, 6, 8, 9):
            dtype = np.dtype("<f4" if number < 8 else "<f8")
            if kind == LENGTH:
                if (b - a) % dtype.itemsize:
                    raise WireError(f"has a blob with {b - a} bytes of {dtype.itemsize}-byte values")
                parts[number].append(np.frombuffer(buf, dtype, (b - a) // dtype.itemsize, a))
            else:  # a run of single values, each behind its own tag
                pair = np.dtype([("tag", "u1"), ("value", dtype)])
                parts[number].append(np.frombuffer(buf, pair, (b - a) // pair.itemsize, a)["value"])
        elif 1 <= number <= 4:
            expect(kind, VARINT, "blob")
            legacy[number] = signed(a)
        elif number == 7:
            expect(kind, LENGTH, "blob shape")
            dims = (dims or []) + _dims(buf, a, b)
        elif number in (10, 11):
            expect(kind, VARINT, "blob")
            kinds[number] = a
        elif number in (12, 13):
            expect(kind, LENGTH, "blob")
            raw[number] = (a, b)
        elif number == 5000:
            expect(kind, LENGTH, "blob mask")
            masked = (a, b)
        elif number == 5001:
            expect(kind, VARINT, "blob")
            tied = bool(a)
    if dims is None:
        dims = [legacy.get(i, 0) for i in range(1, 5)] if legacy else []
    if any(d < 0 for d in dims):
        raise WireError(f"has a blob of shape {tuple(dims)}")
    count = 1
    for d in dims:
        count *= d
    data = _values(buf, parts, raw, kinds, 5)
    if data is None:
        data = np.empty(0, np.float32)
    diff = _values(buf, parts, raw, kinds, 6)
    for array, what in ((data, "values"), (diff, "gradients")):
        if array is not None and array.size != count:
            raise WireError(f"has a blob of shape {tuple(dims)} with {array.size} {what}, expected {count}")
    mask: np.ndarray | None = None
    if masked is not None:
        a, b = masked
        if b - a != (count + 7) // 8:
            raise WireError(f"has a mask of {b - a} bytes for a blob of {count} values, expected {(count + 7) // 8}")
        bits = np.unpackbits(np.frombuffer(buf, np.uint8, b - a, a), count=count, bitorder="little")
        mask = bits.view(bool).reshape(dims)
    return Blob(data.reshape(dims), None if diff is None else diff.reshape(dims), mask, tied)


def _fields_of_blob(buf: Any, pos: int, end: int) -> Iterator[tuple[int, int, int, int]]:
    """`scan`, but a run of unpacked floats or doubles comes as one field that spans tags and values."""
    tags = {0x2D: (5, 5), 0x35: (6, 5), 0x41: (8, 9), 0x49: (9, 9)}
    while pos < end:
        if buf[pos] in tags:
            number, step = tags[buf[pos]]
            stop, block = pos, 64
            while stop < end:
                n = min(block, (end - stop) // step)
                same = np.frombuffer(buf, np.uint8, n * step, stop)[::step] == buf[pos]
                run = n if same.all() else int(same.argmin())
                stop += run * step
                block *= 2
                if run < n or n == 0:
                    break
            if stop == pos:
                raise WireError(f"ends inside a value at byte {pos}")
            yield number, FIXED32 if step == 5 else FIXED64, pos, stop
            pos = stop
            continue
        for number, kind, a, b in scan(buf, pos, end):
            if number in (5, 6, 8, 9):
                expect(kind, LENGTH, "blob")
            yield number, kind, a, b
            pos = b
            if pos < end and buf[pos] in tags:
                break


def _values(
    buf: Any, parts: dict[int, list[np.ndarray]], raw: dict[int, tuple[int, int]], kinds: dict[int, int], field: int
) -> np.ndarray | None:
    """data (field 5) or diff (6): from doubles, floats or NVCaffe's raw bytes; None if not stored."""
    for number, native in ((field + 3, np.float64), (field, np.float32)):
        if parts[number]:
            found = parts[number]
            return np.array(found[0], native) if len(found) == 1 else np.concatenate(found).astype(native, copy=False)
    if field + 7 not in raw:
        return None
    a, b = raw[field + 7]
    kind = kinds.get(field + 5)
    if kind is None or kind not in _RAW_TYPES:
        raise WireError("has raw values without a type" if kind is None else f"has raw values of unknown type {kind}")
    dtype = np.dtype(_RAW_TYPES[kind])
    if (b - a) % dtype.itemsize:
        raise WireError(f"has a blob with {b - a} raw bytes of {dtype.itemsize}-byte values")
    return np.frombuffer(buf, dtype, (b - a) // dtype.itemsize, a).astype(np.float64 if kind == 0 else np.float32)


def encode_varint(value: int) -> bytes:
    """A number as a varint (negative ones as int64)."""
    value &= 0xFFFFFFFFFFFFFFFF
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def head(number: int, size: int) -> bytes:
    """What stands before `size` bytes of a field with a length."""
    return encode_varint(number << 3 | LENGTH) + encode_varint(size)


def total(parts: list[Any]) -> int:
    """Bytes in a list of parts."""
    return sum(len(p) for p in parts)


def blob_parts(
    data: np.ndarray, diff: np.ndarray | None = None, mask: np.ndarray | None = None, tied: bool = False
) -> list[Any]:
    """A BlobProto as a list of parts to be written one after the other; arrays are not copied if they are float32.

    Written as BVLC Caffe does: shape in field 7, packed floats in 5 and 6; the mask's bits in 5000, ``tied`` in 5001.
    """
    dims = b"".join(encode_varint(d) for d in np.shape(data))
    shape = head(1, len(dims)) + dims if dims else b""
    parts: list[Any] = []
    for number, array in ((5, data), (6, diff)):
        if array is not None:
            flat = np.ascontiguousarray(array, "<f4").reshape(-1)
            if flat.size:
                parts += [head(number, flat.nbytes), flat.view(np.uint8).data]
    parts.append(head(7, len(shape)) + shape)
    if mask is not None:
        bits = np.packbits(np.asarray(mask, bool).reshape(-1), bitorder="little").tobytes()
        parts += [head(5000, len(bits)), bits]
    if tied:
        parts.append(varint_field(5001, 1))
    return parts


def wrapped(number: int, parts: list[Any]) -> list[Any]:
    """Parts as a field of the message around them."""
    return [head(number, total(parts)), *parts]


def varint_field(number: int, value: int) -> bytes:
    """A number as a field."""
    return encode_varint(number << 3 | VARINT) + encode_varint(value)
