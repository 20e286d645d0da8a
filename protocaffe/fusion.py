"""Fusion: chains of layers that one set of calls computes, with fewer passes over memory.

Fusion rewrites the plan, never the net. Every layer's own calls stay in the plan; where a run covers a whole chain, the
chain's fused calls take their place (``Plan.fuse``). A run that stops inside a chain, hooks, ``debug_info`` and
per-layer times use the layers' own calls. What must hold, so that both may be mixed at will:

- every blob that can be read holds, after the fused calls, what the layers as written leave in it, to rounding;
- fused calls leave in the layers' own buffers whatever a later pass by the layers' own calls reads, and read nothing
  that those do not leave.

A chain is a run of consecutive layers, each reading the one before it and nothing else, and all but the first working
in place, so that there is one blob and its last value is the chain's result. (Where an intermediate blob cannot be read
at all, in a net that reuses memory, the layers need not work in place.)

A pattern is one class. A backend names those it can use in ``Backend.patterns``, longest first.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from .blob import Blob
    from .layer import Layer
    from .plan import Recorder
    from .wiring import Wire


class Pattern:
    """A chain of layer types. An instance belongs to one chain of a net: its layers, first bottoms and last top."""

    types: ClassVar[tuple[str, ...]] = ()

    def __init__(self, layers: Sequence[Any], bottom: Sequence[Blob], top: Blob) -> None:
        self.layers = list(layers)
        self.bottom = list(bottom)
        self.top = top

    def fits(self) -> bool:
        """Whether the layers' options are ones that the fused calls can do."""
        return True

    def forward(self, ops: Recorder) -> None:
        """Record the chain's forward pass."""
        raise NotImplementedError

    def backward(self, ops: Recorder, propagate_down: Sequence[bool]) -> bool:
        """Record the chain's backward pass; False, and nothing recorded, if the layers' own calls are to do it."""
        return False


def _plain_relu(layer: Any) -> bool:
    return layer.slope == 0


class ConvolutionReLU(Pattern):
    """The convolution clips its sums at 0 before it stores them: one pass over the output instead of three."""

    types = ("Convolution", "ReLU")

    def fits(self) -> bool:
        return len(self.bottom) == 1 and _plain_relu(self.layers[1])

    def forward(self, ops: Recorder) -> None:
        conv = self.layers[0]
        bias = conv.blobs[1].data_mem if conv.bias_term else None
        ops.conv_forward(
            conv.shape, self.bottom[0].data_mem, conv.blobs[0].data_mem, bias, self.top.data_mem, relu=True
        )


class InnerProductReLU(Pattern):
    """Bias and ReLU in one pass over the output."""

    types = ("InnerProduct", "ReLU")

    def fits(self) -> bool:
        return self.layers[0].bias_term and _plain_relu(self.layers[1])

    def forward(self, ops: Recorder) -> None:
        ip, y = self.layers[0], self.top.data_mem
        ip.product(ops, self.bottom[0].data_mem, y)
        ops.launch("fused_bias_relu", ip.rows, ip.outputs, ip.blobs[1].data_mem, y, work=ip.rows * ip.outputs)


#: what every backend can do, since it is built on kernels and verbs that all of them have
PORTABLE: tuple[type[Pattern], ...] = (ConvolutionReLU, InnerProductReLU)


@dataclass(frozen=True)
class Chain:
    """Layers ``first`` to ``last`` of a net and the pattern that fits them."""

    first: int
    last: int
    pattern: Pattern

    @property
    def layers(self) -> tuple[int, ...]:
        """Numbers of the layers."""
        return tuple(range(self.first, self.last + 1))


def find_chains(
    wires: Sequence[Wire],
    blobs: Mapping[str, Blob],
    patterns: Sequence[type[Pattern]],
    hidden: Callable[[str], bool] = lambda name: False,
) -> list[Chain]:
    """The chains of a net, none overlapping; at each layer the first pattern that fits. ``hidden``: blobs that cannot
    be read after the pass, so that a chain may leave them out."""
    chains: list[Chain] = []
    at = 0
    while at < len(wires):
        for pattern in patterns:
            part = wires[at : at + len(pattern.types)]
            if not _matches(part, pattern.types, hidden):
                continue
            layers: list[Layer] = [wire.layer for wire in part]
            found = pattern(layers, [blobs[b] for b in part[0].bottoms], blobs[part[-1].tops[0]])
            if found.fits():
                chains.append(Chain(at, at + len(part) - 1, found))
                at += len(part) - 1
                break
        at += 1
    return chains


def _matches(part: Sequence[Wire], types: Sequence[str], hidden: Callable[[str], bool]) -> bool:
    if tuple(wire.layer.type for wire in part) != tuple(types):
        return False
    if any(len(wire.tops) != 1 for wire in part):
        return False
    for before, wire in pairwise(part):
        if wire.bottoms != before.tops:
            return False
        if wire.tops != wire.bottoms and not hidden(wire.bottoms[0]):
            return False
    return True
