"""Which weights go, given a score for each: those with the lowest scores of the net, of each layer, or as ERK has it.

What a score means is no matter here (scores.py): the higher, the longer a weight stays.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from protocaffe.errors import ParameterError, did_you_mean
from protocaffe.layout import WeightLayout

SCOPES = ("global", "uniform", "erk")


class Weights(NamedTuple):
    """One prunable parameter: a name for messages, its values, its mask so far (True = kept; None = all kept), and
    which values belong to which output (None: the first axis counts the outputs)."""

    name: str
    values: np.ndarray
    mask: np.ndarray | None = None
    layout: WeightLayout | None = None

    @property
    def lies(self) -> WeightLayout:
        """The layout, also where none was given."""
        return self.layout or WeightLayout(self.values.shape)

    @property
    def alive(self) -> np.ndarray:
        """The mask as booleans, also where there is none."""
        return np.ones(self.values.shape, bool) if self.mask is None else np.asarray(self.mask, bool)


def choose_masks(
    weights: Sequence[Weights],
    scores: Sequence[np.ndarray],
    sparsity: float,
    scope: str = "global",
    layer_sparsity: Mapping[str, float] | None = None,
    min_keep: float | None = None,
    exclude: Collection[str] = (),
) -> list[np.ndarray]:
    """Return a boolean mask (True = kept) for each of ``weights``, so that at least ``sparsity`` of them is pruned.

    Parameters
    ----------
    scores : for each of ``weights`` an array of its shape; the lowest go first
    sparsity : share of zeros among the weights, in [0, 1)
    scope : "global": one ranking over the net; "uniform": the same share of every layer; "erk": shares by the layers'
        extents, see `erk_densities`
    layer_sparsity : {name: share} for layers with a share of their own; they take no part in scope and ``sparsity``
    min_keep : what every layer keeps at least: below 1 a share of its weights, from 1 on a number of weights; by
        default 1 %, or half of what its share leaves where that is less, but one weight at least: of the default the
        sparsity may fall short by as much
    exclude : names of layers that are left as they are; they take no part either

    Notes
    -----
    What a mask has pruned already stays pruned and counts. Equal scores go in the order in which they are stored, so
    the result depends on nothing but the arguments.

    Raises ParameterError for a share outside [0, 1), an unknown scope or layer, scores or weights that are not finite,
    and where ``min_keep`` leaves the sparsity out of reach.
    """
    own = dict(layer_sparsity or {})
    check_names(weights, [*own, *exclude])
    check_shares(own, exclude, sparsity, scope, min_keep)
    check_scores(weights, scores)
    masks = [w.alive for w in weights]
    ranked = [i for i, w in enumerate(weights) if w.name not in own and w.name not in exclude]
    shares = {i: own[w.name] for i, w in enumerate(weights) if w.name in own}
    if scope == "uniform":
        shares |= dict.fromkeys(ranked, sparsity)
    elif scope == "erk":
        densities = erk_densities([weights[i].lies.shape for i in ranked], sparsity)
        shares |= {i: 1 - density for i, density in zip(ranked, densities, strict=True)}
    for i, share in shares.items():
        ready = _ready(weights[i], scores[i], share, min_keep)
        masks[i] = _keep_best([ready], share, f'layer "{weights[i].name}"', min_keep is not None)[0]
    if scope == "global" and ranked:
        ready_all = [_ready(weights[i], scores[i], sparsity, min_keep) for i in ranked]
        chosen = _keep_best(ready_all, sparsity, "the net", min_keep is not None)
        for i, mask in zip(ranked, chosen, strict=True):
            masks[i] = mask
    return masks


def erk_densities(shapes: Sequence[Sequence[int]], sparsity: float) -> list[float]:
    """The share of each layer's weights that stays, so that ``sparsity`` of all goes: Erdős-Rényi-Kernel.

    density = e (sum of the extents) / (product of the extents), with one e for all layers; a layer that would pass 1 is
    kept whole, and e grows for the others. Small layers stay denser than large ones (Evci et al. 2020, arXiv
    1911.11134).

    >>> [round(density, 4) for density in erk_densities([(2, 1, 2, 2), (10, 20), (100, 10)], 0.8)]
    [1.0, 0.2503, 0.1835]
    """
    sizes = [math.prod(shape) for shape in shapes]
    raw = [sum(shape) / size if size else math.inf for shape, size in zip(shapes, sizes, strict=True)]
    whole: set[int] = {i for i, size in enumerate(sizes) if not size}
    while len(whole) < len(sizes):
        rest = [i for i in range(len(sizes)) if i not in whole]
        scale = ((1 - sparsity) * sum(sizes) - sum(sizes[i] for i in whole)) / sum(raw[i] * sizes[i] for i in rest)
        over = {i for i in rest if scale * raw[i] > 1}
        if not over:
            return [1.0 if i in whole else scale * raw[i] for i in range(len(sizes))]
        whole |= over
    return [1.0] * len(sizes)


def check_names(weights: Sequence[Weights], names: Collection[str]) -> None:
    """Raise ParameterError if one of ``names`` is none of the weights'."""
    known = [w.name for w in weights]
    for name in names:
        if name not in known:
            hint = did_you_mean(name, known) or f"; prunable are {', '.join(known) or 'none'}"
            raise ParameterError(f'pruning: no prunable layer "{name}"{hint}')


def check_scores(weights: Sequence[Weights], scores: Sequence[np.ndarray]) -> None:
    """Raise ParameterError for values or scores that are not finite, or scores of another shape."""
    for w, score in zip(weights, scores, strict=True):
        if np.shape(score) != w.values.shape:
            raise ParameterError(
                f'pruning: the scores of "{w.name}" must have its shape {w.values.shape}, got {np.shape(score)}'
            )
        for what, array in (("weights", w.values), ("scores", score)):
            if not np.isfinite(array).all():
                raise ParameterError(
                    f'pruning: the {what} of "{w.name}" hold NaN or infinity: their order means nothing'
                )


def check_shares(
    own: Mapping[str, float], exclude: Collection[str], sparsity: float, scope: str, min_keep: float | None
) -> None:
    """Raise ParameterError for a share outside [0, 1), an unknown scope, or a layer with a share that is excluded."""
    if scope not in SCOPES:
        raise ParameterError(f'pruning: scope must be "global", "uniform" or "erk", got "{scope}"')
    for name, share in {"sparsity": sparsity, **own}.items():
        if not 0 <= share < 1:
            raise ParameterError(f"pruning: {name} must be a share in [0, 1), got {share:g}")
    for name in own:
        if name in exclude:
            raise ParameterError(f'pruning: layer "{name}" is excluded and has a share of its own: give one of them')
    if min_keep is not None and not 0 <= min_keep < math.inf:
        raise ParameterError(f"pruning: min_keep must be a share or a number of weights, got {min_keep:g}")


def _minimum(w: Weights, sparsity: float, min_keep: float | None) -> int:
    """How many weights this layer keeps at least."""
    if min_keep is None:
        min_keep = min(0.01, (1 - sparsity) / 2)
    return min(w.values.size, math.ceil(min_keep * w.values.size) if min_keep < 1 else int(min_keep))


def _ready(w: Weights, score: np.ndarray, sparsity: float, min_keep: float | None) -> np.ndarray:
    """The scores, but minus infinity where the mask is 0 already and infinity for those that are kept in any case."""
    keep = _minimum(w, sparsity, min_keep)
    ready = np.array(score, np.float32 if score.dtype == np.float32 else np.float64)
    if w.mask is not None:
        ready[~w.alive] = -np.inf
        keep = min(keep, int(np.count_nonzero(w.mask)))
    if keep:
        ready[~smallest(ready.ravel(), ready.size - keep).reshape(ready.shape)] = np.inf
    return ready


def smallest(score: np.ndarray, count: int) -> np.ndarray:
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


def _keep_best(scores: list[np.ndarray], sparsity: float, who: str, strict: bool) -> list[np.ndarray]:
    """Prune the lowest scores of all arrays together until at least ``sparsity`` of them is gone.

    Where those kept in any case are too many: an error if ``strict``, as near as can be if not.
    """
    flat = np.concatenate([s.ravel() for s in scores]) if scores else np.zeros(0)
    count = math.ceil(round(sparsity * flat.size, 6))  # round: 0.9 * 430500 is 387450.00000000006
    count = max(count, int(np.count_nonzero(flat == -np.inf)))
    free = int(np.count_nonzero(flat != np.inf))
    if count > free and strict:
        raise ParameterError(
            f"pruning: {who} cannot reach a sparsity of {sparsity:g}: min_keep holds {flat.size - free} of "
            f"{flat.size}, so at most {free / flat.size:g}"
        )
    pruned = smallest(flat, min(count, free))
    ends = np.cumsum([s.size for s in scores])[:-1]
    return [~part.reshape(s.shape) for part, s in zip(np.split(pruned, ends), scores, strict=True)]
