"""Distillation from the dense net without labels, and how far a pruned net agrees with the original.

What is compared are a net's outputs before a closing Softmax (Hinton, Vinyals and Dean 2015, arXiv 1503.02531, in the
limit of a high temperature: the squared difference of the logits).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import DivergedError, NetError, ParameterError, ShapeError
from .batches import Batches

if TYPE_CHECKING:
    from ..net import Net

LEARNING_RATE = 1e-3
_BETA1, _BETA2, _EPSILON = 0.9, 0.999, 1e-8


def without_softmax(net: Net, also: Collection[str] = ()) -> tuple[Net, dict[str, int | None]]:
    """A net of its own with the same weights and masks, without the Softmax layers that make outputs.

    Returns it, and for each of its outputs the axis of the Softmax that followed, None where none did. A Softmax whose
    bottom another layer reads too stays. Gradients reach all parameters from all outputs. ``also``: blobs inside the
    net that become outputs too, as "NAME (inside)". Raises NetError for one that the net does not have.
    """
    from ..net import Net

    param: Any = type(net.param)()
    param.CopyFrom(net.param)
    readers = Counter(bottom for layer in param.layer for bottom in layer.bottom)
    axes: dict[str, int | None] = {}
    del param.layer[:]
    for layer in net.param.layer:
        if layer.type == "Softmax" and layer.top[0] in net.outputs and readers[layer.bottom[0]] == 1:
            axes[layer.bottom[0]] = layer.softmax_param.axis
        else:
            kept = param.layer.add()
            kept.CopyFrom(layer)
            del kept.include[:], kept.exclude[:]  # the net was filtered by them already
    for name in also:
        if name not in net.blobs:
            raise NetError(f'net "{net.name}" has no blob "{name}" to distil at')
        param.layer.add(name=f"{name} (inside)", type="Split", bottom=[name], top=[f"{name} (inside)"])
    param.force_backward = True
    bare = Net(param, net.phase, backend=net.backend, seed=net.seed)
    bare.copy_weights(net.layer_weights())
    return bare, {name: axes.get(name) for name in bare.outputs}


@dataclass(frozen=True)
class Agreement:
    """How far one output agrees with the original: the share of equal top-1 verdicts (None for a single value), the
    mean divergence KL(original, pruned) in nats (None without a Softmax), and the relative error
    ||z - z0|| / ||z0|| of the values before it.
    """

    images: int
    same: float | None
    kl: float | None
    error: float


def agreement(original: np.ndarray, got: np.ndarray, axis: int | None = None) -> Agreement:
    """Compare outputs (n, C, ...); ``axis``: that of a Softmax on them. Verdicts are along it, or axis 1.

    >>> z = np.array([[2.0, 0.0], [0.0, 1.0]])
    >>> agreement(z, z[:, ::-1], 1).same, agreement(z, z).error
    (0.0, 0.0)
    """
    z0, z = np.asarray(original, np.float64), np.asarray(got, np.float64)
    along = 1 if axis is None else axis
    same = kl = None
    if z0.ndim > 1 and z0.shape[along] > 1:
        same = float((z0.argmax(along) == z.argmax(along)).mean())
    if axis is not None:
        log0, log = _log_softmax(z0, axis), _log_softmax(z, axis)
        kl = float((np.exp(log0) * (log0 - log)).sum(axis).mean())
    norm = float(np.linalg.norm(z0))
    return Agreement(len(z0), same, kl, float(np.linalg.norm(z - z0)) / norm if norm else math.inf)


def _log_softmax(z: np.ndarray, axis: int) -> np.ndarray:
    z = z - z.max(axis, keepdims=True)
    return np.asarray(z - np.log(np.exp(z).sum(axis, keepdims=True)))


class _Adam:
    """Adam (Kingma and Ba 2015, arXiv 1412.6980) on a net's parameters; masked weights stay 0."""

    def __init__(self, net: Net) -> None:
        learns = zip(net.learnable_params, net.params_lr, strict=True)
        self.blobs = [(blob, mult) for blob, mult in learns if mult and not blob.statistic]
        self.moments = [(np.zeros(b.shape, np.float32), np.zeros(b.shape, np.float32)) for b, _ in self.blobs]
        self.steps = 0

    def step(self, rate: float) -> None:
        """One update; the rate is taken times each parameter's lr_mult."""
        self.steps += 1
        rate *= math.sqrt(1 - _BETA2**self.steps) / (1 - _BETA1**self.steps)
        for (blob, mult), (first, second) in zip(self.blobs, self.moments, strict=True):
            gradient = np.asarray(blob.diff, np.float32)
            first += (1 - _BETA1) * (gradient - first)
            second += (1 - _BETA2) * (gradient * gradient - second)
            blob.data -= (rate * mult) * first / (np.sqrt(second) + _EPSILON)
            blob.apply_mask()


def distill(
    net: Net,
    targets: dict[str, np.ndarray],
    batches: Batches,
    iterations: int,
    rate: float = LEARNING_RATE,
    seed: int = 0,
    each: Callable[[int, float], None] | None = None,
) -> list[float]:
    """Train a net (see `without_softmax`) towards the dense net's outputs on ``batches.images``, masks kept.

    Minimises, for each output, the mean over images of ``||z - z0||^2 / 2`` over the mean of ``||z0||^2``, by Adam with
    a learning rate that falls from ``rate`` to 0 along a cosine, on batches drawn anew from ``seed`` in each epoch.
    ``targets``: z0 by output. ``each(iteration, loss)`` hears of every iteration; returns all losses.

    Raises DivergedError for a loss that is NaN or infinite, ParameterError for iterations or a rate that cannot be,
    ShapeError for targets of another shape than the outputs.
    """
    if iterations < 0 or not rate > 0:
        raise ParameterError(f"distillation needs iterations >= 0 and a rate > 0, got {iterations} and {rate:g}")
    rng, adam = np.random.default_rng(seed), _Adam(net)
    scale = {name: max(float(np.square(z, dtype=np.float64).sum()) / len(z), 1e-12) for name, z in targets.items()}
    order = np.zeros(0, np.intp)
    losses: list[float] = []
    for iteration in range(iterations):
        if len(order) < batches.size:
            order = np.concatenate([order, rng.permutation(batches.count)])
        chosen, order = order[: batches.size], order[batches.size :]
        batches.give(net, batches.images[chosen])
        net.run_forward()
        loss, diffs = 0.0, {}
        for name, z0 in targets.items():
            if net.blobs[name].shape[1:] != z0.shape[1:]:
                wanted, got = z0.shape[1:], net.blobs[name].shape[1:]
                raise ShapeError(f'distillation: "{name}" must have shape {wanted} for an image, it has {got}')
            off = net.blobs[name].data - z0[chosen]
            loss += float(np.square(off, dtype=np.float64).sum()) / (2 * len(chosen) * scale[name])
            diffs[name] = off / np.float32(len(chosen) * scale[name])
        if not math.isfinite(loss):
            raise DivergedError(f"distillation: the loss is {loss} in iteration {iteration}; try a lower rate")
        net.clear_param_diffs()
        net.backward(**diffs)
        adam.step(rate * (1 + math.cos(math.pi * iteration / iterations)) / 2)
        losses.append(loss)
        if each is not None:
            each(iteration + 1, loss)
    return losses
