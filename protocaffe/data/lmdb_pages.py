"""The pages of an LMDB, read with every number checked before it is used.

liblmdb maps the file and trusts it: a damaged page makes it read, and the process die, anywhere. This reader takes one
page at a time with ``pread``, so that the worst that a damaged or shrinking file does is an error.

Source: the structures MDB_meta, MDB_db, MDB_page and MDB_node of LMDB 0.9 (mdb.c, data format 1), on little-endian
64-bit machines.
"""

from __future__ import annotations

import os
import struct
import weakref
from pathlib import Path

import numpy as np

MAGIC, VERSION = 0xBEEFC0DE, 1
NONE = (1 << 64) - 1  # the root of an empty tree
BRANCH, LEAF, OVERFLOW = 1, 2, 4
BIG, SUB, DUPLICATES = 1, 2, 4
DUPSORT = 4
HEADER, NODE = 16, 8
MAX_DEPTH = 32
#: bytes of pages that `LmdbFile.run` takes at a time
RUN = 1 << 20
#: pages that must follow one another for that
SHORT = 8
_META = struct.Struct("<16xIIQQ48xI HH QQQ QQ QQ")  # magic, version, address, map size; main tree; last page, txn
_FREE_PAGE_SIZE = struct.Struct("<40xI")
_PAGE = struct.Struct("<QHHHH")
_NODE = struct.Struct("<HHHH")


class PageError(ValueError):
    """Bytes that are no LMDB; the reader adds the folder's name."""


class LmdbFile:
    """The records of a ``data.mdb`` in the order of their keys.

    Raises PageError for whatever is not as it must be, OSError when the file cannot be read.
    """

    def __init__(self, path: Path) -> None:
        self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self.close = weakref.finalize(self, os.close, self._fd)
        self._size = os.fstat(self._fd).st_size
        first = os.pread(self._fd, _META.size, 0)
        self._page_size = self._check_meta(first, 0)
        second = os.pread(self._fd, _META.size, self._page_size)
        metas = [_META.unpack(first)]
        if len(second) == _META.size and _META.unpack(second)[:2] == (MAGIC, VERSION):
            metas.append(_META.unpack(second))
        meta = max(metas, key=lambda m: m[-1])  # the last transaction
        _, _, _, _, _, flags, depth, _, _, _, self.entries, root, last, _ = meta
        needed = (last + 1) * self._page_size
        if self._size < needed:
            raise PageError(f"is truncated: data.mdb must have {needed} bytes, got {self._size}")
        if flags & DUPSORT:
            raise PageError("is an LMDB with several values for a key, which Caffe does not write")
        self._leaves: list[int] = []
        if root != NONE and self.entries:
            if not 1 <= depth <= MAX_DEPTH:
                raise PageError(f"is damaged: its tree is {depth} pages deep")
            self._collect(root, depth)
        elif self.entries or root != NONE:
            raise PageError(f"is damaged: {self.entries} records, but no tree")
        if self.entries > len(self._leaves) * (self._page_size // (NODE + 2)):
            raise PageError(f"is damaged: {self.entries} records in {len(self._leaves)} pages")
        self._ends: np.ndarray | None = None
        self._turn, self._slots, self._page = -1, (), b""  # type: tuple[int, tuple[int, ...], bytes]
        self._slot = 0
        self._runs = True

    def _check_meta(self, raw: bytes, at: int) -> int:
        if len(raw) < _META.size or _META.unpack(raw)[0] != MAGIC:
            raise PageError("is not an LMDB file")
        if _META.unpack(raw)[1] != VERSION:
            raise PageError(f"is of LMDB's data format {_META.unpack(raw)[1]}, expected {VERSION}")
        size = int(_FREE_PAGE_SIZE.unpack_from(raw)[0])
        if not 256 <= size <= 65536 or size & (size - 1):
            raise PageError(f"is damaged: pages of {size} bytes")
        return size

    def _read_page(self, number: int, kind: int) -> bytes:
        page = (
            os.pread(self._fd, self._page_size, number * self._page_size)
            if number * self._page_size < self._size
            else b""
        )
        if len(page) != self._page_size:
            raise PageError(f"is damaged: page {number} lies behind its end")
        own, _, flags, lower, upper = _PAGE.unpack_from(page)
        if own != number or flags & 7 != kind or not HEADER < lower <= upper <= self._page_size or lower % 2:
            raise PageError(f"is damaged: page {number} is no {'branch' if kind == BRANCH else 'leaf'}")
        return page

    def _slots_of(self, page: bytes, number: int) -> tuple[int, ...]:
        lower = _PAGE.unpack_from(page)[3]
        slots = struct.unpack_from(f"<{(lower - HEADER) // 2}H", page, HEADER)
        if min(slots) < lower or max(slots) > self._page_size - NODE:
            raise PageError(f"is damaged: page {number} points out of itself")
        return slots

    def _collect(self, root: int, depth: int) -> None:
        """List the numbers of the leaves in order, from the branches alone."""
        level, seen = [root], 1
        for _ in range(depth - 1):
            below: list[int] = []
            for number in level:
                page = self._read_page(number, BRANCH)
                for slot in self._slots_of(page, number):
                    low, high, top, _ = _NODE.unpack_from(page, slot)
                    below.append(low | high << 16 | top << 32)
                if seen + len(below) > self._size // self._page_size:
                    raise PageError("is damaged: its tree has more pages than the file")
            seen += len(below)
            level = below
        self._leaves = level

    def _enter(self, turn: int, slot: int) -> None:
        if turn >= len(self._leaves):
            raise PageError(f"its tree does not hold {self.entries} records")
        if turn != self._turn:
            self._turn = -1
            self._page = self._read_page(self._leaves[turn], LEAF)
            self._slots = self._slots_of(self._page, self._leaves[turn])
            self._turn = turn
        self._slot = slot

    def first(self) -> None:
        """Go to the first record."""
        self._enter(0, 0)

    def next(self) -> None:
        """Go to the record behind."""
        if self._slot + 1 < len(self._slots):
            self._slot += 1
        else:
            self._enter(self._turn + 1, 0)

    def run(self, most: int) -> list[bytes]:
        """Go on over whole pages of small records, at most ``most`` of them, and return the values: many times as fast.

        It goes nowhere from within a page, where pages do not follow one another in the file, and where anything has to
        be looked at record by record, errors included: read on with `next`.
        """
        turn, size = self._turn + 1, self._page_size
        ahead = self._leaves[turn : turn + SHORT]
        if not self._runs or self._slot + 1 != len(self._slots):
            return []
        if len(ahead) < SHORT or ahead != list(range(ahead[0], ahead[0] + SHORT)):
            return []
        count = min(RUN // size, most // len(self._slots) + 1)
        pages = np.array(self._leaves[turn : turn + count], np.int64)
        pages = pages[: int(np.argmin(np.append(np.diff(pages) == 1, False))) + 1]
        try:
            raw = os.pread(self._fd, len(pages) * size, ahead[0] * size)
        except (OSError, OverflowError):
            raw = b""
        values = self._values(raw, pages, most) if len(raw) == len(pages) * size else None
        if values is None:
            self._runs = False
            return []
        found, used = values
        if used:
            self._enter(turn + used - 1, 0)
            self._slot = len(self._slots) - 1
        return found

    def _values(self, raw: bytes, pages: np.ndarray, most: int) -> tuple[list[bytes], int] | None:
        """Values of the first pages that hold at most ``most``, and how many pages; None unless all is in order."""
        size = self._page_size
        words = np.frombuffer(raw, "<u2").reshape(len(pages), -1)
        _, kind, lower, upper = words[:, 4 : HEADER // 2].T.astype(np.int64)
        own = np.frombuffer(raw, "<u8").reshape(len(pages), -1)[:, 0]
        leaves = (own == pages) & (kind & 7 == LEAF)
        if not (leaves & (lower > HEADER) & (lower <= upper) & (upper <= size) & (lower % 2 == 0)).all():
            return None
        counts = (lower - HEADER) // 2
        used = int(np.searchsorted(np.cumsum(counts), most, side="right"))
        if not used:
            return [], 0
        counts, lower, words = counts[:used], lower[:used], words[:used]
        inside = np.arange(counts.max()) < counts[:, None]
        slots = words[:, HEADER // 2 : HEADER // 2 + inside.shape[1]][inside].astype(np.int64)
        bases = np.repeat(np.arange(used) * size, counts)
        if (slots < np.repeat(lower, counts)).any() or (slots > size - NODE).any() or (slots % 2).any():
            return None
        nodes = words.ravel()[((bases + slots) // 2)[:, None] + np.arange(NODE // 2)]
        low, high, flags, key_size = nodes.T.astype(np.int64)
        begins, lengths = slots + NODE + key_size, low | high << 16
        if flags.any() or (begins + lengths > size).any():
            return None
        begins += bases
        return [raw[a:b] for a, b in zip(begins.tolist(), (begins + lengths).tolist(), strict=True)], used

    def go(self, index: int) -> None:
        """Go to the record ``index``. The first call looks at every leaf."""
        if self._ends is None:
            counts = []
            for number in self._leaves:
                counts.append((_PAGE.unpack_from(self._read_page(number, LEAF))[3] - HEADER) // 2)
            ends = np.cumsum(counts)
            if ends[-1] != self.entries:
                raise PageError(f"its tree does not hold {self.entries} records but {ends[-1]}")
            self._ends = ends
        turn = int(np.searchsorted(self._ends, index, side="right"))
        self._enter(turn, index - (int(self._ends[turn - 1]) if turn else 0))

    def _node(self) -> tuple[int, int, int]:
        """(size of the value, flags, begin of the value in the page); the key ends where the value begins."""
        low, high, flags, key_size = _NODE.unpack_from(self._page, self._slots[self._slot])
        begin = self._slots[self._slot] + NODE + key_size
        size = low | high << 16
        if flags & (SUB | DUPLICATES) or begin + (8 if flags & BIG else size) > self._page_size:
            raise PageError(f"page {self._leaves[self._turn]} is damaged")
        return size, flags, begin

    def key(self) -> bytes:
        """The key of the record."""
        _, _, begin = self._node()
        return self._page[self._slots[self._slot] + NODE : begin]

    def value(self) -> bytes:
        """The value of the record."""
        size, flags, begin = self._node()
        if not flags & BIG:
            return self._page[begin : begin + size]
        (number,) = struct.unpack_from("<Q", self._page, begin)
        at = number * self._page_size
        if at + HEADER + size > self._size:
            raise PageError(f"page {number} lies behind its end")
        head = os.pread(self._fd, HEADER, at)
        own, _, kind, pages = struct.unpack("<QHHI", head) if len(head) == HEADER else (0, 0, 0, 0)
        if own != number or kind & 7 != OVERFLOW or HEADER + size > pages * self._page_size:
            raise PageError(f"page {number} is damaged")
        value = os.pread(self._fd, size, at + HEADER)
        if len(value) != size:
            raise PageError(f"page {number} lies behind its end")
        return value
