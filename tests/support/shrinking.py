"""Nets with random parameters and pruned channels, shrunk, and compared with what they were."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from protocaffe import TEST, Net
from protocaffe.backends import get_backend
from protocaffe.io import parse_net
from protocaffe.pruning import ShrinkPlan, apply, plan_shrink
from protocaffe.pruning.compare import build, largest_difference, random_inputs

WEIGHTED = ("Convolution", "Deconvolution", "InnerProduct")


class Shrunk(NamedTuple):
    """A net before and after, in double precision."""

    plan: ShrinkPlan
    before: Net
    after: Net
    param: Any
    weights: list[Any]
    difference: float

    @property
    def outputs(self) -> dict[str, int]:
        """The weighted layers' numbers of output channels, after."""
        return {c.name: c.outputs[1] for c in self.plan.layers}

    def reasons(self, layer: str) -> str:
        """Why pruned channels of a layer stay."""
        return "; ".join(s.reason for s in self.plan.stays if s.layer == layer)


def data(*shape: int, name: str = "data") -> str:
    """An Input layer."""
    dims = " ".join(f"dim: {d}" for d in shape)
    return f'layer {{ name: "{name}" type: "Input" top: "{name}" input_param {{ shape {{ {dims} }} }} }}\n'


def layer(kind: str, name: str, bottom: str | Sequence[str], options: str = "", top: str | Sequence[str] = "") -> str:
    """A layer's text; its top is called as the layer unless it is given."""
    bottoms = [bottom] if isinstance(bottom, str) else bottom
    tops = [top or name] if isinstance(top, str) else top
    names = " ".join([*(f'bottom: "{b}"' for b in bottoms), *(f'top: "{t}"' for t in tops)])
    return f'layer {{ name: "{name}" type: "{kind}" {names} {options} }}\n'


def conv(name: str, bottom: str | Sequence[str], outputs: int, kernel: int = 3, more: str = "", **kwargs: Any) -> str:
    """A Convolution's text (or another ``kind``)."""
    options = f"convolution_param {{ num_output: {outputs} kernel_size: {kernel} {more} }} {kwargs.get('extra', '')}"
    return layer(kwargs.get("kind", "Convolution"), name, bottom, options, kwargs.get("top", ""))


def ip(name: str, bottom: str, outputs: int, more: str = "", extra: str = "") -> str:
    """An InnerProduct's text."""
    return layer("InnerProduct", name, bottom, f"inner_product_param {{ num_output: {outputs} {more} }} {extra}")


def randomise(net: Net, rng: np.random.Generator) -> None:
    """Random parameters of a size that keeps values near 1; plausible statistics."""
    for one in net.layers:
        for i, blob in enumerate(one.blobs):
            fan = max(1, int(np.prod(blob.shape[1:]))) if one.type in WEIGHTED and i == 0 else 4
            blob.data = rng.standard_normal(blob.shape) * np.sqrt(2 / fan)
        if one.type == "BatchNorm":
            one.blobs[1].data = rng.random(one.blobs[1].shape) + 0.5
            one.blobs[2].data = 2
        if one.type == "PReLU":
            one.blobs[0].data = rng.random(one.blobs[0].shape)


def filters(one: Any) -> np.ndarray:
    """A view of a weighted layer's weights: its output channels first."""
    weights = one.blobs[0].data
    if one.type == "Deconvolution":
        group = one.group
        split = weights.reshape(group, weights.shape[0] // group, weights.shape[1], -1).swapaxes(1, 2)
        return split.reshape(one.num_output, -1)
    if one.type == "InnerProduct" and one.transpose:
        return weights.T
    return weights.reshape(weights.shape[0], -1)


def prune_channels(one: Any, channels: Sequence[int]) -> None:
    """Mask the whole filters of some output channels of a weighted layer."""
    weights = one.blobs[0]
    mask = np.ones(weights.shape, bool) if weights.mask is None else weights.mask.copy()
    for c in channels:
        if one.type == "Deconvolution":
            per = one.num_output // one.group
            rows = weights.shape[0] // one.group
            mask[c // per * rows : (c // per + 1) * rows, c % per] = False
        elif one.type == "InnerProduct" and one.transpose:
            mask[:, c] = False
        else:
            mask[c] = False
    weights.mask = mask


def prune_by_l1(net: Net, share: float, skip: Sequence[str] = ()) -> None:
    """Mask in every weighted layer the ``share`` of filters with the smallest L1 norm."""
    for one in net.layers:
        if one.type in WEIGHTED and one.name not in skip:
            order = np.abs(filters(one)).sum(1).argsort(kind="stable")
            prune_channels(one, order[: int(share * order.size)].tolist())


def masked(net: str | Any, pruned: Mapping[str, Sequence[int]] | float, seed: int = 0, **kwargs: Any) -> Net:
    """A random net (TEST, double precision) with pruned channels: given ones, or a share by L1 norm.

    ``set``: {(layer, blob): values} that are not random.
    """
    param = parse_net(net) if isinstance(net, str) else net
    made = Net(param, TEST, seed=1, backend=get_backend("cpu", "float64"))
    randomise(made, np.random.default_rng(seed))
    for (name, i), values in kwargs.get("set", {}).items():
        made.params[name][i].data = np.broadcast_to(values, made.params[name][i].shape)
    if isinstance(pruned, float):
        prune_by_l1(made, pruned, kwargs.get("skip", ()))
    else:
        for name, channels in pruned.items():
            prune_channels(made.layer_dict[name], channels)
    return made


def shrink(net: str | Any, pruned: Mapping[str, Sequence[int]] | float, seed: int = 0, **kwargs: Any) -> Shrunk:
    """Make a net by `masked`, shrink it, and compare both on random input."""
    made = masked(net, pruned, seed, **kwargs)
    backend = made.backend
    param = parse_net(net) if isinstance(net, str) else net
    plan = plan_shrink(param, made.layer_weights(), kwargs.get("force", False), backend)
    small, weights = apply(plan)
    after = build(small, weights, backend)
    return Shrunk(plan, made, after, small, weights, largest_difference(made, after, random_inputs(made, seed)))
