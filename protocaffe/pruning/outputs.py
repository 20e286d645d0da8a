"""Whole outputs of layers: filters of a convolution, neurons of an inner product.

A pruned channel is one whose weights are all pruned. Its score is one of

- l1-channels: the mean ``|w|`` of its filter, its L1 norm over its size, so that layers compare (Li et al. 2017, arXiv
  1608.08710)
- scale-channels: ``|gamma|`` of the Scale behind it (Liu et al. 2017, arXiv 1708.06519); following.py
- taylor-channels: ``|sum over pixels of a g|``, a the channel's activations and g their gradients, averaged over images
  and batches, then over the L2 norm of the layer's scores (Molchanov et al. 2017, arXiv 1611.06440); taylor.py
- effect-channels: the mean squared change of the net's outputs without it, from images without labels; effect.py
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import numpy as np

from protocaffe.pruning.choice import Weights, choose_masks


def l1_channels(weights: Sequence[Weights]) -> list[np.ndarray]:
    """For each of ``weights`` the mean magnitude of each output's weights, in float64."""
    out = []
    for w in weights:
        rows = w.lies.rows(np.abs(w.values))
        out.append(rows.sum(axis=1, dtype=np.float64) / max(1, rows.shape[1]))
    return out


def alive_channels(w: Weights) -> np.ndarray:
    """Which outputs have weights that are not pruned."""
    return np.asarray(w.lies.rows(w.alive).any(axis=1))


def choose_channels(
    weights: Sequence[Weights],
    scores: Sequence[np.ndarray],
    sparsity: float,
    scope: str = "global",
    layer_sparsity: Mapping[str, float] | None = None,
    min_keep: float | None = None,
    exclude: Collection[str] = (),
) -> list[np.ndarray]:
    """Return for each of ``weights`` a boolean array: which outputs stay.

    As `choose_masks`, but ``scores`` has a value for each output, and sparsity, shares and ``min_keep`` count outputs.
    """
    channels = [Weights(w.name, score, alive_channels(w), w.lies) for w, score in zip(weights, scores, strict=True)]
    return choose_masks(channels, scores, sparsity, scope, layer_sparsity, min_keep, exclude)


def channel_masks(weights: Sequence[Weights], kept: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Masks that prune all weights of the outputs that do not stay, and what has been pruned already.

    >>> w = np.arange(1, 7, dtype=np.float32).reshape(3, 2)
    >>> channel_masks([Weights("ip", w)], [np.array([True, False, True])])[0].tolist()
    [[True, True], [False, False], [True, True]]
    """
    out = []
    for w, stays in zip(weights, kept, strict=True):
        rows = w.lies.rows(w.alive) & np.asarray(stays, bool)[:, None]
        out.append(w.lies.values(rows, w.values.shape))
    return out
