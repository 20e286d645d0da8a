"""Shrinking: pruned channels taken out of a net, which becomes smaller and computes the same.

A channel may go where nothing is lost without it:

- every layer that reads it gives it zero weights (or reads it only for channels that go too), or
- it is the same constant whatever the input (its whole filter is zero, so its bias is what is left, or what BatchNorm,
  Scale and the activation make of that), and its readers take constant times weights into their biases. With a constant
  other than 0 that is exact only where no padding lets the border see fewer of its values; where it does, one constant
  channel stays, and the others' weights go onto its own.

All channels are taken for removable first; whatever a reader refuses is put back, until nobody refuses.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from protocaffe.errors import NetError, WeightsError
from protocaffe.io.caffemodel import LayerWeights
from protocaffe.pruning.channel_rules import Trace
from protocaffe.pruning.channels import KEPT, Carry, Cut, Linear

if TYPE_CHECKING:
    from protocaffe.backends import Backend
    from protocaffe.net import Net
    from protocaffe.wiring import Wire


class LayerChange(NamedTuple):
    """A weighted layer's channels before and after; ``pruned`` of its filters were all zero, ``stay`` of these stay."""

    name: str
    type: str
    outputs: tuple[int, int]
    inputs: tuple[int, int]
    pruned: int
    stay: int


class Stays(NamedTuple):
    """Pruned channels of a layer that could not be removed, and why."""

    layer: str
    channels: int
    reason: str


@dataclass(frozen=True)
class Edit:
    """What changes in a layer's prototxt; None stays as it is."""

    type: str
    num_output: int | None = None
    group: int | None = None
    add_bias: bool = False
    slice_points: tuple[int, ...] | None = None
    #: place in reshape_param.shape -> extent
    dims: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True)
class ShrinkPlan:
    """What is to be taken out of a net; `apply` does it.

    Attributes
    ----------
    net_param, weights : the net and the weights that were looked at, masks applied
    edits : layer name -> what changes in its prototxt
    cuts : what parameters lose
    shifts, carries : what constants leave behind: in the biases of the outputs that stay, in other channels' weights
    layers : channels before and after
    stays : pruned channels that could not be removed, and why
    unknown : layers of types that the analysis does not know
    inexact : layers whose border is computed inexactly (only with ``force``)
    kept : layer that loses outputs or inputs -> the numbers of its outputs that stay
    """

    net_param: Any
    weights: list[LayerWeights]
    edits: dict[str, Edit]
    cuts: list[Cut]
    shifts: dict[str, np.ndarray]
    carries: dict[str, Carry]
    layers: list[LayerChange]
    stays: list[Stays]
    unknown: list[str] = field(default_factory=list)
    inexact: list[str] = field(default_factory=list)
    kept: dict[str, np.ndarray] = field(default_factory=dict)

    @property
    def removed(self) -> int:
        """How many output channels go, over all weighted layers."""
        return sum(change.outputs[0] - change.outputs[1] for change in self.layers)


def plan_shrink(
    net_param: Any, weights: Iterable[LayerWeights], force: bool = False, backend: Backend | None = None,
    level: int = 0, stages: Sequence[str] = (), in_place: bool = False,
) -> ShrinkPlan:  # fmt: skip
    """Decide which channels of a net go; neither argument is changed.

    The net is looked at as it tests (phase TEST). ``force``: a constant other than 0 goes also where padding makes
    that inexact at the border. ``in_place``: constants go into biases that are there and not masked, and into no
    weights, so that nothing that is pruned or missing comes up.

    Raises NetError for two layers of one name with parameters or sizes of their own, WeightsError for weights that do
    not fit.
    """
    from protocaffe import TEST
    from protocaffe.net import Net
    from protocaffe.passes import upgrade_net

    weights = list(weights)
    full = upgrade_net(net_param)
    net = Net(full, TEST, level=level, stages=stages, backend=backend, seed=0)
    try:
        net.copy_weights(weights, keep_masks=False)
        given = {w.name for w in weights if w.blobs}
        missing = [layer.name for layer in net.layers if layer.blobs and layer.name not in given]
        if missing:
            raise WeightsError(f'shrink: there are no weights for layer "{missing[0]}"')
        return _plan(net, full, force, {w.name: w.masks[1:2] for w in weights} if in_place else None)
    finally:
        net.close()


def _plan(net: Net, full: Any, force: bool, bias_masks: Mapping[str, Sequence[Any]] | None) -> ShrinkPlan:
    named = [layer.name for layer in net.layers if layer.blobs or layer.type in ("Slice", "Reshape")]
    twice = next((name for name in named if named.count(name) > 1), None)
    if twice is not None:
        raise NetError(f'shrink: two layers to change are called "{twice}": weights and sizes are found by name')
    trace = Trace(net)
    if bias_masks is not None:
        for linear in trace.linears:
            linear.stay_in_place(next(iter(bias_masks[linear.layer.name]), None))
    decision = _Decision(trace, force)
    gone = decision.gone
    edits: dict[str, Edit] = {}
    cuts: list[Cut] = []
    shifts: dict[str, np.ndarray] = {}
    carries: dict[str, Carry] = {}
    inexact: list[str] = []
    stay: dict[str, np.ndarray] = {}
    for linear in trace.linears:
        name, kept = linear.layer.name, ~gone(linear.outputs)
        shift, carry, rough = linear.folded(gone)
        if shift[kept].any():
            shifts[name] = shift[kept]
        if carry is not None:
            carries[name] = carry
        inexact += [linear.who] * rough
        if not kept.all() or gone(linear.inputs).any():
            outputs, groups = linear.edit(gone)
            group = groups if linear.group > 1 else None
            edits[name] = Edit(linear.kind, outputs, group, name in shifts and not linear.layer.bias_term)
            cuts += linear.cuts(gone)
            stay[name] = np.flatnonzero(kept)
    for name, blob, axis, labels in trace.per_channel:
        if gone(labels).any():
            cuts.append(Cut(name, blob, ((axis, np.flatnonzero(~gone(labels))),)))
    for name, pieces in trace.slices.items():
        if any(gone(labels).any() for labels in pieces):
            sizes = [int((~gone(labels)).sum()) for labels in pieces]
            edits[name] = Edit("Slice", slice_points=tuple(np.cumsum(sizes[:-1]).tolist()))
    wires = {wire.layer.name: wire for wire in net._wires if wire.layer.type == "Reshape"}
    for name, (axis, place, labels) in trace.reshapes.items():
        if gone(labels).any():
            edits[name] = Edit("Reshape", dims=_dims(net, wires[name], axis, place, int((~gone(labels)).sum())))
    stored = [replace(w, blobs=[np.array(b) for b in w.blobs], unknown=net._unknown_fields.get(w.name, b""))
              for w in net.layer_weights()]  # fmt: skip
    changes = [_change(linear, decision) for linear in trace.linears]
    return ShrinkPlan(
        full, stored, edits, cuts, shifts, carries, changes, decision.stays(), trace.unknown, inexact, stay
    )


def _change(linear: Linear, decision: _Decision) -> LayerChange:
    out, into = ~decision.gone(linear.outputs), ~decision.gone(linear.inputs)
    pruned = linear.pruned()
    counts = ((out.size, int(out.sum())), (into.size, int(into.sum())))
    return LayerChange(linear.layer.name, linear.kind, *counts, int(pruned.sum()), int((pruned & out).sum()))


def _dims(net: Net, wire: Wire, axis: int, place: int, count: int) -> tuple[tuple[int, int], ...]:
    """The extents that a Reshape must name: the channels' new number, and an old one that it took from their axis."""
    layer: Any = wire.layer
    p, shape = layer.param.reshape_param, net.blobs[wire.bottoms[0]].shape
    start = p.axis if p.axis >= 0 else len(shape) + p.axis + 1
    dims = []
    for i, d in enumerate(layer.dims):
        if start + i == place and d > 0:
            dims.append((i, count))
        elif d == 0 and start + i == axis != place:
            dims.append((i, shape[axis]))
        elif d == 0 and start + i == place != axis:
            dims.append((i, count))
    return tuple(dims)


class _Decision:
    """The largest set of units that no layer refuses to lose."""

    def __init__(self, trace: Trace, force: bool) -> None:
        self.trace = trace
        self.root = trace.units.roots()
        self.removable = np.ones(self.root.size, bool)
        #: representative -> why it stays
        self.reasons: dict[int, str] = {}
        for unit, reason in trace.units.pins.items():
            self._put_back(np.array([unit]), reason)
        while self._round(force):
            pass

    def gone(self, labels: np.ndarray) -> np.ndarray:
        """For each label whether it goes."""
        if not self.root.size:
            return np.zeros(labels.shape, bool)
        return (labels != KEPT) & self.removable[self.root[labels]]

    def _put_back(self, labels: np.ndarray, reason: str) -> bool:
        units = np.unique(self.root[labels]) if labels.size else labels
        units = units[self.removable[units]] if units.size else units
        for unit in units:
            self.removable[unit] = False
            self.reasons.setdefault(int(unit), reason)
        return bool(units.size)

    def _round(self, force: bool) -> bool:
        """Ask every layer once, from the net's end to its start; whether anything was put back.

        What only balances groups or keeps a blob from being empty comes last: much is still out at first.
        """
        linears = self.trace.linears[::-1]
        refused = (found for linear in linears for found in linear.refused(self.gone, force))
        if self._any(refused):
            return True
        for linear in linears:
            if self._any(linear.unbalanced(self.gone)):
                return True
        for name, labels in self.trace.blobs:
            if labels.size and self.gone(labels).all():
                return self._put_back(self._best(labels), f'"{name}" would have no channel left: one stays')
        return False

    def _any(self, refused: Iterable[tuple[np.ndarray, str]]) -> bool:
        """Put back all that is refused; whether that was anything."""
        return sum(self._put_back(labels, reason) for labels, reason in refused) > 0

    def _best(self, labels: np.ndarray) -> np.ndarray:
        """The label to keep of a blob that would lose all: the one whose return brings back the fewest others."""
        sizes = np.bincount(self.root, minlength=self.root.size)[self.root[labels]]
        return labels[[int(sizes.argmin())]]

    def stays(self) -> list[Stays]:
        """Pruned channels that stay, by layer and reason."""
        counts: dict[tuple[str, str], int] = {}
        for linear in self.trace.linears:
            kept = linear.outputs[linear.pruned() & ~self.gone(linear.outputs)]
            for unit in kept.tolist():
                reason = self.reasons[int(self.root[unit])]
                by = self.trace.units.coupled.get(unit)
                if by is not None:
                    reason += f" ({by} couples it with others)"
                key = (linear.layer.name, reason)
                counts[key] = counts.get(key, 0) + 1
        return [Stays(layer, count, reason) for (layer, reason), count in counts.items()]


# ------------------------------------------------------------------------------------------------------------- applying
def apply(plan: ShrinkPlan) -> tuple[Any, list[LayerWeights]]:
    """The smaller net and its weights; masks keep what they hold of the weights that stay."""
    cuts: dict[str, list[Cut]] = {}
    for cut in plan.cuts:
        cuts.setdefault(cut.layer, []).append(cut)
    weights = []
    for stored in plan.weights:
        blobs, masks = list(stored.blobs), list(stored.masks)
        if stored.name in plan.carries:
            blobs[0], masks[0] = plan.carries[stored.name].apply(blobs[0], masks[0])
        for cut in cuts.get(stored.name, []):
            mask = masks[cut.blob]
            blobs[cut.blob] = cut.of(blobs[cut.blob])
            if mask is not None:
                mask = cut.of(mask)
                masks[cut.blob] = None if mask.all() else mask
        shift = plan.shifts.get(stored.name)
        if shift is not None and len(blobs) > 1:
            blobs[1] = (blobs[1] + shift).astype(blobs[1].dtype)
        elif shift is not None:
            blobs, masks = [*blobs, shift.astype(blobs[0].dtype)], [*masks, None]
        if shift is not None and masks[1] is not None:
            masks[1] = masks[1] | (shift != 0)  # what a constant leaves behind is no pruned bias
        weights.append(LayerWeights(stored.name, stored.type, blobs, masks, unknown=stored.unknown))
    return edit_net(plan, plan.net_param), weights


def edit_net(plan: ShrinkPlan, net_param: Any) -> Any:
    """A copy of a net whose layers have the plan's sizes: of the net that was planned for, or of another prototxt with
    the same layers (train_val beside deploy)."""
    from protocaffe.passes import upgrade_net

    net = type(net_param)()
    net.CopyFrom(upgrade_net(net_param))
    for layer in net.layer:
        edit = plan.edits.get(layer.name)
        if edit is not None and edit.type == layer.type:
            _edit(layer, edit)
    return net


def _edit(layer: Any, edit: Edit) -> None:
    if edit.num_output is not None:
        p = layer.inner_product_param if edit.type == "InnerProduct" else layer.convolution_param
        p.num_output = edit.num_output
        if edit.group is not None:
            p.group = edit.group
        if edit.add_bias:
            p.bias_term = True
    if edit.slice_points is not None:
        layer.slice_param.slice_point[:] = edit.slice_points
    for place, extent in edit.dims:
        layer.reshape_param.shape.dim[place] = extent
