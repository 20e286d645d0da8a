"""Writing compressed models; compressed.py reads them and says what they are."""

from __future__ import annotations

import os
import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any

import numpy as np

from ..errors import ParameterError, WeightsError
from . import sparse_code
from .compressed import (
    DENSE,
    FLOATS,
    FREE_VALUES,
    GAPS,
    GRID,
    HALVES,
    MAGIC,
    MAX_DIRECTORY,
    MAX_NET,
    MIXED,
    MIXED_NET,
    SHARED,
    SINGLES,
    VALUES_PER_BYTE,
    VERSION,
    Books,
    CodedBlob,
    CodedLayer,
    checksum,
    code_bits,
)
from .files import atomic_write
from .mixing import Encoder
from .primer import PRIMER

#: steps of the mixed coder, each some microseconds: what all parameters may take, and for how many a byte must be saved
SPENT_STEPS, STEPS_PER_BYTE = 1 << 20, 256
#: bytes in the directory for a section
SECTION = 3


@dataclass
class StoredSize:
    """The bytes that a parameter takes in each stream; ``shared`` is the number of values in its code book."""

    layer: str
    index: int
    count: int
    nonzeros: int
    shared: int
    positions: int = 0
    codes: int = 0
    book: int = 0


@dataclass
class Sizes:
    """Where the bytes of a file are."""

    total: int = 0
    net: int = 0
    directory: int = 0
    blobs: list[StoredSize] = field(default_factory=list)


def write_compressed(path: str | os.PathLike[str], net: Any, layers: Sequence[CodedLayer]) -> Sizes:
    """Write a net (NetParameter of today's form) and its parameters; returns where the bytes are.

    Raises WeightsError for parameters of a layer that the net lacks, ParameterError for more than a file may hold.
    """
    content, sizes = pack(net, layers)
    with atomic_write(path) as file:
        file.write(content)
    return sizes


def pack(net: Any, layers: Sequence[CodedLayer]) -> tuple[bytes, Sizes]:
    """A compressed model as bytes, see write_compressed."""
    text = _bare(net).SerializeToString(deterministic=True)
    _allow(len(text) <= MAX_NET, "the net's description", len(text), MAX_NET)
    places = _places(net, layers)
    sizes = Sizes()
    directory = bytearray(_varint(len(places)))
    sections: list[bytes] = []
    jobs: list[tuple[CodedBlob, bool, StoredSize]] = []
    spent, previous = 0, -1
    for place, layer in places:
        directory += _varint(place - previous - 1) + _varint(len(layer.blobs))
        previous = place
        for index, blob in enumerate(layer.blobs):
            if isinstance(blob, tuple):
                directory += bytes((SHARED,)) + _extents(blob)
                continue
            steps = _steps(blob)
            mixed = spent + steps <= SPENT_STEPS and _pays(blob, steps)
            spent += steps if mixed else 0
            size = StoredSize(
                layer.name, index, prod(blob.shape), _nonzeros(blob), 0 if blob.book is None else len(blob.book)
            )
            sizes.blobs.append(size)
            directory += _entry(blob, mixed, sections, size)
            jobs.append((blob, mixed, size))
    _allow(len(directory) <= MAX_DIRECTORY, "the directory of parameters", len(directory), MAX_DIRECTORY)

    coder = Encoder()
    coder.learn(PRIMER)
    packed_net = b""
    if len(text) > MIXED_NET:
        packed_net = sparse_code.deflated(text, PRIMER)
        sections.insert(0, packed_net)
    else:
        coder.text(text, len(text))
    sizes.net = len(packed_net) or len(coder.out)
    at = len(coder.out)
    coder.text(bytes(directory), len(directory))
    sizes.directory = len(coder.out) - at
    books = Books(coder)
    for blob, mixed, size in jobs:
        at = len(coder.out)
        if blob.book is not None and not blob.step:
            books.code(_table_kind(blob.book), blob.book, len(blob.book))
        size.book += len(coder.out) - at
        if not mixed:
            continue
        begin = len(coder.out)
        at = _code(coder, blob)
        size.positions += at - begin
        size.codes += len(coder.out) - at
    stream = coder.finish()
    head = b"".join(map(_varint, (len(text), len(packed_net), len(directory), len(stream))))
    rest = b"".join([head, stream, *sections])
    content = MAGIC + bytes((VERSION,)) + struct.pack("<I", checksum(rest)) + rest
    sizes.total = len(content)
    held = sum(size.count for size in sizes.blobs)
    limit = FREE_VALUES + VALUES_PER_BYTE * len(content)
    _allow(held <= limit, "parameters that are nearly all 0: their number", held, limit)
    return content, sizes


def _nonzeros(blob: CodedBlob) -> int:
    return int(np.count_nonzero(blob.values if blob.book is None else blob.book[blob.values]))


def _free(steps: int) -> None:
    """Writers have counted before."""


def _allow(fits: bool, what: str, got: int, limit: int) -> None:
    if not fits:
        raise ParameterError(f"cannot compress this model: {what} is {got}, a file may hold {limit}")


def _bare(net: Any) -> Any:
    bare = type(net)()
    bare.CopyFrom(net)
    for layer in bare.layer:
        layer.ClearField("blobs")
    return bare


def _places(net: Any, layers: Sequence[CodedLayer]) -> list[tuple[int, CodedLayer]]:
    """Each layer with its place in the net, ascending; layers of one name in their order."""
    by_name: dict[str, list[int]] = {}
    for i, layer in enumerate(net.layer):
        by_name.setdefault(layer.name, []).append(i)
    out = []
    for coded in layers:
        if not by_name.get(coded.name):
            raise WeightsError(f'the net has no layer "{coded.name}" for its weights')
        out.append((by_name[coded.name].pop(0), coded))
    return sorted(out, key=lambda entry: entry[0])


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)


def _table_kind(book: np.ndarray) -> int:
    with np.errstate(over="ignore"):
        return HALVES if np.array_equal(book.astype(np.float16).astype(np.float32), book) else SINGLES


def _steps(blob: CodedBlob) -> int:
    bits = 0 if blob.book is None else code_bits(len(blob.book))
    if blob.kept is None:
        return len(blob.values) * bits
    return sparse_code.steps(blob.kept.reshape(sparse_code.matrix_shape(blob.shape)), bits)


def _extents(shape: tuple[int, ...]) -> bytes:
    return _varint(len(shape)) + b"".join(map(_varint, shape))


def _pays(blob: CodedBlob, steps: int) -> bool:
    """Whether the mixed way saves so much against sections of bytes that it is worth its time."""
    plain = 0
    if blob.kept is not None:
        plain += len(sparse_code.deflated(sparse_code.pack_gaps(blob.kept)[1].tobytes())) + SECTION
    if blob.book is not None:
        plain += len(sparse_code.deflated(blob.values.tobytes())) + SECTION
    trial = Encoder()
    _code(trial, blob)
    return len(trial.finish()) + steps // STEPS_PER_BYTE <= plain


def _code(coder: Encoder, blob: CodedBlob) -> int:
    """Code positions and codes; returns where the codes begin."""
    if blob.kept is not None:
        sparse_code.positions(coder, blob.kept.reshape(sparse_code.matrix_shape(blob.shape)), _free)
    at = len(coder.out)
    if blob.book is not None:
        sparse_code.codes(coder, blob.values, len(blob.values), code_bits(len(blob.book)), _free)
    return at


def _entry(blob: CodedBlob, mixed: bool, sections: list[bytes], size: StoredSize) -> bytes:
    """A parameter's entry in the directory; what of it lies in sections goes there."""
    where = DENSE if blob.kept is None else MIXED if mixed else GAPS
    kind = FLOATS if blob.book is None else GRID if blob.step else _table_kind(blob.book)
    out = bytearray(_extents(blob.shape))
    if where == GAPS and blob.kept is not None:
        width, symbols = sparse_code.pack_gaps(blob.kept)
        packed = sparse_code.deflated(symbols.tobytes())
        out += bytes((width,)) + _varint(len(symbols)) + _varint(len(packed))
        sections.append(packed)
        size.positions = len(packed)
    if kind == GRID and blob.book is not None:
        out += struct.pack("<f", blob.step) + _varint(len(blob.book) // 2)
    elif blob.book is not None:
        out += _varint(len(blob.book))
    if blob.book is None or not mixed:
        raw = blob.values.tobytes() if blob.book is not None else _planes(blob.values)
        packed = sparse_code.deflated(raw)
        out += _varint(len(packed))
        sections.append(packed)
        size.codes = len(packed)
    return bytes((where | blob.masked << 2 | kind << 3 | mixed << 5,)) + bytes(out)


def _planes(values: np.ndarray) -> bytes:
    """Floats with all first bytes together, then all second ones ..., which deflate packs better."""
    return np.ascontiguousarray(values.astype("<f4").view(np.uint8).reshape(-1, 4).T).tobytes()
