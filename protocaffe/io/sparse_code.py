"""How compressed models hold one parameter: which weights are there, and which code each of them has.

Two ways for each. *Mixed* (`positions`, `codes`): bit by bit through the coder of `mixing`, the smallest, for
parameters of which little is left: rows and columns that are empty cost one flag each, and only where live rows and
columns cross is there a bit for each weight, predicted from how full its row and column are. *Bytes* (`pack_gaps`,
`deflated`): relative indices and codes as bytes, Huffman-coded by deflate: larger, but decoded at once, for parameters
of any size.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from heapq import heapify, heappop, heappush
from math import prod

import numpy as np

from .mixing import Coder, slot

#: a number of steps so far, roughly
ROUGHLY = [0, 1, 2, 3, 4, 4, 5, 5, 6, 6, 6, 6, 7, 7, 7, 7]


def matrix_shape(shape: tuple[int, ...]) -> tuple[int, int]:
    """A parameter as rows and columns: its first axis, but for leading ones, and the others.

    >>> matrix_shape((20, 1, 5, 5)), matrix_shape((1, 1, 10, 500)), matrix_shape((7,)), matrix_shape(())
    ((20, 25), (10, 500), (1, 7), (1, 1))
    """
    while len(shape) > 2 and shape[0] == 1:
        shape = shape[1:]
    return (shape[0], prod(shape[1:])) if len(shape) > 1 else (1, prod(shape))


def steps(kept: np.ndarray, bits: int) -> int:
    """How many bits the mixed way codes for this matrix and its codes."""
    live = np.count_nonzero(kept.any(1)) * np.count_nonzero(kept.any(0))
    return sum(kept.shape) + int(live) + int(np.count_nonzero(kept)) * bits


def positions(coder: Coder, kept: np.ndarray, spend: Callable[[int], None]) -> np.ndarray:
    """Code a boolean matrix; a decoder takes only the shape of ``kept``. ``spend`` hears of steps beforehand."""
    spend(sum(kept.shape))
    rows = np.flatnonzero(_flags(coder, np.any(kept, axis=1).tolist()))
    columns = np.flatnonzero(_flags(coder, np.any(kept, axis=0).tolist()))
    spend(len(rows) * len(columns))
    out = np.zeros(kept.shape, bool)
    out[np.ix_(rows, columns)] = _crossings(coder, kept[np.ix_(rows, columns)])
    return out


def _flags(coder: Coder, flags: list[bool]) -> list[int]:
    weights, out, past = [0.4, 0.4, 0.4], [], 0
    near = [slot() for _ in range(4)]
    counts = [[slot() for _ in range(9)], [slot() for _ in range(17)]]
    for flag in flags:
        slots = (near[past & 3], counts[0][(past & 255).bit_count()], counts[1][past.bit_count()])
        bit = coder.bit(int(flag), slots, weights, 0.02)
        past = (past << 1 | bit) & 65535
        out.append(bit)
    return out


def _crossings(coder: Coder, kept: np.ndarray) -> np.ndarray:
    rows, columns = kept.shape
    weights = [0.3, 0.3, 0.3, 0.3]
    share = [slot() for _ in range(9 * 9)]
    nearby = [slot() for _ in range(16)]
    of_column = [slot() for _ in range(columns)]
    filled = [0] * columns
    out = np.zeros(kept.shape, bool)
    for r in range(rows):
        of_row, line, count, past, got = slot(), kept[r].tolist(), 0, 0, []
        for j in range(columns):
            full = share[9 * (8 * filled[j] // (r + 1)) + 8 * count // (j + 2)]
            bit = coder.bit(int(line[j]), (full, of_column[j], of_row, nearby[past]), weights)
            count += bit
            filled[j] += bit
            past = (past << 1 | bit) & 15
            got.append(bit)
        out[r] = got
    return out


def codes(coder: Coder, values: np.ndarray, count: int, bits: int, spend: Callable[[int], None]) -> np.ndarray:
    """Code ``count`` numbers below 2^bits by frequencies that are learnt; a decoder takes no notice of ``values``."""
    spend(count * bits)
    if not bits:
        return np.zeros(count, np.uint8)
    slots = [slot() for _ in range(1 << bits)]
    weights = [[1.0] for _ in range(bits)]
    given = values.tolist() if len(values) else [0] * count
    return np.array([coder.symbol(value, bits, slots, weights) for value in given], np.uint8)


# ----------------------------------------------------------------------------------------------------- bytes, deflated
def pack_gaps(kept: np.ndarray) -> tuple[int, np.ndarray]:
    """Relative indices of the True ones in a flat array: (width, symbols), at the width that packs best.

    A symbol below 2^width - 1 is the number of zeros before the next weight; the largest one stands for that many zeros
    and no weight.
    """
    zeros = np.diff(np.flatnonzero(kept), prepend=-1) - 1
    best = min(range(1, 9), key=lambda width: _huffman(zeros, width))
    filler = (1 << best) - 1
    runs = zeros // filler
    symbols = np.full(len(zeros) + int(runs.sum()), filler, np.uint8)
    symbols[np.cumsum(runs + 1) - 1] = zeros % filler
    return best, symbols


def _huffman(zeros: np.ndarray, width: int) -> int:
    """The bits that these indices take in a Huffman code, some for its table among them."""
    filler = (1 << width) - 1
    counts = np.bincount(zeros % filler, minlength=filler + 1)
    counts[filler] = (zeros // filler).sum()
    heap = [n for n in counts.tolist() if n]
    bits = 4 * len(heap)
    heapify(heap)
    while len(heap) > 1:
        both = heappop(heap) + heappop(heap)
        bits += both
        heappush(heap, both)
    return bits


def unpack_gaps(symbols: np.ndarray, width: int, count: int) -> np.ndarray | None:
    """The flat boolean array of ``count``, or None for symbols that do not fit it."""
    filler = (1 << width) - 1
    if len(symbols) and int(symbols.max()) > filler:
        return None
    weight = symbols != filler
    ends = np.cumsum(symbols.astype(np.int64) + weight)
    if len(ends) and int(ends[-1]) > count:
        return None
    kept = np.zeros(count, bool)
    kept[ends[weight] - 1] = True
    return kept


def deflated(data: bytes, dictionary: bytes = b"") -> bytes:
    """The smallest of: the bytes as they are; deflate; deflate's Huffman codes alone."""
    tried = [data]
    for strategy in (zlib.Z_HUFFMAN_ONLY, zlib.Z_DEFAULT_STRATEGY):
        packer = zlib.compressobj(9, zlib.DEFLATED, -15, 9, strategy, dictionary)
        tried.append(packer.compress(data) + packer.flush())
    return min(tried, key=len)


def inflated(data: bytes, size: int, dictionary: bytes = b"") -> bytes | None:
    """What `deflated` packed, or None where it is not ``size`` bytes."""
    if len(data) == size:
        return data
    unpacker = zlib.decompressobj(-15, zdict=dictionary)
    try:
        out = unpacker.decompress(data, size + 1)
    except zlib.error:
        return None
    return out if len(out) == size and unpacker.eof and not unpacker.unused_data else None
