"""Code books: weights that share a few values (Han et al. 2016, "Deep Compression", arXiv 1510.00149)."""

from __future__ import annotations

import numpy as np

from protocaffe.errors import ParameterError


def kmeans(values: np.ndarray, count: int, iterations: int = 300) -> np.ndarray:
    """At most ``count`` values, ascending, that stand for ``values`` with a small sum of squared errors.

    Values that are few enough are their own book. Otherwise Lloyd's iterations start from equal steps, which keeps the
    few large weights apart and leaves codes of uneven frequency, so that they pack better than those of a density-based
    start; values that end up with nothing near them are dropped. On sorted values with their running sums each
    iteration costs ``count`` searches, and no chance is involved.

    >>> kmeans(np.array([1.0, 1.5, 9.0, 9.5]), 2)
    array([1.25, 9.25])
    """
    if count < 1:
        raise ParameterError(f"a code book needs at least 1 value, got {count}")
    ordered = np.sort(np.asarray(values, np.float64).ravel())
    distinct = ordered[np.r_[True, ordered[1:] != ordered[:-1]]] if ordered.size else ordered
    if distinct.size <= count:
        return distinct
    sums = np.r_[0.0, np.cumsum(ordered)]
    return _lloyd(ordered, sums, np.linspace(ordered[0], ordered[-1], count), iterations)


def nearest(values: np.ndarray, book: np.ndarray) -> np.ndarray:
    """For each value the place of the nearest one in an ascending book (uint8)."""
    return np.searchsorted((book[1:] + book[:-1]) / 2, values).astype(np.uint8)


def _lloyd(ordered: np.ndarray, sums: np.ndarray, book: np.ndarray, iterations: int) -> np.ndarray:
    for _ in range(iterations):
        ends = np.r_[0, np.searchsorted(ordered, (book[1:] + book[:-1]) / 2), ordered.size]
        sizes = np.diff(ends)
        used = sizes > 0
        better = np.diff(sums[ends])[used] / sizes[used]
        if better.size == book.size and np.array_equal(better, book):
            break
        book = better
    return book
