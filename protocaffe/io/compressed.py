"""Compressed models (.pcz): a net and its weights, with masks and code books, in one small file.

docs/compress.md describes the format to the byte. In short::

    "\\x89PCZ"  version  CRC-32  |  sizes  |  mixed stream  |  sections of bytes

The mixed stream (`mixing`) holds the net, a directory of the parameters, code books and parameters of which little is
left; larger ones lie in the sections. A file from elsewhere is not trusted: the checksum comes first, and every size is
checked against what the file can hold before memory is taken. compressed_writer.py writes them.
"""

from __future__ import annotations

import os
import struct
import zlib
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import FileFormatError
from . import schema, sparse_code, wire
from .caffemodel import LayerWeights, _check_strings
from .mixing import Coder, Decoder, slot
from .primer import PRIMER

MAGIC = b"\x89PCZ"
VERSION = 1
#: what a file may hold: so many values whatever its size (zeros take no room), and so many more for each byte
FREE_VALUES, VALUES_PER_BYTE = 1 << 26, 1 << 13
MAX_NET, MAX_DIRECTORY, MAX_LAYERS = 1 << 24, 1 << 17, 1 << 16
#: nets beyond this size are deflated
MIXED_NET = 1 << 15
#: steps of the mixed coder, each some microseconds
MAX_STEPS = 1 << 22

Shape = tuple[int, ...]
#: values, mask, whether they come from a code book
Stored = tuple[np.ndarray, Any, bool]

SHARED, DENSE, MIXED, GAPS = range(4)
FLOATS, GRID, HALVES, SINGLES = range(4)


@dataclass
class CodedBlob:
    """A parameter as it is stored.

    Attributes
    ----------
    shape : its axes
    kept : flat, which values are stored (the others are 0); None: all
    masked : whether ``kept`` is the parameter's mask
    book : the float32 values that codes stand for, ascending; None: floats are stored
    values : for the kept ones their codes (uint8), or themselves (float32)
    step : not 0: the book is step * (-K .. K), and only the step is stored
    """

    shape: tuple[int, ...]
    kept: np.ndarray | None
    masked: bool
    book: np.ndarray | None
    values: np.ndarray
    step: float = 0.0

    @property
    def data(self) -> np.ndarray:
        """The values in full."""
        values = self.values if self.book is None else self.book[self.values]
        if self.kept is None:
            return values.reshape(self.shape)
        out = np.zeros(prod(self.shape), np.float32)
        out[self.kept] = values
        return out.reshape(self.shape)

    @property
    def mask(self) -> np.ndarray | None:
        """True where a weight is kept; None without a mask."""
        if not self.masked:
            return None
        return np.ones(self.shape, bool) if self.kept is None else self.kept.reshape(self.shape)


@dataclass
class CodedLayer:
    """A layer's parameters; for one that another layer holds, its shape here."""

    name: str
    blobs: list[CodedBlob | Shape]


def grid(step: float, half: int) -> np.ndarray:
    """The book of 2 half + 1 values that lie ``step`` apart."""
    return (np.arange(-half, half + 1) * np.float32(step)).astype(np.float32)


def is_compressed(path: str | os.PathLike[str]) -> bool:
    """Whether a file begins as compressed models do."""
    with open(path, "rb") as file:
        return file.read(len(MAGIC)) == MAGIC


def code_bits(count: int) -> int:
    """How many bits a code of a book of ``count`` takes."""
    return (count - 1).bit_length()


def checksum(rest: bytes) -> int:
    """Of all that follows it."""
    return zlib.crc32(rest, zlib.crc32(bytes((VERSION,))))


class Books:
    """Codes tables of centroids: halves with their upper bytes by frequency, or singles as they are."""

    def __init__(self, coder: Coder) -> None:
        self._coder = coder
        self._slots = [slot() for _ in range(256)]
        self._weights = [[1.0] for _ in range(8)]

    def code(self, kind: int, book: np.ndarray, count: int) -> np.ndarray:
        """Code ``count`` centroids; a decoder takes no notice of ``book``."""
        bits: list[int] = [0] * count
        if len(book) and kind == HALVES:
            bits = book.astype("<f2").view("<u2").tolist()
        elif len(book):
            bits = book.astype("<f4").view("<u4").tolist()
        if kind == SINGLES:
            return np.array([self._coder.number(b, 32) for b in bits], "<u4").view("<f4").astype(np.float32)
        got = []
        for value in bits:
            upper = self._coder.symbol(value >> 8, 8, self._slots, self._weights)
            got.append(upper << 8 | self._coder.number(value & 255, 8))
        return np.array(got, "<u2").view("<f2").astype(np.float32)


def read_compressed(path: str | os.PathLike[str]) -> list[LayerWeights]:
    """The weights, masks and code books of a compressed model, for each layer that has some.

    Raises
    ------
    FileFormatError : damaged, cut short, of another version or kind, or with impossible sizes; names the file
    OSError : the file cannot be read
    """
    net, layers = read_coded(path)
    owners: dict[str, Stored] = {}
    out = []
    for place, blobs in layers:
        layer = net.layer[place]
        stored = LayerWeights(layer.name, layer.type)
        for i, blob in enumerate(blobs):
            shared = layer.param[i].name if i < len(layer.param) else ""
            if isinstance(blob, tuple):
                values, mask, tied = _shared(path, layer.name, owners.get(shared), blob)
            else:
                values, mask, tied = blob.data, blob.mask, blob.book is not None and not blob.step
                owners.setdefault(shared, (values, mask, tied))
            stored.blobs.append(values)
            stored.masks.append(mask)
            stored.tied.append(tied)
        stored.diffs = [None] * len(blobs)
        out.append(stored)
    return out


def _shared(path: Any, layer: str, owner: Stored | None, shape: Shape) -> Stored:
    """A parameter that another layer holds, in the shape that it has here."""
    if owner is None or owner[0].size != prod(shape):
        raise FileFormatError(f'"{os.fspath(path)}": layer "{layer}" shares a parameter that the file does not hold')
    return owner[0].reshape(shape), None if owner[1] is None else owner[1].reshape(shape), owner[2]


def unpack(path: str | os.PathLike[str], target: str | os.PathLike[str]) -> None:
    """Write the weights and masks of a compressed model as a caffemodel, in HDF5 if ``target`` ends in .h5."""
    from .caffemodel import write_caffemodel
    from .hdf5 import write_weights

    net, weights = read_net_of(path), read_compressed(path)
    if os.fspath(target).endswith(".h5"):
        write_weights(target, weights, names=[layer.name for layer in net.layer if layer.name])
        return
    write_caffemodel(target, net, weights)


def read_net_of(path: str | os.PathLike[str]) -> Any:
    """The net of a compressed model (NetParameter), without its weights."""
    return read_coded(path, parameters=False)[0]


def read_coded(
    path: str | os.PathLike[str], parameters: bool = True
) -> tuple[Any, list[tuple[int, list[CodedBlob | Shape]]]]:
    """The net, and as (place in the net, parameters) what is stored for its layers."""
    name = os.fspath(path)
    content = Path(path).read_bytes()
    if content[:4] != MAGIC:
        raise FileFormatError(f'"{name}" is no compressed model: it does not begin as one')
    if len(content) < 9 or content[4] != VERSION:
        version = f"has version {content[4]}" if len(content) > 4 else "is cut short"
        raise FileFormatError(f'"{name}" is a compressed model that {version}; expected version {VERSION}')
    if struct.unpack("<I", content[5:9])[0] != checksum(content[9:]):
        raise FileFormatError(f'"{name}" is damaged or cut short: its checksum is wrong')
    try:
        return _Reader(content).read(parameters)
    except wire.WireError as error:
        raise FileFormatError(f'"{name}" is not a valid compressed model: it {error}') from error


class _Reader:
    def __init__(self, content: bytes) -> None:
        self._content = content
        self._values = FREE_VALUES + VALUES_PER_BYTE * len(content)
        self._steps = MAX_STEPS
        sizes, at = [], 9
        for _ in range(4):
            size, at = wire.varint(content, at, len(content))
            sizes.append(size)
        self._net_size, self._net_stored, self._directory_size, stream = sizes
        _check(stream <= len(content) - at, f"claims a stream of {stream} bytes")
        _check(self._net_size <= MAX_NET, f"claims a net of {self._net_size} bytes")
        _check(self._directory_size <= MAX_DIRECTORY, f"claims a directory of {self._directory_size} bytes")
        self._section_at = at + stream
        self._coder = Decoder(content[at : at + stream])

    def read(self, parameters: bool) -> tuple[Any, list[tuple[int, list[CodedBlob | Shape]]]]:
        self._coder.learn(PRIMER)
        net = self._net()
        if not parameters:
            return net, []
        self._spend(8 * self._directory_size)
        directory = _Directory(self._coder.text(b"", self._directory_size))
        entries = [(place, [self._entry(directory) for _ in range(count)]) for place, count in directory.layers(net)]
        _check(directory.at_end, "has a directory with bytes left over")
        books = Books(self._coder)
        layers = [(place, [self._blob(e, books) for e in mine]) for place, mine in entries]
        _check(self._section_at == len(self._content), "has bytes left over")
        return net, layers

    def _net(self) -> Any:
        from google.protobuf.message import DecodeError

        if self._net_stored:
            text = self._section(self._net_stored, self._net_size, PRIMER)
        else:
            _check(self._net_size <= MIXED_NET, f"claims a net of {self._net_size} bytes")
            text = self._coder.text(b"", self._net_size)
        try:
            net = schema.NetParameter.FromString(text)
            _check_strings(net)
        except (ValueError, DecodeError) as error:
            raise wire.WireError(f"holds a net that cannot be read ({error})") from error
        return net

    def _spend(self, steps: int) -> None:
        self._steps -= steps
        _check(self._steps >= 0, "asks for more work than a file may")

    def _section(self, stored: int, size: int, dictionary: bytes = b"") -> bytes:
        begin, end = self._section_at, self._section_at + stored
        _check(end <= len(self._content), f"claims a section of {stored} bytes")
        # deflate cannot pack more than 1032 bytes into one
        _check(size <= 1040 * stored + 64, f"claims {size} bytes in {stored}")
        out = sparse_code.inflated(self._content[begin:end], size, dictionary)
        if out is None:
            raise wire.WireError(f"has a section at byte {begin} that is damaged")
        self._section_at = end
        return out

    def _entry(self, directory: _Directory) -> _Entry:
        entry = directory.entry()
        self._values -= prod(max(extent, 1) for extent in entry.shape)
        _check(self._values >= 0, f"claims a parameter of shape {entry.shape}, more than it can hold")
        return entry

    def _blob(self, entry: _Entry, books: Books) -> CodedBlob | Shape:
        if entry.where == SHARED:
            return entry.shape
        count = prod(entry.shape)
        book = None
        if entry.kind in (HALVES, SINGLES):
            book = books.code(entry.kind, np.zeros(0), entry.centroids)
        elif entry.kind == GRID:
            book = grid(entry.step, entry.centroids)
        kept = None
        if entry.where == MIXED:
            empty = np.zeros(sparse_code.matrix_shape(entry.shape), bool)
            kept = sparse_code.positions(self._coder, empty, self._spend).ravel()
        elif entry.where == GAPS:
            _check(entry.symbols <= count, f"claims {entry.symbols} relative indices for {count} values")
            symbols = np.frombuffer(self._section(entry.gap_bytes, entry.symbols), np.uint8)
            kept = sparse_code.unpack_gaps(symbols, entry.width, count)
            _check(kept is not None, "has relative indices that leave their parameter")
        left = count if kept is None else int(np.count_nonzero(kept))
        if book is None:
            planes = np.frombuffer(self._section(entry.value_bytes, 4 * left), np.uint8).reshape(4, -1)
            values = np.ascontiguousarray(planes.T).view("<f4").ravel().astype(np.float32, copy=False)
            return CodedBlob(entry.shape, kept, entry.masked, None, values)
        if entry.mixed:
            values = sparse_code.codes(self._coder, np.zeros(0), left, code_bits(len(book)), self._spend)
        else:
            values = np.frombuffer(self._section(entry.value_bytes, left), np.uint8)
        _check(not left or int(values.max()) < len(book), f"has codes beyond their book of {len(book)}")
        return CodedBlob(entry.shape, kept, entry.masked, book, values, entry.step)


def _check(right: bool, what: str) -> None:
    if not right:
        raise wire.WireError(what)


@dataclass
class _Entry:
    where: int
    masked: bool
    kind: int
    mixed: bool
    shape: tuple[int, ...] = ()
    width: int = 0
    symbols: int = 0
    gap_bytes: int = 0
    step: float = 0.0
    centroids: int = 0
    value_bytes: int = 0


class _Directory:
    """Reads the directory's fields."""

    def __init__(self, data: bytes) -> None:
        self._data, self._at = data, 0

    @property
    def at_end(self) -> bool:
        return self._at == len(self._data)

    def layers(self, net: Any) -> Any:
        """(place in the net, number of parameters) of each layer that has some; entries are read in between."""
        place = -1
        for _ in range(self._number(MAX_LAYERS, "layers")):
            place += 1 + self._number(MAX_LAYERS, "layers")
            _check(place < len(net.layer), f"has parameters of a layer {place}, the net has {len(net.layer)}")
            yield place, self._number(MAX_LAYERS, "parameters")

    def entry(self) -> _Entry:
        """The next parameter."""
        flags = self._bytes(1)[0]
        entry = _Entry(flags & 3, bool(flags & 4), flags >> 3 & 3, bool(flags & 32))
        _check(flags < 64 and (entry.where > SHARED or not flags), f"has an unknown kind of parameter ({flags})")
        _check((entry.where == MIXED) <= entry.mixed, f"has an impossible kind of parameter ({flags})")
        _check(entry.where != GAPS or not entry.mixed, f"has an impossible kind of parameter ({flags})")
        axes = self._number(wire.MAX_AXES, "axes")
        entry.shape = tuple(self._number(1 << 40, "values along an axis") for _ in range(axes))
        if entry.where == SHARED:
            return entry
        if entry.where == GAPS:
            entry.width = self._number(8, "bits in a relative index")
            _check(entry.width > 0, "has relative indices of 0 bits")
            entry.symbols = self._number(1 << 40, "relative indices")
            entry.gap_bytes = self._number(1 << 40, "bytes of relative indices")
        if entry.kind == GRID:
            entry.step = struct.unpack("<f", self._bytes(4))[0]
            entry.centroids = self._number(127, "steps to either side")
            _check(0 < entry.step < float("inf"), f"has a grid with a step of {entry.step}")
        elif entry.kind != FLOATS:
            entry.centroids = self._number(256, "centroids")
        if entry.kind == FLOATS or not entry.mixed:
            entry.value_bytes = self._number(1 << 40, "bytes of values")
        return entry

    def _number(self, limit: int, what: str) -> int:
        value, self._at = wire.varint(self._data, self._at, len(self._data))
        _check(value <= limit, f"claims {value} {what}")
        return value

    def _bytes(self, count: int) -> bytes:
        out = self._data[self._at : self._at + count]
        _check(len(out) == count, "has a directory that ends too early")
        self._at += count
        return out
