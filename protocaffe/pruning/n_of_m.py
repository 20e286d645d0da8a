"""N:M sparsity: of every m weights that follow one another along the inputs of an output, n stay (2:4, say).

An output's inputs are a row: of an InnerProduct its inputs (transposed or not), of a convolution's filter the input
channels of its group times the kernel, in the order in which they are stored.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np

from protocaffe.errors import ParameterError
from protocaffe.pruning.choice import Weights, check_names, check_scores


def n_of_m_masks(
    weights: Sequence[Weights], scores: Sequence[np.ndarray], n: int, m: int, exclude: Collection[str] = ()
) -> list[np.ndarray]:
    """Return a boolean mask (True = kept) for each of ``weights``: of every ``m`` the ``n`` with the highest scores.

    Of r weights that are left over at the end of a row (r < m) the share is pruned, rounded down: r n / m, rounded up,
    stay, so that each row filled up with zeros has the pattern. What a mask has pruned already stays pruned: then fewer
    than n may be left. Equal scores go in the order in which they are stored. Layers in ``exclude`` are left as they
    are.

    >>> w = np.array([[1, 5, 2, 3, 9, 7]], np.float32)
    >>> n_of_m_masks([Weights("ip", w)], [w], 2, 4)[0]
    array([[False,  True, False,  True,  True, False]])

    Raises ParameterError unless 1 <= n < m, and for unknown layers and scores that are not finite.
    """
    if not 1 <= n < m:
        raise ParameterError(f"pruning: n:m must have 1 <= n < m, such as 2:4, got {n}:{m}")
    check_names(weights, exclude)
    check_scores(weights, scores)
    return [
        w.alive if w.name in exclude else _pattern(w, score, n, m) for w, score in zip(weights, scores, strict=True)
    ]


def _pattern(w: Weights, score: np.ndarray, n: int, m: int) -> np.ndarray:
    alive = w.alive
    rows = w.lies.rows(np.where(alive, score, -np.inf))
    whole = rows.shape[1] // m * m
    keep = np.ones(rows.shape, bool)
    keep[:, :whole] = _all_but_lowest(rows[:, :whole].reshape(-1, m), m - n).reshape(rows.shape[0], whole)
    left = rows.shape[1] - whole
    keep[:, whole:] = _all_but_lowest(rows[:, whole:], left * (m - n) // m)
    return w.lies.values(keep, w.values.shape) & alive


def _all_but_lowest(rows: np.ndarray, count: int) -> np.ndarray:
    """True but for the ``count`` lowest of each row, the first ones among equals."""
    keep = np.ones(rows.shape, bool)
    np.put_along_axis(keep, np.argsort(rows, axis=1, kind="stable")[:, :count], False, axis=1)
    return keep
