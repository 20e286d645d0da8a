"""Fusion: chains of layers that one set of calls computes, with fewer passes over memory.

Fusion rewrites the plan, never the net. Every layer's own calls stay in the plan; where a run covers a whole chain, the
chain's fused calls take their place (``Plan.fuse``). A run that stops inside a chain, hooks, ``debug_info`` and
per-layer times use the layers' own calls. What must hold, so that both may be mixed at will:

- every blob that can be read holds, after the fused calls, what the layers as written leave in it, data and diff, to
  rounding (so a hook may change last digits, and nothing else);
- fused calls read, of the layers' own buffers, nothing that the layers' own calls do not leave there; a pattern whose
  backward calls read what only its forward calls leave says so (``needs_fused``), and runs backward by the layers' own
  calls where they ran forward;
- where a pass by the layers' own calls reads what fused calls do not leave, ``restore`` makes it up first.

A chain is a run of consecutive layers, each reading the one before it and nothing else, and all but the first working
in place, so that there is one blob and its last value is the chain's result. The layers need not work in place where an
intermediate blob cannot be read at all, in a net that reuses memory, and where the fused calls write the blobs in
between, too (``leaves_all``); there a layer may read more than the one before it.

A pattern is one class (patterns.py). A backend names those it can use in ``Backend.patterns``, longest first.
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
    """A chain of layer types. An instance belongs to one chain of a net: its layers, first bottoms and last top.

    ``for_backward``: a backward pass of some of its layers may follow.
    """

    types: ClassVar[tuple[str, ...]] = ()
    #: the backward calls read what only the forward calls leave
    needs_fused: ClassVar[bool] = False
    #: the last layer does not work in place: what it reads is the chain's ``top``, its tops are the chain's ``ends``
    has_ends: ClassVar[bool] = False
    #: whether its calls leave the blobs between the layers as the layers do, so that these need not work in place
    leaves_all: ClassVar[bool] = False
    #: whether its backward pass reads of the top just what the layers' own would, whatever wrote over it since
    reads_as_layers: ClassVar[bool] = False
    #: of each layer the bottoms and the one top
    bottoms: Sequence[Sequence[Blob]] = ()
    tops: Sequence[Blob] = ()
    ends: Sequence[Blob] = ()

    def __init__(self, layers: Sequence[Any], bottom: Sequence[Blob], top: Blob, for_backward: bool) -> None:
        self.layers = list(layers)
        self.bottom = list(bottom)
        self.top = top
        self.for_backward = for_backward

    def fits(self) -> bool:
        """Whether the layers' options are ones that the fused calls can do."""
        return True

    def forward(self, ops: Recorder) -> None:
        """Record the chain's forward pass."""
        raise TypeError(f"{type(self).__name__} must define forward")

    def restore(self, ops: Recorder) -> None:
        """Record what the layers' own calls would have left beside, and a backward pass by them reads."""

    def backward(self, ops: Recorder, propagate_down: Sequence[bool]) -> bool:
        """Record the chain's backward pass; False, and nothing recorded, if the layers' own calls are to do it.

        Asked only where all layers have a backward pass.
        """
        return False


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
    backward: bool = True,
) -> list[Chain]:
    """The chains of a net, none overlapping; at each layer the first pattern that fits.

    ``hidden``: blobs that cannot be read after the pass, so that a chain may leave them out; ``backward``: whether
    there can be backward passes.
    """
    chains: list[Chain] = []
    at = 0
    while at < len(wires):
        for pattern in patterns:
            part = wires[at : at + len(pattern.types)]
            if not _matches(part, pattern, hidden):
                continue
            layers: list[Layer] = [wire.layer for wire in part]
            for_backward = backward and any(wire.need_backward for wire in part)
            top = part[-2 if pattern.has_ends else -1].tops[0]
            found = pattern(layers, [blobs[b] for b in part[0].bottoms], blobs[top], for_backward)
            found.bottoms = [[blobs[name] for name in wire.bottoms] for wire in part]
            found.tops = [blobs[wire.tops[0]] for wire in part]
            found.ends = [blobs[name] for name in part[-1].tops]
            if found.fits() and not (for_backward and _overwritten(found, part, wires[at + len(part) :])):
                chains.append(Chain(at, at + len(part) - 1, found))
                at += len(part) - 1
                break
        at += 1
    return chains


def _overwritten(pattern: Pattern, part: Sequence[Wire], later: Sequence[Wire]) -> bool:
    """Whether a later layer writes over the chain's top, which then is not what the layers' own backward passes expect.

    Theirs is Caffe's: a ReLU reads the sign of what lies there. A chain with a backward pass of its own would differ.
    """
    own = type(pattern).backward is not Pattern.backward and not pattern.reads_as_layers
    results = {pattern.top.name, *part[-1].tops}
    return own and any(not results.isdisjoint(wire.tops) for wire in later)


def _matches(part: Sequence[Wire], pattern: type[Pattern], hidden: Callable[[str], bool]) -> bool:
    if tuple(wire.layer.type for wire in part) != pattern.types:
        return False
    work = part[:-1] if pattern.has_ends else part
    if any(len(wire.tops) != 1 for wire in work) or (pattern.has_ends and part[-1].bottoms != work[-1].tops):
        return False
    for before, wire in pairwise(work):
        if pattern.leaves_all:
            if before.tops[0] not in wire.bottoms or hidden(before.tops[0]):
                return False
        elif wire.bottoms != before.tops or (wire.tops != wire.bottoms and not hidden(wire.bottoms[0])):
            return False
    return True
