"""Parameters that no longer matter: those of channels that nothing reads, or that hold one constant."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from protocaffe.errors import NetError
from protocaffe.pruning.net import all_parameters

if TYPE_CHECKING:
    from protocaffe.net import Net


def clear_dead(net: Net) -> int:
    """Mask what a pruned net's outputs do not depend on; returns how many parameters that were not zero became zero.

    A channel is dead where every layer that reads it gives it zero weights, or where all its own weights are zero, so
    that it holds a constant: what its readers make of that goes into their biases. Its weights, its bias and its
    elements of a Scale or PReLU become +0 and are masked; so do the weights that read it. The net computes the same up
    to rounding, and `shrink` would take just these channels out; here shapes stay. The running statistics of a
    BatchNorm are left as they are.

    Raises NetError where a constant would have to go into a layer without a bias, or into one of several layers of
    one name, and WeightsError as `plan_shrink` does.
    """
    from protocaffe.pruning.shrink import apply, plan_shrink

    before = sum(int(np.count_nonzero(values)) for values in all_parameters(net))
    param = type(net.param)()
    param.CopyFrom(net.param)
    for layer in param.layer:  # those of the net's phase, which are looked at as they test
        layer.ClearField("include")
        layer.ClearField("exclude")
    plan = plan_shrink(param, net.layer_weights(), backend=net.backend)
    _, small = apply(plan)
    for weights in small:
        blobs = net.params[weights.name]
        if len(blobs) != len(weights.blobs):
            raise NetError(f'layer "{weights.name}" has no bias to take what constant channels leave; shrink adds one')
        cuts = [cut for cut in plan.cuts if cut.layer == weights.name]
        running = next(layer.type for layer in net.layers if layer.name == weights.name) == "BatchNorm"
        for i, (blob, values, mask) in enumerate(zip(blobs, weights.blobs, weights.masks, strict=True)):
            places = np.arange(blob.data.size).reshape(blob.shape)
            for cut in cuts:
                if cut.blob == i:
                    places = cut.of(places)
            if running or (places.size == blob.data.size and np.array_equal(values, blob.data)):
                continue
            data, keep = np.zeros(blob.data.size, blob.data.dtype), np.zeros(blob.data.size, bool)
            data[places.ravel()] = values.ravel()
            keep[places.ravel()] = True if mask is None else mask.ravel()
            if not keep.all():
                blob.mask = keep.reshape(blob.shape)
            blob.data = data.reshape(blob.shape)
    return before - sum(int(np.count_nonzero(values)) for values in all_parameters(net))
