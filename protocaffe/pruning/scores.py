"""How much a weight matters: a score for each, of which the lowest are pruned first.

- magnitude: ``|w|`` (Han et al. 2015, arXiv 1506.02626)
- random: a draw from the layer's own generator: the baseline that any criterion has to beat
- first-order: ``|w g|``, g the mean gradient: how much the loss changes, to first order, if w becomes 0 (Molchanov et
  al. 2017, arXiv 1611.06440)
- second-order: ``w^2 h / 2``, h the mean of squared gradients, the diagonal of the empirical Fisher matrix: to second
  order, at a minimum (LeCun, Denker, Solla 1990, "Optimal Brain Damage"; Theis et al. 2018, arXiv 1801.05787)
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from protocaffe.data.order import stream_key
from protocaffe.pruning.choice import Weights


def magnitude_scores(weights: Sequence[Weights]) -> list[np.ndarray]:
    """``|w|``, in the precision of the weights."""
    return [np.abs(w.values).astype(np.float32 if w.values.dtype == np.float32 else np.float64) for w in weights]


def random_scores(weights: Sequence[Weights], seed: int) -> list[np.ndarray]:
    """Draws from [0, 1) that depend on ``seed``, the layer's name and the place alone, the same on every machine.

    With one seed a higher sparsity prunes what a lower one does, and more.
    """
    return [_draws(w, stream_key(seed, "pruning", w.name)) for w in weights]


def _draws(w: Weights, key: int) -> np.ndarray:
    # raw words keep it the same in every version of NumPy; 53 bits of them are a float64
    words = np.asarray(np.random.Philox(key=key).random_raw(w.values.size), np.uint64)
    return ((words >> np.uint64(11)) * 2.0**-53).reshape(w.values.shape)


def first_order_scores(weights: Sequence[Weights], gradients: Sequence[np.ndarray]) -> list[np.ndarray]:
    """``|w g|``, in float64: products of small numbers stay apart."""
    return [np.abs(w.values.astype(np.float64) * g) for w, g in zip(weights, gradients, strict=True)]


def second_order_scores(weights: Sequence[Weights], squares: Sequence[np.ndarray]) -> list[np.ndarray]:
    """w^2 h / 2, in float64."""
    return [w.values.astype(np.float64) ** 2 * h / 2 for w, h in zip(weights, squares, strict=True)]
