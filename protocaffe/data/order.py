"""Which item comes at which position, and the random draws that belong to a position.

All randomness is a Philox counter generator addressed by (seed, layer, purpose, position): nothing has to be stored
to go on from a snapshot but the position.
"""

from __future__ import annotations

import hashlib

import numpy as np


def stream_key(seed: int, *names: object) -> int:
    """Return the 128-bit Philox key of the stream with these names under ``seed``."""
    text = "\0".join(str(part) for part in (seed, *names))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=16).digest(), "little")


def draws(key: int, position: int, count: int) -> np.ndarray:
    """Return four random 64-bit words for each position from ``position`` on: uint64, (count, 4).

    >>> bool((draws(7, 0, 5)[3] == draws(7, 3, 1)[0]).all())
    True
    """
    return np.asarray(np.random.Philox(key=key, counter=position).random_raw(4 * count), np.uint64).reshape(count, 4)


def generator(key: int, stream: int) -> np.random.Generator:
    """Return a NumPy generator at the start of substream ``stream``."""
    return np.random.Generator(np.random.Philox(key=key, counter=stream << 128))


def permutation(key: int, stream: int, size: int) -> np.ndarray:
    """Return a permutation of 0 .. size-1, int64, from substream ``stream``.

    Sorting raw words keeps it the same in every version of NumPy.
    """
    words = np.random.Philox(key=key, counter=stream << 128).random_raw(size)
    return np.argsort(words, kind="stable")


class Order:
    """Indices of the items of an endlessly repeated set: in order, or permuted anew in each epoch.

    Position p is item ``(p + skip) mod size`` of epoch ``(p + skip) div size``.
    """

    def __init__(self, size: int, shuffle: bool = False, key: int = 0, skip: int = 0) -> None:
        self.size, self.shuffle, self.key, self.skip = size, shuffle, key, skip
        self._epoch = -1
        self._permutation = np.empty(0, np.int64)

    def indices(self, position: int, count: int) -> np.ndarray:
        """Return the indices for positions ``position`` .. ``position + count - 1``."""
        start = position + self.skip
        if not self.shuffle:
            return np.arange(start, start + count) % self.size
        parts = []
        while count:
            epoch, at = divmod(start, self.size)
            taken = min(count, self.size - at)
            if epoch != self._epoch:
                self._permutation, self._epoch = permutation(self.key, epoch, self.size), epoch
            parts.append(self._permutation[at : at + taken])
            start, count = start + taken, count - taken
        return parts[0] if len(parts) == 1 else np.concatenate(parts)
