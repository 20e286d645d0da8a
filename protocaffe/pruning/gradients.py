"""Gradients of a training net for the scores that need them: forward and backward passes, and nothing else changes."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np

from protocaffe.errors import DivergedError, ParameterError
from protocaffe.pruning.net import users_of_weights

if TYPE_CHECKING:
    from protocaffe.net import Net


class GradientMoments:
    """Sums of gradients and of their squares, in float64, over batches or iterations.

    >>> moments = GradientMoments()
    >>> moments.add([np.array([1.0, -3.0])])
    >>> moments.add([np.array([3.0, 1.0])])
    >>> moments.mean, moments.mean_square
    ([array([ 2., -1.])], [array([5., 5.])])
    """

    def __init__(self) -> None:
        self.count = 0
        self._sums: list[np.ndarray] = []
        self._squares: list[np.ndarray] = []

    def add(self, gradients: Sequence[np.ndarray]) -> None:
        """Take one batch's gradients in, an array for each prunable parameter."""
        if not self.count:
            self._sums = [np.zeros(g.shape) for g in gradients]
            self._squares = [np.zeros(g.shape) for g in gradients]
        for total, square, g in zip(self._sums, self._squares, gradients, strict=True):
            total += g
            square += np.square(g, dtype=np.float64)
        self.count += 1

    @property
    def mean(self) -> list[np.ndarray]:
        """Mean gradients: what first-order scores need."""
        return [total / self.count for total in self._sums]

    @property
    def mean_square(self) -> list[np.ndarray]:
        """Means of squared gradients: what second-order scores need.

        Of batches of one image they are the diagonal of the empirical Fisher matrix; of batches of B, near a minimum,
        about one B-th of it, which ranks alike.
        """
        return [square / self.count for square in self._squares]


def net_gradients(net: Net) -> list[np.ndarray]:
    """The gradients of the prunable parameters, in the order of `prunable_weights`: 0 where a mask has pruned."""
    return [users[0].blob.diff for users in users_of_weights(net)]


@contextmanager
def undisturbed(net: Net) -> Iterator[None]:
    """``with`` block whose passes leave no trace in what is trained or saved: BatchNorm's statistics, the counters of
    random draws, the places in the data and the gradients are put back."""
    statistics = [(blob, blob.data.copy()) for blob in net.learnable_params if blob.statistic]
    places = [(layer, layer.position()) for layer in net._sources()]
    diffs = [(blob, blob.diff.copy()) for blob in net.arena.blobs]
    draws = int(net.forward_count.array[0])
    try:
        yield
    finally:
        for blob, values in statistics:
            blob.data = values
        for layer, place in places:
            layer.seek(place)
        for blob, values in diffs:
            blob.diff = values
        net.forward_count.array[0] = draws


def check_trainable(net: Net, what: str, exclude: Collection[str] = ()) -> None:
    """Raise ParameterError unless ``net`` has data, a loss, and gradients for prunable layers not in ``exclude``."""
    check_data(net, what)
    check_gradients(net, what, exclude)


def check_data(net: Net, what: str) -> None:
    """Raise ParameterError unless ``net`` has a loss, and data of its own."""
    if not any(net.blob_loss_weights.values()):
        raise ParameterError(f'{what} needs gradients, but "{net.source}" has no loss in the TRAIN phase')
    if net.inputs or not any(layer.is_source for layer in net.layers):
        inputs = f": its inputs {', '.join(net.inputs)} are for others to fill" if net.inputs else ""
        raise ParameterError(f'{what} needs data, but "{net.source}" reads none in the TRAIN phase{inputs}')


def check_gradients(net: Net, what: str, exclude: Collection[str] = ()) -> None:
    """Raise ParameterError for a prunable layer, not in ``exclude``, that gets no gradient (``lr_mult: 0``): it would
    score 0 throughout and be pruned first."""
    for users in users_of_weights(net):
        if users[0].name not in exclude and not any(user.gets_gradient for user in users):
            raise ParameterError(
                f'{what} needs gradients, but layer "{users[0].name}" gets none (lr_mult: 0, or no way to a loss): '
                "exclude it"
            )


def passes(net: Net, batches: int) -> Iterator[float]:
    """Forward and backward passes over ``batches`` batches; yields the loss of each while its gradients are there.

    Raises DivergedError for a loss that is NaN or infinite.
    """
    if batches < 1:
        raise ParameterError(f"batches must be at least 1, got {batches}")
    for _ in range(batches):
        net.clear_param_diffs()
        net.run_forward()
        loss = net.loss()
        if not math.isfinite(loss):
            raise DivergedError(f'"{net.source}": the loss is {loss}; first bad: {net.first_bad() or "nothing else"}')
        net.run_backward()
        yield loss


def gradient_moments(
    net: Net, batches: int, what: str = "the score", exclude: Collection[str] = ()
) -> tuple[GradientMoments, float]:
    """Moments of the gradients over ``batches`` batches of a training net's data, and their mean loss; see
    `check_trainable` for errors. The net stays as it was (`undisturbed`)."""
    check_trainable(net, what, exclude)
    moments, losses = GradientMoments(), 0.0
    with undisturbed(net):
        for loss in passes(net, batches):
            moments.add(net_gradients(net))
            losses += loss
    return moments, losses / batches
