"""Taylor scores of channels (Molchanov et al. 2017, arXiv 1611.06440): what the loss would change, to first order,
if a channel's activations became 0."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from math import prod
from typing import TYPE_CHECKING

import numpy as np

from protocaffe.errors import ParameterError
from protocaffe.hooks import Handle
from protocaffe.pruning.following import Place, measured_at
from protocaffe.pruning.gradients import check_trainable, passes, undisturbed
from protocaffe.pruning.net import users_of_weights

if TYPE_CHECKING:
    from protocaffe.net import Net


def taylor_of(activations: np.ndarray, gradients: np.ndarray, axis: int) -> np.ndarray:
    """For each channel (``axis``) the mean over images of ``|sum over pixels of a g|``, in float64.

    >>> a, g = np.array([[[1.0, 2.0]], [[3.0, 0.0]]]), np.array([[[1.0, -1.0]], [[2.0, 5.0]]])
    >>> taylor_of(a, g, 1)
    array([3.5])
    """
    sums = changes(activations, gradients, axis)
    return np.abs(sums).sum(axis=0) / max(1, len(sums))


def changes(activations: np.ndarray, gradients: np.ndarray, axis: int) -> np.ndarray:
    """For each image and channel (``axis``) the sum over pixels of a g, in float64."""
    shape = activations.shape
    both = activations.astype(np.float64) * gradients
    return np.asarray(both.reshape(prod(shape[:axis]), shape[axis], prod(shape[axis + 1 :])).sum(axis=2))


def normalised(score: np.ndarray) -> np.ndarray:
    """Over its L2 norm, so that layers of different depth compare."""
    norm = float(np.sqrt(np.square(score).sum()))
    return score / norm if norm > 0 else score


def taylor_channels(
    net: Net, batches: int, what: str = "taylor-channels", exclude: Collection[str] = ()
) -> tuple[list[np.ndarray], float]:
    """Scores of the outputs of each of `prunable_weights`, and the mean loss, over ``batches`` batches of a training
    net's data, which stays as it was.

    Activations are those behind the layer's BatchNorm and Scale where they follow; a Scale or ReLU in place is no
    matter. Where layers share a weight, their scores add up. Raises ParameterError as `check_trainable` does.
    """
    check_trainable(net, what, exclude)
    total = 0.0
    with watching(net, taylor_of, what, exclude) as scores, undisturbed(net):
        for loss in passes(net, batches):
            total += loss
    return [normalised(score / batches) for score in scores], total / batches


@contextmanager
def watching(
    net: Net, of: Callable[[np.ndarray, np.ndarray, int], np.ndarray], what: str, exclude: Collection[str] = ()
) -> Iterator[list[np.ndarray]]:
    """``with`` block whose forward and backward passes add ``of(activations, gradients, axis)`` to the scores of the
    outputs of each of `prunable_weights`. Raises ParameterError where a top shows no channels."""
    all_users = users_of_weights(net)
    scores = [np.zeros(users[0].blob.layout.outputs if users[0].blob.layout else 0) for users in all_users]
    handles: list[Handle] = []
    for users, score in zip(all_users, scores, strict=True):
        if users[0].name in exclude:
            continue
        for place in (place for user in users for place in measured_at(net, user)):
            if net.blobs[place.top].shape[place.axis] != score.size:
                raise ParameterError(f'{what}: blob "{place.top}" shows no channels of "{users[0].name}": exclude it')
            handles += _watch(net, place, score, of)
    try:
        yield scores
    finally:
        for handle in handles:
            handle.remove()


def _watch(
    net: Net, place: Place, score: np.ndarray, of: Callable[[np.ndarray, np.ndarray, int], np.ndarray]
) -> list[Handle]:
    """Add to ``score`` at each pass: values right behind the layer, before one in place writes over them, and their
    gradients right before its backward pass, when all that follow have been there."""
    held: list[np.ndarray] = []
    blob, name = net.blobs[place.top], net.layers[place.layer].name

    def take(_: str) -> None:
        held[:] = [blob.data.copy()]

    def add(_: str) -> None:
        score[...] += of(held[0], blob.diff, place.axis)

    return [net.after_forward(take, name), net.before_backward(add, name)]
