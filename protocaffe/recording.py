"""Recording: a net's layers become a plan at the shapes that blobs have, and again when one changes."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from .errors import NetError
from .fusion import Chain, find_chains
from .memory import Slot
from .plan import Plan, Recorder
from .reuse import KeepAll, Reuse

if TYPE_CHECKING:
    from .backends import Backend
    from .blob import Blob
    from .memory import Memory, Storage
    from .wiring import Wire


def _lies_at(slot: Slot, storage: Storage | None, offset: int) -> bool:
    """Whether values are where they were, if they were anywhere."""
    return storage is None or (slot.storage is storage and slot.offset == offset)


class Recording:
    """The part of Net that makes plans."""

    name: str
    backend: Backend
    blobs: Mapping[str, Blob]
    inputs: list[str]
    outputs: list[str]
    forward_count: Memory
    reuse_memory: bool
    _wires: list[Wire]
    _watched: list[Blob]
    _scratch: Slot
    _reuse: Reuse | KeepAll
    _fuse: bool
    _count_random: bool
    _chains: list[Chain]
    _forward_plan: Plan | None
    _backward_plan: Plan | None
    _forward_layout: list[Any]
    _backward_layout: list[Any]
    #: by "data" and "diff" the backend's count of changes up to which the layout is known to hold
    _layouts: dict[str, int]
    _generation: int

    @property
    def blob_loss_weights(self) -> OrderedDict[str, float]:
        """Loss weight of each blob."""
        weights = {t: lw for w in self._wires for t, lw in zip(w.tops, w.layer.loss_weights, strict=True)}
        return OrderedDict((name, weights[name]) for name in self.blobs)

    def _bottoms(self, wire: Wire) -> list[Blob]:
        return [self.blobs[b] for b in wire.bottoms]

    def _tops(self, wire: Wire) -> list[Blob]:
        return [self.blobs[t] for t in wire.tops]

    def reshape(self, first: int = 0) -> None:
        """Propagate the inputs' shapes through all layers; done by itself before a forward pass after a change.

        ``first``: only through the layers from this number on.
        """
        self._drop_plans()
        for wire in self._wires[first:]:
            with wire.layer.context():
                wire.layer.reshape(self._bottoms(wire), self._tops(wire))

    def _layout(self, which: str) -> list[Any]:
        """What a plan depends on: each blob's shape, and where its "data" or "diff" lies, if it lies anywhere yet."""
        self._layouts[which] = self.backend.layouts
        slots = [(blob, getattr(blob.values, which)) for blob in self._watched]
        return [(blob, blob.shape, slot.storage, slot.offset) for blob, slot in slots]

    def _changed(self, layout: list[Any], which: str) -> bool:
        if self._layouts[which] == self.backend.layouts:
            return False
        if any(
            blob.shape != shape or not _lies_at(getattr(blob.values, which), storage, offset)
            for blob, shape, storage, offset in layout
        ):
            return True
        self._layouts[which] = self.backend.layouts
        return False

    @staticmethod
    def _moved(layout: list[Any]) -> bool:
        return any(
            blob.shape == shape and not _lies_at(blob.values.data, storage, offset)
            for blob, shape, storage, offset in layout
        )

    def _forward(self, first: int = 0) -> Plan:
        """The plan of the forward pass; where a shape has changed, made anew for the layers from ``first`` on."""
        current = self._generation == self.backend.generation
        if self._forward_plan is not None and current and not self._changed(self._forward_layout, "data"):
            return self._forward_plan
        # what moved without another shape (shared parameters) concerns layers before the first as well
        self.reshape(0 if self._forward_plan is None or self._moved(self._forward_layout) else first)
        self._generation = self.backend.generation
        self._chains = self._place_blobs(first)
        plan = Plan(self.backend)
        for wire in self._wires:
            layer, tops = wire.layer, self._tops(wire)
            layer.ops = Recorder(self.backend, layer.name, self._scratch)
            with layer.context():
                layer.forward(self._bottoms(wire), tops)
            plan.parts.append(layer.ops.calls)
            for top, weight in zip(tops, layer.loss_weights, strict=True):
                if weight != 0:
                    top.diff = weight
        counter = Recorder(self.backend, "", self._scratch)
        if self._count_random:
            counter.launch("count_up", 1, self.forward_count)
        plan.parts.append(counter.calls)
        for chain in self._chains:
            ops, restore = self._chain_ops(chain), self._chain_ops(chain)
            chain.pattern.forward(ops)
            chain.pattern.restore(restore)
            plan.fuse(chain.layers, ops.calls, restore.calls)
        self._forward_plan, self._forward_layout = plan, self._layout("data")
        return plan

    def _backward(self) -> Plan:
        if self.reuse_memory:
            raise NetError(
                f'net "{self.name}" was made with reuse_memory=True and does not keep what a backward pass needs; '
                "make it without"
            )
        forward = self._forward()
        if self._backward_plan is None or self._changed(self._backward_layout, "diff"):
            plan = Plan(self.backend, forward)
            for wire in self._wires:
                layer = wire.layer
                layer.ops = Recorder(self.backend, layer.name, self._scratch)
                if wire.need_backward:
                    with layer.context():
                        layer.backward(self._tops(wire), wire.bottom_need, self._bottoms(wire))
                plan.parts.append(layer.ops.calls)
            for chain in self._chains:
                ops, wires = self._chain_ops(chain), self._wires[chain.first : chain.last + 1]
                if all(w.need_backward for w in wires) and chain.pattern.backward(ops, wires[0].bottom_need):
                    plan.fuse(chain.layers[::-1], ops.calls, needs_fused=chain.pattern.needs_fused)
            self._backward_plan, self._backward_layout = plan, self._layout("diff")
        return self._backward_plan

    @property
    def fuse(self) -> bool:
        """Whether chains of layers run as one; setting it records the net anew before the next pass."""
        return self._fuse

    @fuse.setter
    def fuse(self, fuse: bool) -> None:
        self._fuse = fuse
        self._drop_plans()

    def _drop_plans(self) -> None:
        if self._forward_plan is not None:
            self._forward_plan.restore()
        self._forward_plan = self._backward_plan = None

    def _place_blobs(self, first: int) -> list[Chain]:
        """The chains to fuse; where memory is reused, the blobs get their places before layer ``first`` runs."""
        patterns = self.backend.patterns if self._fuse else ()
        always = [*self.inputs, *self.outputs, *(n for n, weight in self.blob_loss_weights.items() if weight != 0)]
        always += [top for wire in self._wires if not wire.bottoms for top in wire.tops]
        self._reuse.choose(always)
        chains = find_chains(self._wires, self.blobs, patterns, self._reuse.hidden, not self.reuse_memory)
        self._reuse.place(chains, first)
        return chains

    def _chain_ops(self, chain: Chain) -> Recorder:
        return Recorder(self.backend, "+".join(layer.name for layer in chain.pattern.layers), self._scratch)

    def fused_layers(self) -> list[list[str]]:
        """Names of the layers of each chain that a whole pass runs as one."""
        self._forward()
        return [[layer.name for layer in chain.pattern.layers] for chain in self._chains]
