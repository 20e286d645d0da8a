"""Magnitude pruning: the weights nearest to zero go (Han et al. 2015, arXiv 1506.02626).

Global scope ranks all weights of the net together, uniform scope takes the same share of every layer. One-shot on
LeNet-5 at 90 % the global ranking loses a tenth of what the uniform share does, so it is the default; a minimum kept in
every layer stops it from emptying one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from protocaffe.errors import ParameterError


class Weights(NamedTuple):
    """One prunable parameter: a name for messages, its values and its mask so far (True = kept; None = all kept)."""

    name: str
    values: np.ndarray
    mask: np.ndarray | None = None


def magnitude_masks(
    weights: Sequence[Weights],
    sparsity: float,
    scope: str = "global",
    layer_sparsity: Mapping[str, float] | None = None,
    min_keep: float | None = None,
) -> list[np.ndarray]:
    """Return a boolean mask (True = kept) for each of ``weights``, so that at least ``sparsity`` of them is pruned.

    Parameters
    ----------
    sparsity : share of zeros among the weights, in [0, 1)
    scope : "global": one ranking over the net; "uniform": the same share of every layer
    layer_sparsity : {name: share} for layers with a share of their own; they take no part in the ranking
    min_keep : what every layer keeps at least: below 1 a share of its weights, from 1 on a number of weights; by
        default 1 %, or half of ``1 - sparsity`` where that is less

    Notes
    -----
    What a mask has pruned already stays pruned and counts. Equal magnitudes go in the order in which they are stored,
    so the result depends on nothing but the values.

    >>> w = np.array([0.1, -3.0, 0.2, 4.0], np.float32)
    >>> magnitude_masks([Weights("ip", w)], 0.5)[0]
    array([False,  True, False,  True])

    Raises ParameterError for a share outside [0, 1), an unknown scope or layer, values that are not finite, and where
    ``min_keep`` leaves the sparsity out of reach.
    """
    own = dict(layer_sparsity or {})
    _check(weights, sparsity, scope, own, min_keep)
    keep = [_minimum(w, own.get(w.name, sparsity), min_keep) for w in weights]
    scores = [_scores(w, k) for w, k in zip(weights, keep, strict=True)]

    masks: list[np.ndarray | None] = [None] * len(weights)
    ranked = [i for i, w in enumerate(weights) if w.name not in own]
    alone = [i for i in range(len(weights)) if scope == "uniform" or weights[i].name in own]
    for i in alone:
        masks[i] = _keep_best([scores[i]], own.get(weights[i].name, sparsity), weights[i].name)[0]
    if scope == "global" and ranked:
        for i, mask in zip(ranked, _keep_best([scores[i] for i in ranked], sparsity, "the net"), strict=True):
            masks[i] = mask
    return [mask for mask in masks if mask is not None]


def _check(
    weights: Sequence[Weights], sparsity: float, scope: str, own: Mapping[str, float], min_keep: float | None
) -> None:
    if scope not in ("global", "uniform"):
        raise ParameterError(f'pruning: scope must be "global" or "uniform", got "{scope}"')
    names = [w.name for w in weights]
    for name, share in {"sparsity": sparsity, **own}.items():
        if not 0 <= share < 1:
            raise ParameterError(f"pruning: {name} must be a share in [0, 1), got {share:g}")
    for name in own:
        if name not in names:
            raise ParameterError(f'pruning: no prunable layer "{name}"; prunable are {", ".join(names) or "none"}')
    if min_keep is not None and min_keep < 0:
        raise ParameterError(f"pruning: min_keep must be a share or a number of weights, got {min_keep:g}")
    for w in weights:
        if not np.isfinite(w.values).all():
            raise ParameterError(f'pruning: the weights of "{w.name}" hold NaN or infinity: their order means nothing')


def _minimum(w: Weights, sparsity: float, min_keep: float | None) -> int:
    """How many weights this layer keeps at least."""
    if min_keep is None:
        min_keep = min(0.01, (1 - sparsity) / 2)
    return min(w.values.size, math.ceil(min_keep * w.values.size) if min_keep < 1 else int(min_keep))


def _scores(w: Weights, keep: int) -> np.ndarray:
    """|w|, but -1 where the mask is 0 already and infinity for the ``keep`` largest that are still there."""
    score = np.abs(w.values).astype(np.float32 if w.values.dtype == np.float32 else np.float64)
    if w.mask is not None:
        score[~np.asarray(w.mask, bool)] = -1
        keep = min(keep, int(np.count_nonzero(w.mask)))
    if keep:
        score[~_smallest(score.ravel(), score.size - keep).reshape(score.shape)] = np.inf
    return score


def _smallest(score: np.ndarray, count: int) -> np.ndarray:
    """A boolean array that marks the ``count`` smallest of ``score``, the first ones among equals."""
    if count <= 0:
        return np.zeros(score.shape, bool)
    if count >= score.size:
        return np.ones(score.shape, bool)
    threshold = np.partition(score, count - 1)[count - 1]
    below = score < threshold
    equal = np.flatnonzero(score == threshold)[: count - int(np.count_nonzero(below))]
    below[equal] = True
    return below


def _keep_best(scores: list[np.ndarray], sparsity: float, who: str) -> list[np.ndarray]:
    """Prune the lowest scores of all arrays together until at least ``sparsity`` of them is gone."""
    flat = np.concatenate([s.ravel() for s in scores]) if scores else np.zeros(0)
    count = math.ceil(round(sparsity * flat.size, 6))  # round: 0.9 * 430500 is 387450.00000000006
    count = max(count, int(np.count_nonzero(flat == -1)))
    free = int(np.count_nonzero(flat != np.inf))
    if count > free:
        raise ParameterError(
            f"pruning: {who} cannot reach a sparsity of {sparsity:g}: min_keep holds {flat.size - free} of "
            f"{flat.size} weights, so at most {free / flat.size:g}"
        )
    pruned = _smallest(flat, count)
    ends = np.cumsum([s.size for s in scores])[:-1]
    return [~part.reshape(s.shape) for part, s in zip(np.split(pruned, ends), scores, strict=True)]
