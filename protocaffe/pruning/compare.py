"""Whether two nets compute the same: what `shrink` checks before it writes anything."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from protocaffe.errors import NetError
from protocaffe.io.caffemodel import LayerWeights

if TYPE_CHECKING:
    from protocaffe.backends import Backend
    from protocaffe.net import Net

#: the largest relative difference between the outputs of a net and of the shrunk one
TOLERANCE = 1e-5


def build(net_param: Any, weights: Iterable[LayerWeights], backend: Backend | None = None, **kwargs: Any) -> Net:
    """A net of the TEST phase (or ``phase``) with these weights."""
    from protocaffe import TEST
    from protocaffe.net import Net

    net = Net(net_param, kwargs.pop("phase", TEST), backend=backend, **({"seed": 0} | kwargs))
    net.copy_weights(weights, keep_masks=False)
    return net


def random_inputs(net: Net, seed: int = 0) -> dict[str, np.ndarray]:
    """Normally distributed values for the net's inputs; 0 for those of one axis, which are labels."""
    rng = np.random.default_rng(seed)
    shapes = {name: net.blobs[name].shape for name in net.inputs}
    return {name: rng.standard_normal(s) if len(s) > 1 else np.zeros(s) for name, s in shapes.items()}


def compared(net: Net) -> list[str]:
    """The net's outputs, and what the layers that make them read: a softmax can hide much."""
    makers = {top: wire for wire in net._wires for top in wire.tops}
    return list(dict.fromkeys(b for out in net.outputs for b in (out, *makers[out].bottoms)))


def largest_difference(one: Net, two: Net, inputs: Mapping[str, Any]) -> float:
    """The largest difference between two nets' outputs (see `compared`), each relative to its largest value.

    Blobs of another shape in ``two`` are left out unless they are outputs (NetError). Nets that read their own data are
    both run on their next batch.
    """
    names = [name for name in compared(one) if name in two.blobs]
    same = [name for name in names if one.blobs[name].shape == two.blobs[name].shape]
    odd = next((name for name in one.outputs if name not in same), None)
    if odd is not None:
        raise NetError(f'shrink: the output "{odd}" {one.blobs[odd].shape} is lost or has another shape')
    first = {name: np.array(values, np.float64) for name, values in one.forward(same, **inputs).items()}
    second = two.forward(same, **inputs)
    worst = 0.0
    for name in same:
        if first[name].size:
            scale = max(float(np.abs(first[name]).max()), np.finfo(np.float32).tiny)
            worst = max(worst, float(np.abs(first[name] - second[name]).max()) / scale)
    return worst
