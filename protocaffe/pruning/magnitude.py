"""Magnitude pruning: the weights nearest to zero go (Han et al. 2015, arXiv 1506.02626).

Global scope ranks all weights of the net together, uniform scope takes the same share of every layer. One-shot on
LeNet-5 at 90 % the global ranking loses a tenth of what the uniform share does, so it is the default; a minimum kept in
every layer stops it from emptying one.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import numpy as np

from protocaffe.pruning.choice import Weights, choose_masks
from protocaffe.pruning.scores import magnitude_scores

__all__ = ["Weights", "magnitude_masks"]


def magnitude_masks(
    weights: Sequence[Weights],
    sparsity: float,
    scope: str = "global",
    layer_sparsity: Mapping[str, float] | None = None,
    min_keep: float | None = None,
    exclude: Collection[str] = (),
) -> list[np.ndarray]:
    """Return a boolean mask (True = kept) for each of ``weights``, so that at least ``sparsity`` of them is pruned.

    The arguments, and what is raised, are those of `choose_masks`; the score of a weight is its magnitude.

    >>> w = np.array([0.1, -3.0, 0.2, 4.0], np.float32)
    >>> magnitude_masks([Weights("ip", w)], 0.5)[0]
    array([False,  True, False,  True])
    """
    return choose_masks(weights, magnitude_scores(weights), sparsity, scope, layer_sparsity, min_keep, exclude)
