"""What pruning has left: two figures that are often mixed up, kept apart.

sparsity   zeros over *prunable* weights (biases and normalisation parameters do not count)
ratio      *all* parameters over all non-zero parameters, the figure that papers on compression give
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from protocaffe.pruning.magnitude import Weights


@dataclass(frozen=True)
class LayerSparsity:
    """Zeros among one parameter's weights."""

    name: str
    shape: tuple[int, ...]
    count: int
    zeros: int

    @property
    def sparsity(self) -> float:
        return self.zeros / self.count if self.count else 0.0


@dataclass(frozen=True)
class SparsityReport:
    """Per-layer zeros over prunable weights, and non-zeros over all parameters of the net."""

    layers: tuple[LayerSparsity, ...]
    parameters: int
    nonzeros: int

    @property
    def prunable(self) -> int:
        return sum(layer.count for layer in self.layers)

    @property
    def zeros(self) -> int:
        return sum(layer.zeros for layer in self.layers)

    @property
    def sparsity(self) -> float:
        """Zeros over prunable weights."""
        return self.zeros / self.prunable if self.prunable else 0.0

    @property
    def ratio(self) -> float:
        """All parameters over non-zero parameters (infinite when none is left)."""
        return self.parameters / self.nonzeros if self.nonzeros else float("inf")

    def lines(self) -> list[str]:
        """The report as text, one line for each layer and two for the net."""
        width = max([len(layer.name) for layer in self.layers], default=0)
        rows = [
            f"{layer.name:<{width}}  {layer.zeros:>10,} of {layer.count:>10,} weights are zero  {layer.sparsity:8.2%}"
            for layer in self.layers
        ]
        fewer = f"{self.ratio:.1f}x fewer" if self.nonzeros else "nothing is left"
        return [
            *rows,
            f"sparsity {self.sparsity:.2%}: {self.zeros:,} zeros of {self.prunable:,} prunable weights",
            f"non-zeros {self.nonzeros:,} of {self.parameters:,} parameters ({fewer})",
        ]


def sparsity_report(prunable: Sequence[Weights], parameters: Sequence[np.ndarray]) -> SparsityReport:
    """Count zeros (exact zeros, or what the mask has pruned) in ``prunable``, and non-zeros in all ``parameters``.

    >>> w = np.array([0, 0, 0, 2], np.float32)
    >>> print(*sparsity_report([Weights("ip", w)], [w, np.ones(1)]).lines(), sep="\\n")
    ip           3 of          4 weights are zero    75.00%
    sparsity 75.00%: 3 zeros of 4 prunable weights
    non-zeros 2 of 5 parameters (2.5x fewer)
    """
    layers = []
    for w in prunable:
        left = w.values != 0 if w.mask is None else (w.values != 0) & np.asarray(w.mask, bool)
        layers.append(LayerSparsity(w.name, w.values.shape, w.values.size, w.values.size - int(np.count_nonzero(left))))
    return SparsityReport(
        tuple(layers),
        parameters=sum(p.size for p in parameters),
        nonzeros=sum(int(np.count_nonzero(p)) for p in parameters),
    )
