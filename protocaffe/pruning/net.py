"""The pruning functions on a Net: its prunable parameters in, masks out."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from protocaffe.pruning.magnitude import Weights, magnitude_masks
from protocaffe.pruning.report import SparsityReport, sparsity_report

if TYPE_CHECKING:
    from protocaffe.blob import Blob
    from protocaffe.net import Net
    from protocaffe.wiring import Wire


def own_parameters(net: Net) -> Iterator[tuple[str, list[Blob]]]:
    """Yield (layer, parameters); a shared parameter comes once, with the first layer that has it."""
    seen: set[int] = set()
    for layer, blobs in net.params.items():
        own = [blob for blob in blobs if id(blob.values.data) not in seen]
        seen |= {id(blob.values.data) for blob in own}
        yield layer, own


def named_weights(layer: str, blobs: Sequence[Blob]) -> list[Weights]:
    """The prunable ones of a layer's parameters, called after the layer; a second one is called "layer[1]"."""
    prunable = [blob for blob in blobs if blob.prunable]
    return [
        Weights(layer + (f"[{i}]" if i else ""), blob.data, blob.mask, blob.layout) for i, blob in enumerate(prunable)
    ]


@dataclass(frozen=True)
class User:
    """A layer (number ``index`` of its net) whose parameter ``blob`` is the prunable one called ``name``."""

    name: str
    index: int
    wire: Wire
    blob: Blob

    @property
    def gets_gradient(self) -> bool:
        """Whether a backward pass of the layer computes the parameter's gradient."""
        layer = self.wire.layer
        return self.wire.need_backward and layer.param_propagate_down[layer.blobs.index(self.blob)]


def users_of_weights(net: Net) -> list[list[User]]:
    """The layers that use each parameter of `prunable_weights`: one, or several where it is shared."""
    named = [(w.name, b) for x, own in own_parameters(net)
             for w, b in zip(named_weights(x, own), [b for b in own if b.prunable], strict=True)]  # fmt: skip
    users: dict[int, list[User]] = {id(blob.values.data): [] for _, blob in named}
    names = {id(blob.values.data): name for name, blob in named}
    for index, wire in enumerate(net._wires):
        for blob in wire.layer.blobs:
            key = id(blob.values.data)
            if key in users:
                users[key].append(User(names[key], index, wire, blob))
    return list(users.values())


def prunable_weights(net: Net) -> list[Weights]:
    """Name, values and mask of every parameter that its layer declares prunable."""
    return [weights for layer, blobs in own_parameters(net) for weights in named_weights(layer, blobs)]


def all_parameters(net: Net) -> list[np.ndarray]:
    """The values of every parameter, shared ones once."""
    return [blob.data for _, blobs in own_parameters(net) for blob in blobs]


def set_masks(net: Net, masks: Sequence[np.ndarray], everywhere: bool = True) -> None:
    """Give the prunable parameters these masks, in the order of `prunable_weights`; pruned weights become +0.

    Unless ``everywhere``, one that has no mask gets none where nothing is pruned.
    """
    prunable = [blob for _, blobs in own_parameters(net) for blob in blobs if blob.prunable]
    for blob, mask in zip(prunable, masks, strict=True):
        if everywhere or blob.mask is not None or not np.all(mask):
            blob.mask = mask


def prune_net(
    net: Net,
    sparsity: float,
    scope: str = "global",
    layer_sparsity: Mapping[str, float] | None = None,
    min_keep: float | None = None,
    exclude: Collection[str] = (),
) -> SparsityReport:
    """Prune a net by magnitude (see `magnitude_masks`) and return what is left."""
    masks = magnitude_masks(prunable_weights(net), sparsity, scope, layer_sparsity, min_keep, exclude)
    set_masks(net, masks, everywhere=False)
    return sparsity_of_net(net)


def sparsity_of_net(net: Net) -> SparsityReport:
    """Zeros over the net's prunable weights, non-zeros over all its parameters."""
    return sparsity_report(prunable_weights(net), all_parameters(net))
