"""The methods by name, on a net: scores for its prunable weights or outputs, masks, and a report."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np

from protocaffe.errors import ParameterError
from protocaffe.pruning.arguments import PruningArguments
from protocaffe.pruning.choice import check_names
from protocaffe.pruning.effect import effect_channels
from protocaffe.pruning.families import choose_together, families, staying_whole
from protocaffe.pruning.following import companions, scale_behind
from protocaffe.pruning.gradients import gradient_moments
from protocaffe.pruning.net import prunable_weights, set_masks, sparsity_of_net, users_of_weights
from protocaffe.pruning.outputs import alive_channels, channel_masks, choose_channels, l1_channels
from protocaffe.pruning.report import SparsityReport
from protocaffe.pruning.scores import first_order_scores, magnitude_scores, random_scores, second_order_scores
from protocaffe.pruning.taylor import taylor_channels

if TYPE_CHECKING:
    from protocaffe.net import Net
    from protocaffe.pruning.batches import Batches

METHODS = (
    "magnitude", "random", "first-order", "second-order", "l1-channels", "scale-channels", "taylor-channels",
    "effect-channels",
)  # fmt: skip
CHANNEL_METHODS = METHODS[4:]
GRADIENT_METHODS = ("first-order", "second-order", "taylor-channels")


@dataclass(frozen=True)
class Pruned:
    """What pruning a net has done: what is left, the mean loss where batches were run, the layers whose outputs were
    held because they are the net's, and for channel methods {name: (outputs left, outputs)}."""

    report: SparsityReport
    loss: float | None = None
    held: tuple[str, ...] = ()
    channels: dict[str, tuple[int, int]] = field(default_factory=dict)


def prune_by(
    net: Net,
    arguments: PruningArguments,
    training: Net | None = None,
    batches: int = 10,
    seed: int = 0,
    with_bias: bool = False,
    together: bool = False,
    images: Batches | None = None,
) -> Pruned:
    """Prune ``net`` by any of `METHODS`.

    Parameters
    ----------
    training : for `GRADIENT_METHODS`: a net of the TRAIN phase with the same weights, whose data and loss are used
        (``net`` itself will do); it is found again by the layers' names, and stays as it was
    batches : how many of its batches
    seed : of the random method, and of effect-channels' signs
    with_bias : of channel methods: prune a channel's bias too, and both parameters of a Scale behind it, so that all
        it gives on is exactly 0
    together : of channel methods: outputs that shrink can take out only together (families.py) are chosen together
    images : for effect-channels

    Channel methods leave the layers alone whose outputs are the net's own, unless they have a share of their own;
    ``together`` also what goes together with these (`staying_whole`).
    """
    weights, method = prunable_weights(net), arguments.method
    check_names(weights, [*arguments.layer_sparsity, *arguments.exclude])
    if method not in METHODS:
        raise ParameterError(f'pruning: method must be one of {", ".join(METHODS)}, got "{method}"')
    held: tuple[str, ...] = ()
    if method in CHANNEL_METHODS:
        if arguments.m:
            raise ParameterError(f"pruning: n:m is for single weights, {method} prunes whole outputs")
        found = families(net) if together else []
        held = staying_whole(net, arguments, found)
        arguments = replace(arguments, exclude=(*arguments.exclude, *held))
    elif with_bias or together:
        what = "biases go with" if with_bias else "what goes together are"
        raise ParameterError(f"pruning: {what} whole outputs, {method} prunes single weights")
    if all(w.name in arguments.exclude for w in weights):
        raise ParameterError("pruning: nothing can be pruned: every prunable layer is excluded")
    scores, loss = net_scores(net, method, training, batches, seed, arguments.exclude, images)
    if method not in CHANNEL_METHODS:
        set_masks(net, arguments.masks(weights, scores), everywhere=False)
        return Pruned(sparsity_of_net(net), loss)
    a = arguments
    shares = (a.sparsity or 0.0, a.scope, a.layer_sparsity, a.min_keep, a.exclude)
    kept = choose_together(found, weights, scores, *shares) if together else choose_channels(weights, scores, *shares)
    prune_channels(net, kept, with_bias, a.exclude)
    left = {
        w.name: (int(alive_channels(w).sum()), w.lies.outputs) for w in prunable_weights(net) if w.name not in a.exclude
    }
    return Pruned(sparsity_of_net(net), loss, held, left)


def net_scores(
    net: Net,
    method: str,
    training: Net | None = None,
    batches: int = 10,
    seed: int = 0,
    exclude: Collection[str] = (),
    images: Batches | None = None,
) -> tuple[list[np.ndarray], float | None]:
    """Scores for each of `prunable_weights` (of channel methods a value for each output), and the mean loss of the
    batches that they took. Layers in ``exclude`` may have no scores that mean anything."""
    weights = prunable_weights(net)
    if method == "magnitude":
        return list(magnitude_scores(weights)), None
    if method == "random":
        return random_scores(weights, seed), None
    if method == "l1-channels":
        return l1_channels(weights), None
    if method == "scale-channels":
        return scale_channels(net, exclude), None
    if method == "effect-channels":
        if images is None:
            raise ParameterError("pruning: effect-channels needs images")
        return effect_channels(net, images, seed, exclude), None
    if training is None:
        raise ParameterError(f"pruning: {method} needs a net of the TRAIN phase, with data and a loss")
    if method == "taylor-channels":
        found, loss = taylor_channels(training, batches, method, exclude)
        shapes: list[tuple[int, ...]] = [(w.lies.outputs,) for w in weights]
        return _matched(net, training, found, shapes, method, exclude), loss
    moments, loss = gradient_moments(training, batches, method, exclude)
    first = method == "first-order"
    found = moments.mean if first else moments.mean_square
    gradients = _matched(net, training, found, [w.values.shape for w in weights], method, exclude)
    return (first_order_scores if first else second_order_scores)(weights, gradients), loss


def _matched(
    net: Net,
    training: Net,
    found: Sequence[np.ndarray],
    shapes: Sequence[tuple[int, ...]],
    method: str,
    exclude: Collection[str],
) -> list[np.ndarray]:
    """What was found in the training net, for the layers of the same names in ``net``."""
    theirs = dict(zip([w.name for w in prunable_weights(training)], found, strict=True))
    out = []
    for w, shape in zip(prunable_weights(net), shapes, strict=True):
        array = theirs.get(w.name)
        if array is None or array.size != np.prod(shape):
            if w.name not in exclude:
                raise ParameterError(
                    f'{method} needs gradients, but the TRAIN phase of "{training.source}" has no layer "{w.name}" '
                    "with weights of this shape: exclude it"
                )
            array = np.zeros(shape)
        out.append(array.reshape(shape))
    return out


def scale_channels(net: Net, exclude: Collection[str] = ()) -> list[np.ndarray]:
    """For each of `prunable_weights` ``|gamma|`` of the Scale behind it; the mean where layers share a weight."""
    out = []
    for users in users_of_weights(net):
        outputs = users[0].blob.layout.outputs if users[0].blob.layout else 0
        score = np.zeros(outputs)
        for user in users:
            index = scale_behind(net, user)
            if index is not None:
                score += np.abs(net.layers[index].blobs[0].data.astype(np.float64)) / len(users)
            elif user.name not in exclude:
                raise ParameterError(
                    f"pruning: scale-channels: {user.wire.layer.describe()} has no Scale with a factor for each output "
                    "right behind it or its BatchNorm: exclude it, or choose l1-channels"
                )
        out.append(score)
    return out


def prune_channels(
    net: Net, kept: Sequence[np.ndarray], with_bias: bool = False, exclude: Collection[str] = ()
) -> None:
    """Mask the outputs that do not stay: ``kept`` holds a boolean array for each of `prunable_weights`."""
    weights, all_users = prunable_weights(net), users_of_weights(net)
    others = [
        companions(net, users) if with_bias and users[0].name not in exclude else [] for users in all_users
    ]  # before any mask is set: they may be impossible
    set_masks(net, channel_masks(weights, kept), everywhere=False)
    for blobs, stays in zip(others, kept, strict=True):
        for blob in blobs:
            if not stays.all():
                blob.mask = stays if blob.mask is None else stays & blob.mask


def channel_lines(channels: Mapping[str, tuple[int, int]]) -> list[str]:
    """A line for each layer.

    >>> channel_lines({"conv1": (5, 20)})
    ['conv1: 5 of 20 outputs are left']
    """
    return [f"{name}: {left} of {count} outputs are left" for name, (left, count) in channels.items()]
