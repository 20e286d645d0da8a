"""Which layers and blobs of a net need gradients: Caffe's rules (src/caffe/net.cpp, Net::Init), on names alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from .errors import NetError
from .layer import Layer


@dataclass
class Wire:
    """One layer's place in the net."""

    layer: Layer
    bottoms: list[str]
    tops: list[str]
    bottom_need: list[bool] = field(default_factory=list)
    need_backward: bool = False


def forward_needs(wire: Wire, need: dict[str, bool], lr_mults: Sequence[float]) -> None:
    """From inputs to outputs: a layer needs a backward pass if a bottom or a parameter does; ``need`` is per blob."""
    layer = wire.layer
    asked = list(layer.param.propagate_down)
    if asked and len(asked) != len(wire.bottoms):
        layer.fail(
            NetError, f"propagate_down must be given for none or all {len(wire.bottoms)} bottoms, got {len(asked)}"
        )
    wire.bottom_need = asked or [need[b] for b in wire.bottoms]
    layer.param_propagate_down = [lr != 0 for lr in lr_mults]
    wire.need_backward = any(wire.bottom_need) or any(layer.param_propagate_down)
    for top in wire.tops:
        need[top] = wire.need_backward


def backward_needs(wires: Sequence[Wire]) -> None:
    """From outputs to inputs: nothing is needed that does not lead to a loss, or lies only before a blocked path."""
    under_loss: set[str] = set()
    skip: set[str] = set()
    for wire in reversed(wires):
        contributes = any(
            weight != 0 or top in under_loss for top, weight in zip(wire.tops, wire.layer.loss_weights, strict=True)
        )
        blocked = all(top in skip for top in wire.tops)
        if wire.need_backward and blocked:
            wire.need_backward = False
            wire.bottom_need = [False] * len(wire.bottoms)
        if not contributes:
            wire.need_backward = False
        for i, bottom in enumerate(wire.bottoms):
            if contributes:
                under_loss.add(bottom)
            else:
                wire.bottom_need[i] = False
            if not wire.bottom_need[i]:
                skip.add(bottom)


def force_backward(wires: Sequence[Wire]) -> None:
    """``force_backward: true``: every bottom that allows it gets a gradient."""
    for wire in wires:
        wire.need_backward = True
        wire.bottom_need = [n or wire.layer.allow_force_backward(i) for i, n in enumerate(wire.bottom_need)]
        wire.layer.param_propagate_down = [True] * len(wire.layer.blobs)
