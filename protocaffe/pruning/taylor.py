"""Taylor scores of channels (Molchanov et al. 2017, arXiv 1611.06440): what the loss would change, to first order,
if a channel's activations became 0."""

from __future__ import annotations

from collections.abc import Callable, Collection
from math import prod
from typing import TYPE_CHECKING

import numpy as np

from protocaffe.errors import ParameterError
from protocaffe.hooks import Handle
from protocaffe.pruning.following import Place, measured_at
from protocaffe.pruning.gradients import check_data, check_gradients, passes, undisturbed
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
    matter. Where layers share a weight, their scores add up. Raises ParameterError as `check_data` and
    `check_gradients` do.
    """
    check_data(net, what)
    check_gradients(net, what, exclude)
    total = 0.0
    with ChannelWatch(net, taylor_of, what, exclude) as seen, undisturbed(net):
        for loss in passes(net, batches):
            total += loss
    return [normalised(score / batches) for score in seen], total / batches


class ChannelWatch:
    """Adds ``of(activations, gradients, axis)`` of a net's passes, while it is attached (``with`` attaches it), to
    ``seen``: for each of `prunable_weights` a value for each output. Raises ParameterError where a top shows no
    channels."""

    def __init__(
        self,
        net: Net,
        of: Callable[[np.ndarray, np.ndarray, int], np.ndarray],
        what: str,
        exclude: Collection[str] = (),
    ) -> None:
        self.net, self.of = net, of
        self.seen: list[np.ndarray] = []
        self._places: list[tuple[Place, np.ndarray]] = []
        self._handles: list[Handle] = []
        for users in users_of_weights(net):
            score = np.zeros(users[0].blob.layout.outputs if users[0].blob.layout else 0)
            self.seen.append(score)
            if users[0].name in exclude:
                continue
            for place in (place for user in users for place in measured_at(net, user)):
                if net.blobs[place.top].shape[place.axis] != score.size:
                    name = users[0].name
                    raise ParameterError(f'{what}: blob "{place.top}" shows no channels of "{name}": exclude it')
                self._places.append((place, score))

    @property
    def attached(self) -> bool:
        """Whether passes are watched."""
        return bool(self._handles)

    def attach(self) -> None:
        """Watch passes from here on."""
        if not self._handles:
            for place, score in self._places:
                self._watch(place, score)

    def detach(self) -> None:
        """Watch no more."""
        for handle in self._handles:
            handle.remove()
        self._handles = []

    def __enter__(self) -> list[np.ndarray]:
        self.attach()
        return self.seen

    def __exit__(self, *error: object) -> None:
        self.detach()

    def _watch(self, place: Place, score: np.ndarray) -> None:
        """Take values right behind the layer, before one in place writes over them, and their gradients right before
        its backward pass, when all that follow have been there."""
        held: list[np.ndarray] = []
        blob, name = self.net.blobs[place.top], self.net.layers[place.layer].name

        def take(_: str) -> None:
            held[:] = [blob.data.copy()]

        def add(_: str) -> None:
            score[...] += self.of(held[0], blob.diff, place.axis)

        self._handles += [self.net.after_forward(take, name), self.net.before_backward(add, name)]
