"""Sums in a fixed number of pieces: they occupy all threads, and do not depend on how many there are."""

from __future__ import annotations

CHUNK, MOST = 4096, 256


def chunks_of(count: int, rows: int = 1) -> int:
    """Into how many chunks each of ``rows`` rows of ``count`` values is cut.

    >>> chunks_of(1000), chunks_of(10000), chunks_of(10**8), chunks_of(10**8, rows=100), chunks_of(0)
    (1, 3, 256, 2, 1)
    """
    return max(1, min(MOST // max(1, rows), -(-count // CHUNK)))
