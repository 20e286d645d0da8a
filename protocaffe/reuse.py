"""Memory of a TEST net's blobs given on to later blobs (``Net(..., reuse_memory=True)``).

In a forward pass a blob is needed from the layer that writes it to the last one that reads it. With those spans known,
all blobs are packed into one piece of memory in which no two overlap in time and place. Blobs that share values (those
of splits, flattened ones, a blob that layers work on in place) are one.

Kept out of it, each in memory of its own, are inputs, outputs, losses, the tops of layers without bottoms (data), blobs
that ``Net.keep`` or ``Net.forward(blobs=...)`` named, and blobs of which Python already has a view. Every other blob
can be read while a pass needs it (in hooks and Python layers); at other times reading its data raises NetError: what
lies there is another blob's.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from math import inf
from typing import TYPE_CHECKING

from .errors import NetError
from .memory import Slot, Storage

if TYPE_CHECKING:
    from .arena import Arena
    from .backends.base import Backend
    from .blob import Blob
    from .fusion import Chain
    from .layer import Layer
    from .plan import Plan
    from .wiring import Wire

logger = logging.getLogger("protocaffe.net")

_ALIGNMENT = 64


@dataclass
class Span:
    """The layers ``first`` to ``last`` during which ``count`` values must stay."""

    count: int
    first: float = inf
    last: float = -1

    def cover(self, count: int, first: int, last: int) -> None:
        """Make it hold so many values and reach over these layers too."""
        self.count, self.first, self.last = max(self.count, count), min(self.first, first), max(self.last, last)


def pack(spans: Sequence[Span], step: int = 1) -> tuple[list[int], int]:
    """Offsets at which spans that overlap in time do not overlap in place, multiples of ``step``; and the total.

    The largest first, each at the lowest place that is free (Pisarchyk and Lee, "Efficient memory management for deep
    neural net inference", 2020: greedy by size).

    >>> pack([Span(4, 0, 1), Span(4, 1, 2), Span(3, 2, 3)])
    ([0, 4, 0], 8)
    """
    offsets = [0] * len(spans)
    placed: list[int] = []
    for i in sorted(range(len(spans)), key=lambda i: (-spans[i].count, spans[i].first, i)):
        place = 0
        for j in sorted(placed, key=lambda j: offsets[j]):
            if spans[j].last < spans[i].first or spans[i].last < spans[j].first:
                continue
            if place + spans[i].count <= offsets[j]:
                break
            place = max(place, -(-(offsets[j] + spans[j].count) // step) * step)
        offsets[i] = place
        placed.append(i)
    return offsets, max((o + s.count for o, s in zip(offsets, spans, strict=True)), default=0)


class KeepAll:
    """A net all of whose blobs keep their data: nothing to plan and nothing to check."""

    def keep(self, names: Sequence[str]) -> bool:
        """Give these blobs memory of their own at the next ``choose``; whether any did not have it."""
        return False

    def choose(self, always: Sequence[str]) -> None:
        """Find out which blobs may be recycled: all but ``always``, those kept and those with memory of their own."""

    def hidden(self, name: str) -> bool:
        """Whether a blob cannot be read after a pass."""
        return False

    def place(self, chains: Sequence[Chain], layer: int = 0) -> None:
        """Give every recycled blob its place. A chain's layers run as one, so their spans are stretched over it.

        ``layer`` runs next: in the middle of a pass, where a shape has changed, values that are still needed move.
        """

    def check_slice(self, layers: Sequence[int]) -> None:
        """Raise NetError if the layers read what is no longer there: a recycled blob that none of them writes."""

    def running(self) -> AbstractContextManager[None]:
        """While calls run: what a layer's code reads is there."""
        return nullcontext()

    def before(self, layer: int) -> AbstractContextManager[None]:
        """While hooks run before a layer."""
        return nullcontext()

    def after(self, layer: int) -> AbstractContextManager[None]:
        """While hooks run after a layer."""
        return nullcontext()


class Reuse(KeepAll):
    """What a net that reuses memory knows about its blobs."""

    def __init__(self, net_name: str, backend: Backend, wires: Sequence[Wire], blobs: Mapping[str, Blob]) -> None:
        self.net_name = net_name
        self.backend = backend
        self.wires = wires
        self.blobs = blobs
        self.kept: set[str] = set()
        self._pool: Storage | None = None
        #: when each slot in the pool holds its values; not there: kept
        self._spans: dict[Slot, Span] = {}
        #: half a step before or after the layer whose hooks run; None: calls run; inf: the pass is over
        self._now: float | None = inf

    def keep(self, names: Sequence[str]) -> bool:
        new = [name for name in names if name not in self.kept and self.blobs[name].values.data.guard is not None]
        self.kept.update(names)
        return bool(new)

    # ------------------------------------------------------------------------------------------------------- planning
    def choose(self, always: Sequence[str]) -> None:
        fixed = {self.blobs[name].values.data for name in (*always, *self.kept)}
        for blob in self.blobs.values():
            slot = blob.values.data
            if slot.storage is not None and slot.guard is None:
                fixed.add(slot)
        self._spans = {}
        for i, wire in enumerate(self.wires):
            for name in (*wire.bottoms, *wire.tops):
                blob = self.blobs[name]
                slot = blob.values.data
                if slot not in fixed:
                    first = i if name in wire.tops else inf
                    self._spans.setdefault(slot, Span(0)).cover(blob.count, first, i)  # type: ignore[arg-type]
        for slot in fixed:
            if slot.guard is not None:
                slot.guard = slot.storage = None
                slot.backend.layouts += 1

    def hidden(self, name: str) -> bool:
        return self.blobs[name].values.data in self._spans

    def place(self, chains: Sequence[Chain], layer: int = 0) -> None:
        merged = self._merge(chains)
        wide = {slot: Span(0) for slot in self._spans if slot not in merged}
        for slot, span in self._spans.items():
            whole = wide[merged.get(slot, slot)]
            whole.cover(span.count, int(span.first), int(span.last))
            for chain in chains:
                if chain.first <= span.last and span.first <= chain.last:
                    whole.cover(0, min(chain.first, int(span.first)), max(chain.last, int(span.last)))
        spans = list(wide.values())
        item = self.backend.real.itemsize
        offsets, total = pack(spans, max(1, _ALIGNMENT // item))
        if self._pool is None or self._pool.size < total:
            self._pool = Storage(self.backend, max(total, 1), self.backend.real)
        places = dict(zip(wide, offsets, strict=True))
        moved = {
            slot: slot.memory((span.count,), span.count).array.copy()
            for slot, span in self._spans.items()
            if slot.storage is not None and span.first < layer <= span.last
        }
        for slot, span in self._spans.items():
            slot.place(self._pool, places[merged.get(slot, slot)], span.count)
            slot.guard = self._check
        for slot, values in moved.items():
            slot.memory(values.shape, values.size).array[...] = values
        logger.info(
            "Memory for the data of %d blobs that are not kept: %d bytes, shared; %d if each had its own",
            len(self._spans), total * item, sum(span.count for span in self._spans.values()) * item,
        )  # fmt: skip

    def _merge(self, chains: Sequence[Chain]) -> dict[Slot, Slot]:
        """The blobs inside of chains, which lie where the chain's result lies: its layers work element by element."""
        merged: dict[Slot, Slot] = {}
        for chain in chains:
            result = self.blobs[self.wires[chain.last].tops[0]].values.data
            for i in range(chain.first, chain.last):
                slot = self.blobs[self.wires[i].tops[0]].values.data
                if slot is not result and slot in self._spans and result in self._spans:
                    merged[slot] = result
                    self._spans[slot].last = i  # the next layer writes over it
        return merged

    # ------------------------------------------------------------------------------------------------------- running
    def _check(self, blob: Blob) -> None:
        span = self._spans.get(blob.values.data)
        if span is None or self._now is None or span.first < self._now < span.last + 1:
            return
        name = blob.name
        raise NetError(
            f'blob "{name}" of net "{self.net_name}" does not keep its data: the net was made with reuse_memory=True, '
            f'and later blobs use its memory. Call net.keep("{name}") before the pass, ask for it as '
            f'net.forward(blobs=["{name}"]), or make the net without reuse_memory'
        )

    @contextmanager
    def _at(self, now: float | None) -> Iterator[None]:
        before, self._now = self._now, now
        try:
            yield
        finally:
            self._now = before

    def running(self) -> AbstractContextManager[None]:
        return self._at(None)

    def before(self, layer: int) -> AbstractContextManager[None]:
        return self._at(layer - 0.5)

    def after(self, layer: int) -> AbstractContextManager[None]:
        return self._at(layer + 0.5)

    def check_slice(self, layers: Sequence[int]) -> None:
        written: set[Slot] = set()
        for i in layers:
            wire = self.wires[i]
            for name in wire.bottoms:
                if self.blobs[name].values.data not in written:
                    self._check(self.blobs[name])
            written.update(self.blobs[name].values.data for name in wire.tops)


class BlobMemory:
    """The part of Net that knows where the memory goes."""

    blobs: Mapping[str, Blob]
    layers: list[Layer]
    arena: Arena
    _scratch: Slot
    _reuse: KeepAll
    _forward_plan: Plan | None

    @property
    def reuse_memory(self) -> bool:
        """Whether blobs give their memory on to later ones."""
        return isinstance(self._reuse, Reuse)

    def keep(self, *names: str) -> None:
        """Keep these blobs readable after a forward pass, from the next one on, in a net that reuses memory."""
        for name in names:
            self._blob(name)  # type: ignore[attr-defined]
        if self._reuse.keep(names):
            self._forward_plan = None

    def memory_used(self) -> dict[str, int]:
        """Bytes that are allocated now: for the blobs' ``data`` and ``diff``, the ``parameters`` (with gradients and
        masks), what layers keep for themselves (``buffers``) and what they share (``scratch``). What a pass needs is
        allocated by the first one.

        >>> import protocaffe
        >>> net = protocaffe.Net("models/lenet/deploy.prototxt", protocaffe.TEST, reuse_memory=True)
        >>> net.memory_used()["data"], net.forward()["prob"].shape, net.memory_used()["data"]
        (0, (64, 10), 3889664)
        """
        parameters = {self.arena.master, self.arena.diff, self.arena.mask}
        found: dict[str, set[Storage | None]] = {
            "data": {blob.values.data.storage for blob in self.blobs.values()} - parameters,
            "diff": {blob.values.diff.storage for blob in self.blobs.values()} - parameters,
            "parameters": parameters,
            "buffers": {memory.storage for layer in self.layers for memory in layer._buffers.values()},
            "scratch": {self._scratch.storage},
        }
        return {
            what: sum(s.size * s.dtype.itemsize for s in storages if s is not None) for what, storages in found.items()
        }
