"""What a channel does to a net's outputs, from images without labels.

If a channel's activations a became 0, output o of the net would change by ``-sum over pixels of a dz_o/da`` to first
order. The score is the mean over images of the squares of these changes, summed over outputs: to second order what the
distillation loss ``||z - z0||^2`` would be without the channel (at the original its first-order term, by which Taylor
scores with labels go, is 0). All channels of a net compare, so nothing is normalised by layer.

One backward pass of ``sum over o of r_o z_o`` with random signs r_o gives the sum over outputs in the mean
(Hutchinson 1990, "A stochastic estimator of the trace of the influence matrix"), whatever their number.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

import numpy as np

from protocaffe.pruning.batches import Batches
from protocaffe.pruning.distill import without_softmax
from protocaffe.pruning.taylor import ChannelWatch, changes

if TYPE_CHECKING:
    from protocaffe.net import Net


def effect_of(activations: np.ndarray, gradients: np.ndarray, axis: int) -> np.ndarray:
    """For each channel (``axis``) the mean over images of ``(sum over pixels of a g)^2``, in float64.

    >>> a, g = np.array([[[1.0, 2.0]], [[3.0, 0.0]]]), np.array([[[1.0, -1.0]], [[2.0, 5.0]]])
    >>> effect_of(a, g, 1)
    array([18.5])
    """
    sums = changes(activations, gradients, axis)
    return np.asarray(np.square(sums).sum(axis=0) / max(1, len(sums)))


def effect_channels(net: Net, images: Batches, seed: int = 0, exclude: Collection[str] = ()) -> list[np.ndarray]:
    """Scores of the outputs of each of `prunable_weights`: the mean squared change of the net's outputs (before a
    closing Softmax) relative to their mean square; each of several outputs counts alike. ``seed``: of the signs.

    Activations are those behind the layer's BatchNorm and Scale where they follow, and the net is one of the TEST phase
    or at least runs as such: ``net`` stays as it is. Where layers share a weight, their scores add up.
    """
    bare, _ = without_softmax(net)
    rng, count = np.random.default_rng(seed), 0
    size = {name: float(np.square(z, dtype=np.float64).sum()) / len(z) for name, z in images.outputs(bare).items()}
    with ChannelWatch(bare, effect_of, "effect-channels", exclude) as scores:
        for batch in images:
            images.give(bare, batch)
            bare.run_forward()
            signs = {name: rng.choice((-1.0, 1.0), bare.blobs[name].shape) for name in size}
            bare.clear_param_diffs()
            bare.backward(**{name: sign / max(size[name], 1e-12) ** 0.5 for name, sign in signs.items()})
            count += 1
    return [score / count for score in scores]
