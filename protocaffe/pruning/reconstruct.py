"""Layer-wise reconstruction of a pruned net: the weights that are left make up for those that went, without labels.

Layer by layer, in the order of the net, the outputs of the dense net are approximated from the inputs that the layer
has in the pruned net *by then*, so that a layer also makes up for what the layers before it have lost
(least_squares.py has the arithmetic and the sources).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import ceil, prod
from typing import TYPE_CHECKING

import numpy as np

from .batches import Batches
from .following import channel_axis
from .least_squares import RIDGE, Sums, refit, work

if TYPE_CHECKING:
    from ..layer import Layer
    from ..layers.convolution import ConvShape
    from ..net import Net

#: samples of a layer's inputs; never fewer than SAMPLES_PER_INPUT for each input, as far as there are any
SAMPLES, SAMPLES_PER_INPUT = 8192, 4
#: what a layer may cost: bytes of its Gram matrices, operations for solving
MAX_BYTES, MAX_WORK = 512 << 20, 4e12
#: bytes of the activations from which each net goes on to the next layer; with more it starts from the images again
MAX_HELD = 2 << 30


@dataclass(frozen=True)
class Reconstruction:
    """What came of a pruned layer: its squared error relative to the variance of the dense outputs, before and after;
    or why its weights were kept as they are.
    """

    name: str
    before: float = 0.0
    after: float = 0.0
    kept: str = ""

    def line(self) -> str:
        """For a report."""
        if self.kept:
            return f"{self.name}: left as it is: {self.kept}"
        return f"{self.name}: squared error of its outputs {self.before:.4f} -> {self.after:.4f} of their variance"


def reconstruct(
    net: Net,
    dense: Net,
    batches: Batches,
    ridge: float = RIDGE,
    seed: int = 0,
    kept: Mapping[str, np.ndarray] | None = None,
) -> Iterator[Reconstruction]:
    """Refit each layer of ``net`` that has pruned weights; masks stay. Yields what came of each; until the last one the
    two nets must not be run by others.

    Parameters
    ----------
    net, dense : the pruned net and the original, of one prototxt, with one input
    batches : of images, as the input takes them
    ridge : see `least_squares.refit`
    seed : of the positions at which convolutions are sampled
    kept : for a net that `shrink` has made: the layers to refit in place of those with masks, and for each the numbers
        of the original's outputs that it still has (`ShrinkPlan.kept`)

    Notes
    -----
    The time is that of one pass of both nets over all images as long as what they hold between two layers fits into
    ``MAX_HELD`` bytes each, otherwise up to L / 2 passes for L layers.
    """
    uses = Counter(id(blob.values) for layer in net.layers for blob in layer.blobs)
    places = {layer.name: index for index, layer in enumerate(dense.layers)}
    walks = _Walk(net, batches), _Walk(dense, batches)
    for index, layer in enumerate(net.layers):
        if kept is None:
            masks = [blob.mask for blob in layer.blobs if blob.prunable]
            if all(mask is None or mask.all() for mask in masks):
                continue
        elif layer.name not in kept:
            continue
        obstacle = _obstacle(layer, uses)
        if obstacle:
            yield Reconstruction(layer.name, kept=obstacle)
        else:
            stay = None if kept is None else kept[layer.name]
            yield _layer(walks, (index, places[layer.name]), batches.count, ridge, seed, stay)


class _Walk:
    """A net taken from layer to layer, all batches at each step: a step goes on from what the last one has left."""

    def __init__(self, net: Net, batches: Batches) -> None:
        self.net, self.batches = net, batches
        self.at = 0
        self.held: list[dict[str, np.ndarray]] = []

    def to(self, end: int) -> Iterator[int]:
        """Run the layers before ``end`` on each batch and yield its size while the net's blobs hold it."""
        net, live, size = self.net, self._live(end), 0
        held: list[dict[str, np.ndarray]] = []
        for batch in self.batches:
            if self.at:
                for name, values in self.held.pop(0).items():
                    net.blobs[name].data = values
            else:
                self.batches.give(net, batch)
            if self.at < end:
                net.run_forward(self.at, end - 1)
            yield len(batch)
            size += sum(net.blobs[name].data.nbytes for name in live)
            held = [*held, {name: np.array(net.blobs[name].data) for name in live}] if size <= MAX_HELD else []
        self.at, self.held = (end, held) if size <= MAX_HELD else (0, [])

    def _live(self, end: int) -> list[str]:
        """The blobs that layers from ``end`` on read of those before; of those that share values one."""
        net, tops, bottoms = self.net, self.net.top_names, self.net.bottom_names
        made = {top for layer in net.layers[:end] for top in tops[layer.name]}
        read = {bottom for layer in net.layers[end:] for bottom in bottoms[layer.name]}
        return list({id(net.blobs[name].values): name for name in sorted(made & read)}.values())


def _mask(layer: Layer) -> np.ndarray:
    weight = layer.blobs[0]
    return layer_rows(layer, np.ones(weight.shape, bool) if weight.mask is None else np.asarray(weight.mask))


def _obstacle(layer: Layer, uses: Counter[int]) -> str:
    """Why a layer cannot be refitted; "" if it can."""
    if layer.type not in ("Convolution", "InnerProduct"):
        return f"the type {layer.type} is not reconstructed"
    if any(uses[id(blob.values)] > 1 for blob in layer.blobs):
        return "it shares parameters with another layer"
    mask = _mask(layer)
    groups, outputs, inputs = mask.shape
    size = 8 * groups * inputs * (inputs + outputs)
    if size > MAX_BYTES:
        return f"its {inputs:,} inputs would need {size / 2**20:,.0f} MiB (at most {MAX_BYTES >> 20})"
    operations = work(mask)
    if operations > MAX_WORK:
        return f"it would need {operations:.1e} operations (at most {MAX_WORK:.1e})"
    return ""


def _layer(
    walks: tuple[_Walk, _Walk], places: tuple[int, int], images: int, ridge: float, seed: int, stay: np.ndarray | None
) -> Reconstruction:
    (net, dense), (index, place) = (walk.net for walk in walks), places
    layer = net.layers[index]
    weight, bias = layer.blobs[0], layer.blobs[1] if len(layer.blobs) > 1 else None
    mask = _mask(layer)
    groups, outputs, inputs = mask.shape
    sums = Sums.empty(groups, inputs, outputs)
    rng = np.random.default_rng((seed, index))
    per_image = ceil(max(SAMPLES, SAMPLES_PER_INPUT * inputs) / images)
    bottoms, tops = net.bottom_names[layer.name], dense.top_names[layer.name]
    for count, _ in zip(walks[0].to(index), walks[1].to(place + 1), strict=True):
        for bottom, top in zip(bottoms, tops, strict=True):
            y = dense.blobs[top].data
            if stay is not None:
                y = y.take(stay, channel_axis(layer))
            sums.add(*samples(layer, net.blobs[bottom].data, y, per_image * count, rng))
    flat = None if bias is None else np.asarray(bias.data).reshape(groups, outputs)
    fit = refit(sums, layer_rows(layer, np.asarray(weight.data)), flat, mask, ridge)
    weight.data = _from_rows(layer, fit.weights)
    weight.apply_mask()
    if bias is not None and fit.bias is not None:
        bias.data = fit.bias.reshape(bias.shape)
    variance = max(sum(float(sums.centre(g)[4].sum()) for g in range(groups)), np.finfo(np.float64).tiny)
    return Reconstruction(layer.name, float(fit.before.sum() / variance), float(fit.after.sum() / variance))


def layer_rows(layer: Layer, values: np.ndarray) -> np.ndarray:
    """Weights or a mask as (groups, outputs of a group, inputs of an output)."""
    if layer.type == "Convolution":
        group = layer.param.convolution_param.group
        return values.reshape(group, values.shape[0] // group, -1)
    return (values.T if layer.param.inner_product_param.transpose else values)[None]


def _from_rows(layer: Layer, rows: np.ndarray) -> np.ndarray:
    if layer.type == "Convolution":
        return rows.reshape(layer.blobs[0].shape)
    return rows[0].T if layer.param.inner_product_param.transpose else rows[0]


def samples(
    layer: Layer, x: np.ndarray, y: np.ndarray, count: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """At most about ``count`` samples of a layer's inputs (n, groups, K) and outputs (n, groups, R).

    A convolution gives as many positions of each image, drawn from ``rng``; an inner product its rows.
    """
    if layer.type == "InnerProduct":
        outputs = layer.param.inner_product_param.num_output
        y = y.reshape(-1, outputs)
        x = x.reshape(len(y), -1)
        if len(y) > count:
            chosen = rng.choice(len(y), count, replace=False)
            x, y = x[chosen], y[chosen]
        return x[:, None], y[:, None]
    shape: ConvShape = layer.shape  # type: ignore[attr-defined]
    each = min(shape.pixels, ceil(count / shape.images))
    positions = np.stack([rng.permutation(shape.pixels)[:each] for _ in range(shape.images)])
    y = y.reshape(shape.images, shape.num_output, shape.pixels)
    y = np.take_along_axis(y, positions[:, None], 2).transpose(0, 2, 1)
    return windows(x, shape, positions), y.reshape(-1, shape.group, shape.out_group)


def windows(x: np.ndarray, shape: ConvShape, positions: np.ndarray) -> np.ndarray:
    """What a convolution sees at output ``positions`` (images, P): (images P, groups, C / groups x kernel)."""
    spatial = [(p, p) for p in shape.pad]
    x = np.pad(x.reshape(shape.images, shape.channels, *shape.in_dims), [(0, 0), (0, 0), *spatial])
    dims = x.shape[2:]
    steps = [prod(dims[a + 1 :]) for a in range(len(dims))]
    places = np.unravel_index(positions, shape.out_dims)
    start = sum(place * s * step for place, s, step in zip(places, shape.stride, steps, strict=True))
    taps = np.indices(shape.kernel).reshape(len(dims), -1)
    offset = sum(tap * d * step for tap, d, step in zip(taps, shape.dilation, steps, strict=True))
    index = np.asarray(start)[..., None] + np.asarray(offset)
    flat = x.reshape(shape.images, shape.channels, -1)
    rows = np.stack([image[:, where] for image, where in zip(flat, index, strict=True)])
    return rows.transpose(0, 2, 1, 3).reshape(positions.size, shape.group, shape.kernel_dim)
