"""The weights of one pruned layer that come nearest to the dense layer's outputs: linear least squares under a mask.

Pure functions on arrays. A layer is ``y = W x + b`` in ``groups`` groups (a convolution's x are windows of its input).
He, Zhang and Sun 2017 (arXiv 1707.06168) refit what is left of a layer on samples of its inputs; here every output has
a mask of its own, as Frantar and Alistarh 2022 (arXiv 2208.11580) treat them, solved exactly, row by row.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from ..errors import ParameterError, ShapeError

#: weight of the distance from the old weights, relative to the mean of the Gram matrix' diagonal: on LeNet with 205
#: images, at sparsities from 0.9 to 0.98, a tenth agreed best with the original (on the test digits: docs/prune.md)
RIDGE = 0.1


@dataclass
class Sums:
    """What least squares need to know of samples x (n, groups, K) and y (n, groups, R), summed in float64.

    Memory: groups x K x (K + R) values, however many samples there are; time: n x groups x K x (K + R).
    """

    count: int
    x: np.ndarray
    y: np.ndarray
    xx: np.ndarray
    xy: np.ndarray
    yy: np.ndarray

    @classmethod
    def empty(cls, groups: int, inputs: int, outputs: int) -> Sums:
        """No samples yet."""
        shapes = ((groups, inputs), (groups, outputs), (groups, inputs, inputs), (groups, inputs, outputs))
        return cls(0, *(np.zeros(shape) for shape in (*shapes, (groups, outputs))))

    def add(self, x: np.ndarray, y: np.ndarray) -> None:
        """Add samples."""
        (groups, inputs), outputs = self.x.shape, self.y.shape[1]
        if x.shape[1:] != (groups, inputs) or y.shape != (len(x), groups, outputs):
            raise ShapeError(
                f"least squares: samples must have shapes (n, {groups}, {inputs}) and (n, {groups}, {outputs}), got "
                f"{x.shape} and {y.shape}"
            )
        x, y = (np.ascontiguousarray(a.transpose(1, 0, 2), np.float64) for a in (x, y))
        across = x.transpose(0, 2, 1)
        self.count += x.shape[1]
        self.x += x.sum(1)
        self.y += y.sum(1)
        self.xx += across @ x
        self.xy += across @ y
        self.yy += (y * y).sum(1)

    def centre(self, group: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Of one group: mean x, mean y, and the sums of products of the deviations from them (xx, xy, yy)."""
        x, y = self.x[group] / self.count, self.y[group] / self.count
        xx = self.xx[group] - np.outer(x, self.x[group])
        return x, y, xx, self.xy[group] - np.outer(x, self.y[group]), self.yy[group] - y * self.y[group]


class Fit(NamedTuple):
    """New weights and bias, and the squared error per output (groups, R) before and after."""

    weights: np.ndarray
    bias: np.ndarray | None
    before: np.ndarray
    after: np.ndarray


def refit(sums: Sums, weights: np.ndarray, bias: np.ndarray | None, mask: np.ndarray, ridge: float = RIDGE) -> Fit:
    """Minimise, under the mask, ``||y - W x - b||^2 + ridge m ||W - W0||^2`` over the samples, in float64.

    Parameters
    ----------
    sums : of the samples
    weights, mask : W0 (groups, R, K), and which of them are kept; what is not is 0 in the result
    bias : b (groups, R), refitted too; None: there is none
    ridge : above 0; m is the mean of the diagonal of the samples' Gram matrix

    Notes
    -----
    Since what is added is the distance from the *old* weights, the squared error never grows, also with fewer samples
    than weights. Rows (outputs) with equal masks are solved together; the time is the sum, over distinct masks with k
    weights kept, of k^3: see `work`.
    """
    if not ridge > 0:
        raise ParameterError(f"least squares: ridge must be above 0, got {ridge:g}")
    if sums.count < 1:
        raise ParameterError("least squares: there are no samples")
    old = np.where(mask, weights, 0).astype(np.float64)
    start = np.zeros(old.shape[:2]) if bias is None else np.asarray(bias, np.float64)
    new, shift = old.copy(), start.copy()
    before, after = np.zeros(start.shape), np.zeros(start.shape)
    for g in range(len(old)):
        x, y, xx, xy, yy = sums.centre(g)
        before[g] = _error(sums.count, old[g], start[g], x, y, xx, xy, yy)
        gram, cross = (sums.xx[g], sums.xy[g]) if bias is None else (xx, xy)
        new[g] += _steps(gram, cross - gram @ old[g].T, mask[g], ridge)
        if bias is not None:
            shift[g] = y - new[g] @ x
        after[g] = _error(sums.count, new[g], shift[g], x, y, xx, xy, yy)
    worse = ~(after <= before)  # rounding, where nothing was to be gained
    new[worse], shift[worse], after[worse] = old[worse], start[worse], before[worse]
    return Fit(new, None if bias is None else shift, before, after)


def _steps(gram: np.ndarray, residual: np.ndarray, mask: np.ndarray, ridge: float) -> np.ndarray:
    """What is added to the weights (R, K); ``residual`` (K, R) is what the inputs have in common with the errors."""
    out = np.zeros(mask.shape)
    little = ridge * np.trace(gram) / max(1, len(gram))
    if not little > 0:  # all inputs are 0, or constant beside a bias
        return out
    for kept, rows in _distinct(mask):
        if kept.size:
            part = gram[np.ix_(kept, kept)]
            part[np.diag_indices_from(part)] += little
            out[np.ix_(rows, kept)] = np.linalg.solve(part, residual[np.ix_(kept, rows)]).T
    return out


def _distinct(mask: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """(kept inputs, rows) of each distinct row of a mask."""
    found: dict[bytes, list[int]] = {}
    for row, packed in enumerate(np.packbits(mask, axis=1)):
        found.setdefault(packed.tobytes(), []).append(row)
    return [(np.flatnonzero(mask[rows[0]]), np.array(rows)) for rows in found.values()]


def _error(
    count: int, w: np.ndarray, b: np.ndarray, x: np.ndarray, y: np.ndarray, xx: np.ndarray, xy: np.ndarray,
    yy: np.ndarray,
) -> np.ndarray:  # fmt: skip
    """Squared error of each output, from sums about the means."""
    spread = yy - 2 * (w * xy.T).sum(1) + ((w @ xx) * w).sum(1)
    return np.asarray(np.maximum(spread, 0) + count * (y - w @ x - b) ** 2)


def work(mask: np.ndarray) -> float:
    """Operations that `refit` needs for a mask (groups, R, K): 2/3 k^3 for each distinct row with k weights kept.

    >>> work(np.ones((1, 5, 3), bool))
    18.0
    """
    return sum(2 / 3 * float(kept.size) ** 3 for group in mask for kept, _ in _distinct(group))
