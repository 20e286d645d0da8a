"""Parameters that no longer matter: those of channels that nothing reads, or that hold one constant."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from protocaffe.net import Net


def clear_dead(net: Net) -> int:
    """Mask what a pruned net's outputs do not depend on; returns how many parameters that were not zero became zero.

    A channel is dead where every layer that reads it gives it zero weights, or where all its own weights are zero, so
    that it holds a constant: what its readers make of that goes into their biases. Its weights, its bias and its
    elements of a Scale or PReLU become +0 and are masked; so do the weights that read it. The net computes the same up
    to rounding, and `shrink` would take such channels out; here shapes stay. A channel whose constant has nowhere to
    go is left as it is: a reader without a bias, with a masked one, or with padding. No masked parameter is revived.
    The running statistics of a BatchNorm stay.

    Raises NetError and WeightsError as `plan_shrink` does, before anything is changed.
    """
    from protocaffe.pruning.shrink import apply, plan_shrink

    param = type(net.param)()
    param.CopyFrom(net.param)
    for layer in param.layer:  # those of the net's phase, which are looked at as they test
        layer.ClearField("include")
        layer.ClearField("exclude")
    plan = plan_shrink(param, net.layer_weights(), backend=net.backend, in_place=True)
    _, small = apply(plan)
    statistics = {layer.name for layer in net.layers if layer.type == "BatchNorm"}
    cleared = 0
    for weights in small:
        if weights.name in statistics:
            continue
        cuts = [cut for cut in plan.cuts if cut.layer == weights.name]
        for i, (blob, values) in enumerate(zip(net.params[weights.name], weights.blobs, strict=True)):
            before = np.array(blob.data)
            places = np.arange(before.size).reshape(before.shape)
            for cut in cuts:
                if cut.blob == i:
                    places = cut.of(places)
            keep = np.zeros(before.size, bool)
            keep[places.ravel()] = True
            after = np.zeros_like(before)
            after.ravel()[places.ravel()] = values.ravel()
            if not np.array_equal(before, after):
                blob.data = after
            if not keep.all():
                mask = keep.reshape(before.shape)
                blob.mask = mask if blob.mask is None else blob.mask & mask
            cleared += int(np.count_nonzero((before != 0) & (after == 0)))
    return cleared
