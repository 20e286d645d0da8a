"""How much accuracy each layer costs when it alone is pruned, and the shares of all layers that a drop allows.

Weights go by magnitude, in one shot and without fine-tuning, so the curves rank layers rather than foretell what
fine-tuning will reach (Han et al. 2015, arXiv 1506.02626, section 3; Li et al. 2017, arXiv 1608.08710).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from ..errors import ParameterError
from .magnitude import Weights, magnitude_masks
from .net import own_parameters

if TYPE_CHECKING:
    from ..blob import Blob
    from ..net import Net

SPARSITIES = (0.3, 0.5, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99)
#: halvings of the drop that a single layer is allowed, in search of what all of them may cost together
_HALVINGS = 7


@dataclass
class Curve:
    """Accuracy by sparsity of one layer's weights, all others as they are."""

    name: str
    weights: int
    sparsity: list[float] = field(default_factory=list)
    accuracy: list[float] = field(default_factory=list)

    def budget(self, floor: float) -> float:
        """The largest sparsity up to which the accuracy is at least ``floor``, straight lines between the points.

        >>> Curve("ip", 10, [0.0, 0.5, 0.9], [1.0, 1.0, 0.8]).budget(0.9)
        0.7
        """
        best = self.sparsity[0]
        for i in range(1, len(self.sparsity)):
            (a, b), (high, low) = self.sparsity[i - 1 : i + 1], self.accuracy[i - 1 : i + 1]
            if low < floor:
                part = (high - floor) / (high - low) if high > floor else 0.0
                return round(a + part * (b - a), 6)
            best = b
        return best


class Scan:
    """Curves of a net's layers; ``score`` gives the accuracy of the net as it is.

    What masks have pruned already stays so and counts. The net is as it was after every method. Raises ParameterError
    for shares that cannot be.
    """

    def __init__(self, net: Net, score: Callable[[], float]) -> None:
        self.net, self.score = net, score
        self._blobs = {
            layer + (f"[{i}]" if i else ""): blob
            for layer, blobs in own_parameters(net)
            for i, blob in enumerate(b for b in blobs if b.prunable)
        }
        self.baseline = score()
        self.curves: list[Curve] = []

    def run(
        self, sparsities: Sequence[float] = SPARSITIES, each: Callable[[str, float, float], None] | None = None
    ) -> list[Curve]:
        """Prune one layer after the other to each share; ``each(name, sparsity, accuracy)`` hears of every score."""
        if not sparsities or any(not 0 < s < 1 for s in sparsities):
            raise ParameterError(f"sensitivity: sparsities must be shares in (0, 1), got {list(sparsities)}")
        for name, blob in self._blobs.items():
            start = 0.0 if blob.mask is None else float(1 - blob.mask.mean())
            curve = Curve(name, blob.count, [start], [self.baseline])
            for share in sorted(s for s in set(sparsities) if s > start):
                accuracy = self.with_shares({name: share})
                curve.sparsity.append(share)
                curve.accuracy.append(accuracy)
                if each is not None:
                    each(name, share, accuracy)
            self.curves.append(curve)
        return self.curves

    def with_shares(self, shares: dict[str, float]) -> float:
        """The accuracy with these layers pruned to these shares."""
        saved = {name: (self._blobs[name].data.copy(), self._blobs[name].mask) for name in shares}
        saved = {name: (data, None if mask is None else mask.copy()) for name, (data, mask) in saved.items()}
        try:
            for name, share in shares.items():
                _prune(self._blobs[name], name, share)
            return self.score()
        finally:
            for name, (data, mask) in saved.items():
                self._blobs[name].mask = None
                self._blobs[name].data = data
                self._blobs[name].mask = mask

    def budgets(self, max_drop: float) -> tuple[dict[str, float], float]:
        """Shares of all layers with which the net falls by at most ``max_drop``, and its accuracy with them.

        Each layer gets the share at which it alone costs d; d is the largest, found by halving, for which all together
        cost no more than ``max_drop``.
        """
        if not 0 <= max_drop < 1:
            raise ParameterError(f"sensitivity: the largest drop must be a share in [0, 1), got {max_drop:g}")
        low, high = 0.0, max_drop
        best = self._shares(0.0)
        accuracy = self.with_shares(best)
        tried = max_drop
        for _ in range(_HALVINGS):
            shares = self._shares(tried)
            got = self.with_shares(shares)
            if got >= self.baseline - max_drop:
                best, accuracy, low = shares, got, tried
                if low == high:
                    break
            else:
                high = tried
            tried = (low + high) / 2
        if accuracy < self.baseline - max_drop:  # even what costs nothing alone costs too much together
            best = {curve.name: curve.sparsity[0] for curve in self.curves}
            accuracy = self.baseline
        return best, accuracy

    def _shares(self, drop: float) -> dict[str, float]:
        return {curve.name: curve.budget(self.baseline - drop) for curve in self.curves}


def _prune(blob: Blob, name: str, share: float) -> None:
    """Prune one parameter by magnitude, down to nothing if that is asked for."""
    mask = None if blob.mask is None else blob.mask
    (blob.mask,) = magnitude_masks([Weights(name, np.array(blob.data), mask)], min(share, 0.999999), min_keep=0)
