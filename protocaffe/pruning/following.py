"""What comes behind a layer: the BatchNorm and Scale of its channels, and whether its outputs are the net's."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from protocaffe.blob import Blob
from protocaffe.errors import ParameterError
from protocaffe.pruning.net import User, users_of_weights

if TYPE_CHECKING:
    from protocaffe.net import Net


class Place(NamedTuple):
    """Where the channels of a layer are to be seen: ``top`` of layer number ``layer``, along ``axis``."""

    layer: int
    top: str
    axis: int


def reader(net: Net, index: int, top: str) -> int | None:
    """The number of the layer that reads ``top`` of layer ``index``, None if none does. There is one at most: Split
    layers stand where there are more."""
    return next((i for i in range(index + 1, len(net._wires)) if top in net._wires[i].bottoms), None)


def channel_axis(layer: Any) -> int:
    """The axis of a layer's tops that counts its outputs."""
    return int(getattr(layer, "channel_axis", getattr(layer, "first_axis", 1)))


def scale_behind(net: Net, user: User) -> int | None:
    """The number of the Scale with a factor for each of the user's outputs, directly behind it or behind its BatchNorm;
    None if there is none."""
    return _chain(net, user)[1]


def measured_at(net: Net, user: User) -> list[Place]:
    """The tops that show what pruning an output would take away: behind BatchNorm and Scale where they follow, since
    a BatchNorm of the batch undoes any change of a channel's size before it."""
    index, _ = _chain(net, user)
    axis = channel_axis(user.wire.layer)
    return [Place(index, top, axis) for top in net._wires[index].tops]


def _chain(net: Net, user: User) -> tuple[int, int | None]:
    """The last layer of: the user, its BatchNorm, its Scale; and the Scale."""
    end, axis = user.index, channel_axis(user.wire.layer)
    if len(user.wire.tops) != 1:
        return end, None
    after = reader(net, end, user.wire.tops[0])
    if after is not None and net._wires[after].layer.type == "BatchNorm" and axis == 1:
        end = after
        after = reader(net, end, net._wires[end].tops[0])
    if after is None or not _is_scale(net._wires[after].layer, axis, user.blob):
        return end, None
    return after, after


def _is_scale(layer: Any, axis: int, weight: Blob) -> bool:
    own = layer.type == "Scale" and len(layer.param.bottom) == 1
    if not own or weight.layout is None:
        return False
    at = layer.param.scale_param.axis
    return at == axis and layer.blobs[0].shape == (weight.layout.outputs,)


def is_output(net: Net, user: User) -> bool:
    """Whether something of the layer's reaches an output of the net (or a loss) past no other prunable weights: its
    outputs are classes or values that somebody wants, not channels to do without."""
    todo = [(user.index, top) for top in user.wire.tops]
    seen = set()
    while todo:
        index, top = todo.pop()
        after = reader(net, index, top)
        if after is None:
            return True
        wire = net._wires[after]
        if after in seen or any(blob.prunable for blob in wire.layer.blobs):
            continue
        seen.add(after)
        if not wire.tops and wire.layer.type != "Silence":
            return True
        todo += [(after, t) for t in wire.tops]
    return False


def output_layers(net: Net) -> list[str]:
    """Names of the prunable weights whose outputs are the net's, see `is_output`."""
    return [users[0].name for users in users_of_weights(net) if any(is_output(net, user) for user in users)]


def companions(net: Net, users: list[User], with_scale: bool = True) -> list[Blob]:
    """The other parameters that hold one value for each output of these layers: biases, and both of a Scale behind.

    Raises ParameterError where one of them also belongs to another layer, whose outputs stay.
    """
    found: list[Blob] = []
    layers = [user.wire.layer for user in users]
    for user in users:
        scale = scale_behind(net, user) if with_scale else None
        if scale is not None:
            layers.append(net._wires[scale].layer)
    outputs = users[0].blob.layout.outputs if users[0].blob.layout else -1
    for layer in layers:
        for blob in layer.blobs:
            if blob.prunable or blob.statistic or blob.shape != (outputs,) or _in(blob, found):
                continue
            for other in net.layers:
                if other not in layers and _in(blob, other.blobs):
                    raise ParameterError(
                        f'pruning: parameter "{blob.name}" of {layer.describe()} also belongs to {other.describe()}, '
                        "whose outputs stay: biases cannot be pruned here"
                    )
            found.append(blob)
    return found


def _in(blob: Blob, blobs: list[Blob]) -> bool:
    return any(blob.values.data is other.values.data for other in blobs)
