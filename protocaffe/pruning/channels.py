"""Which channels of a net's blobs stand and fall together: units, and what is known of each blob's channels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

#: the label of a channel that no unit stands for: it stays
KEPT = -1


@dataclass(frozen=True)
class Channels:
    """What is known of a blob along one axis.

    Attributes
    ----------
    axis : the axis that loses indices when units are removed
    labels : for each index the unit that it belongs to, or KEPT; a flattened channel has many indices of one unit
    value : for each index the constant that it holds whatever the net's input is, NaN where it is not constant
    """

    axis: int
    labels: np.ndarray
    value: np.ndarray

    @classmethod
    def kept(cls, axis: int, count: int) -> Channels:
        """Channels of which nothing is known: all of them stay."""
        return cls(axis, np.full(count, KEPT), np.full(count, np.nan))

    def with_value(self, value: Any) -> Channels:
        """The same channels holding other constants."""
        return Channels(self.axis, self.labels, np.broadcast_to(np.asarray(value, float), self.labels.shape))


class Units:
    """Removable units (union-find): joined ones are removed together or not at all, pinned ones stay."""

    def __init__(self) -> None:
        self._parent: list[int] = []
        #: unit as created -> why it must stay
        self.pins: dict[int, str] = {}
        #: unit as created -> the layer that has coupled it with another one
        self.coupled: dict[int, str] = {}

    def fresh(self, count: int) -> np.ndarray:
        """Labels of ``count`` new units."""
        first = len(self._parent)
        self._parent.extend(range(first, first + count))
        return np.arange(first, first + count)

    def find(self, unit: int) -> int:
        """The representative of a unit."""
        root = unit
        while self._parent[root] != root:
            root = self._parent[root]
        while self._parent[unit] != root:
            self._parent[unit], unit = root, self._parent[unit]
        return root

    def pin(self, labels: np.ndarray, reason: str) -> None:
        """Keep these units, for ``reason`` (the first one given counts)."""
        for unit in np.unique(labels[labels != KEPT]):
            self.pins.setdefault(int(unit), reason)

    def join(self, a: np.ndarray, b: np.ndarray, who: str) -> None:
        """Couple the units of ``a`` and ``b`` index by index; what meets a channel that stays is pinned."""
        if a is b:
            return
        for one, two in np.unique(np.stack([a, b]), axis=1).T.tolist():
            if one == two:
                continue
            if KEPT in (one, two):
                self.pins.setdefault(max(one, two), f"{who} couples it with channels that cannot be removed")
                continue
            self._parent[self.find(one)] = self.find(two)
            self.coupled.setdefault(one, who)
            self.coupled.setdefault(two, who)

    def roots(self) -> np.ndarray:
        """The representative of every unit."""
        return np.array([self.find(unit) for unit in range(len(self._parent))], int)


def spread(values: np.ndarray, axis: int, shape: Sequence[int]) -> np.ndarray:
    """An array of ``shape`` that holds ``values`` along ``axis`` and repeats them along the others.

    >>> spread(np.array([5, 6]), 0, (2, 3)).ravel()
    array([5, 5, 5, 6, 6, 6])
    """
    return np.broadcast_to(values.reshape([-1 if a == axis else 1 for a in range(len(shape))]), tuple(shape))


def follow(axis: int, before: Sequence[int], after: Sequence[int]) -> tuple[int, np.ndarray] | None:
    """Where the channels of ``axis`` lie when a blob of shape ``before`` is read in shape ``after``.

    Returns the axis and for each index along it the channel, or None where channels do not stay in places of their own
    along one axis.

    >>> follow(1, (2, 3, 2), (2, 6))
    (1, array([0, 0, 1, 1, 2, 2]))
    >>> follow(1, (2, 4, 3), (2, 2, 2, 3)) is None
    True
    """
    if not prod(before):
        return None
    if before[axis] == 1:
        same = axis < len(after) and after[axis] == 1
        return (axis, np.zeros(1, int)) if same else None
    channel = spread(np.arange(before[axis]), axis, before).reshape(tuple(after))
    for place in range(len(after)):
        rows = np.moveaxis(channel, place, 0).reshape(after[place], -1)
        if (rows == rows[:, :1]).all():
            return place, rows[:, 0].copy()
    return None


@dataclass(frozen=True)
class Cut:
    """What to take out of one parameter: indices along axes, or ``rows`` with their own ``columns`` (groups)."""

    layer: str
    blob: int
    takes: tuple[tuple[int, np.ndarray], ...] = ()
    rows: np.ndarray | None = None
    columns: np.ndarray | None = None

    def of(self, array: np.ndarray) -> np.ndarray:
        """The part of ``array`` that stays."""
        for axis, index in self.takes:
            array = array.take(index, axis)
        if self.rows is not None:
            array = array[self.rows[:, None], self.columns]
        return np.ascontiguousarray(array)


@dataclass(frozen=True)
class Form:
    """How weights are laid out: ``group`` groups of ``outputs`` x ``inputs``, or inputs first (``transposed``)."""

    group: int
    outputs: int
    inputs: int
    transposed: bool

    def taps(self, weights: np.ndarray) -> np.ndarray:
        """A view: group x output of the group x input of the group x taps."""
        if self.transposed:
            return weights.reshape(self.group, self.inputs, self.outputs, -1).swapaxes(1, 2)
        return weights.reshape(self.group, self.outputs, self.inputs, -1)


@dataclass(frozen=True)
class Carry:
    """Constant inputs ``moved`` whose weights go, times ``ratio``, onto those of the constant inputs ``onto``, which
    stay: padding meets both alike."""

    form: Form
    moved: np.ndarray
    onto: np.ndarray
    ratio: np.ndarray

    def apply(self, weights: np.ndarray, mask: np.ndarray | None) -> tuple[np.ndarray, np.ndarray | None]:
        """Weights and mask with the moved ones' share added."""
        weights = np.array(weights)
        taps = self.form.taps(weights)
        kept = None if mask is None else np.array(mask)
        for k, r, ratio in zip(self.moved.tolist(), self.onto.tolist(), self.ratio.tolist(), strict=True):
            (group, source), target = divmod(k, self.form.inputs), r % self.form.inputs
            share = taps[group, :, source] * ratio
            taps[group, :, target] += share.astype(weights.dtype)
            if kept is not None:
                self.form.taps(kept)[group, :, target] |= share != 0
        return weights, kept


Gone = Callable[[np.ndarray], np.ndarray]


class Linear:
    """A Convolution, Deconvolution or InnerProduct: outputs that are weighted sums of inputs, in groups.

    Attributes
    ----------
    inputs, value : labels and constants of what the weights read; for an InnerProduct of each single value
    outputs : labels of what they make
    uniform : whether a constant channel reaches every output position alike (no padding, or one tap)
    own_bias, own_weights : whether bias and weights are the layer's own to change, not shared
    """

    def __init__(self, layer: Any, inputs: np.ndarray, value: np.ndarray, outputs: np.ndarray) -> None:
        self.layer, self.inputs, self.value, self.outputs = layer, inputs, value, outputs
        self.who: str = layer.describe()
        self.kind: str = layer.type
        self.group: int = getattr(layer, "group", 1)
        self.per_in, self.per_out = inputs.size // self.group, outputs.size // self.group
        self.transposed = self.kind == "Deconvolution" or bool(getattr(layer, "transpose", False))
        self.form = Form(self.group, self.per_out, self.per_in, self.transposed)
        self.uniform = True
        if self.kind == "Convolution":
            self.uniform = not any(layer.pad)
        elif self.kind == "Deconvolution":
            self.uniform = set(layer.kernel) == set(layer.stride) == {1} and not any(layer.pad)
        self.own_bias = self.own_weights = True
        weights = layer.blobs[0].data
        if layer.blobs[0].mask is not None:
            weights = np.where(layer.blobs[0].mask, weights, 0)
        taps = self.form.taps(weights)
        #: group x output x input: whether any tap is not zero, and the sum of the taps
        self.used = (taps != 0).any(-1)
        self.sums = taps.sum(-1, dtype=np.float64)
        bias = layer.blobs[1].data.astype(np.float64) if layer.bias_term else np.zeros(outputs.size)
        self.bias = bias.ravel()
        #: inputs that hold a constant other than 0
        self.held = np.isfinite(value) & (value != 0)

    def pruned(self) -> np.ndarray:
        """For each output whether its whole filter is zero."""
        return ~self.used.any(2).ravel()

    def stay_in_place(self, bias_mask: np.ndarray | None) -> None:
        """Take constants into a bias alone, one that is there and, where a filter is left, not masked."""
        masked = bias_mask is not None and bool((~np.asarray(bias_mask, bool).ravel() & ~self.pruned()).any())
        self.own_bias = self.own_bias and bool(self.layer.bias_term) and not masked
        self.own_weights = False

    def constants(self) -> np.ndarray:
        """For each output the constant that it holds, or NaN."""
        exact = np.isfinite(self.value) & (self.uniform | (self.value == 0))
        varies = (self.used & ~exact.reshape(self.group, 1, self.per_in)).any(2).ravel()
        return np.where(varies, np.nan, self.bias + self._reach(exact))

    def _reach(self, which: np.ndarray) -> np.ndarray:
        """What the inputs marked in ``which`` add to each output, as far as they are constant."""
        value = np.where(which & self.held, self.value, 0).reshape(self.group, self.per_in, 1)
        return (self.sums @ value).ravel()

    def _read(self, gone: Gone) -> np.ndarray:
        """For each input whether it goes and an output that stays has weights for it."""
        out = ~gone(self.outputs).reshape(self.group, self.per_out, 1)
        return (self.used & out).any(1).ravel() & gone(self.inputs)

    @property
    def _simple(self) -> bool:
        return self.uniform and self.own_bias

    def _carriers(self, gone: Gone) -> np.ndarray:
        """For each group the input that stays with the largest constant, -1 where there is none."""
        if not self.own_weights:
            return np.full(self.group, -1)
        size = np.where(self.held & ~gone(self.inputs), np.abs(self.value), 0).reshape(self.group, -1)
        best = size.argmax(1)
        return np.where(size.max(1) > 0, best + np.arange(self.group) * self.per_in, -1)

    def refused(self, gone: Gone, force: bool) -> list[tuple[np.ndarray, str]]:
        """The inputs' labels that cannot go while the outputs not in ``gone`` stay, and why."""
        read = self._read(gone)
        refused = [(self.inputs[read & ~np.isfinite(self.value)], f"{self.who} reads it, and it is not constant there")]
        border = read & self.held
        if not self._simple and border.any() and not (force and self.own_bias):
            text = f"{self.who} reads it: it holds a constant other than 0, "
            text += "and padding lets the border see fewer of its values" if self.own_bias else "and its bias is shared"
            if self.own_weights:
                size = np.where(border, np.abs(self.value), 0).reshape(self.group, -1)
                without = (self._carriers(gone) < 0) & (size.max(1) > 0)
                best = (size.argmax(1) + np.arange(self.group) * self.per_in)[without]
                text += "; it stands for all such channels" if self.per_in > 1 else ""
                refused.append((self.inputs[best], text))
            else:
                refused.append((self.inputs[border], text))
        return refused

    def folded(self, gone: Gone) -> tuple[np.ndarray, Carry | None, bool]:
        """What goes into the bias of each output; what goes onto other inputs' weights; whether the first is inexact
        at the border."""
        border = self._read(gone) & self.held
        if self._simple:
            return self._reach(gone(self.inputs)), None, False
        carrier = np.repeat(self._carriers(gone), self.per_in)
        moved = np.flatnonzero(border & (carrier >= 0))
        carry = Carry(self.form, moved, carrier[moved], self.value[moved] / self.value[carrier[moved]])
        rest = border & (carrier < 0)
        return self._reach(rest), carry if moved.size else None, bool(rest.any())

    def unbalanced(self, gone: Gone) -> list[tuple[np.ndarray, str]]:
        """Labels to keep so that all groups that stay have equal numbers of inputs and of outputs."""
        if self.group == 1:
            return []
        sides = [labels.reshape(self.group, -1) for labels in (self.inputs, self.outputs)]
        left = [(~gone(side.ravel())).reshape(side.shape).sum(1) for side in sides]
        alive = (left[0] > 0) | (left[1] > 0)
        back = []
        for side, count in zip(sides, left, strict=True):
            wanted = max(1, int(count.max()))
            for g in np.flatnonzero(alive & (count < wanted)):
                removed = side[g][gone(side[g])]
                back.append(removed[: wanted - count[g]])
        text = f"{self.who} needs equal numbers of channels in each of its groups"
        return [(labels, text) for labels in back]

    def edit(self, gone: Gone) -> tuple[int, int]:
        """num_output and group of what stays."""
        out = ~gone(self.outputs)
        groups = int(out.reshape(self.group, -1).any(1).sum())
        return int(out.sum()), groups

    def cuts(self, gone: Gone) -> list[Cut]:
        """What to take out of weights and bias."""
        keep_in, keep_out = ~gone(self.inputs), ~gone(self.outputs)
        rows, columns = (keep_in, keep_out) if self.transposed else (keep_out, keep_in)
        name = self.layer.name
        if self.group == 1:
            takes = ((0, np.flatnonzero(rows)), (1, np.flatnonzero(columns)))
            cuts = [Cut(name, 0, takes)]
        else:
            inside = [np.flatnonzero(c) for c in columns.reshape(self.group, -1)]
            kept = np.flatnonzero(rows)
            of_row = kept // (rows.size // self.group)
            cuts = [Cut(name, 0, rows=kept, columns=np.stack([inside[g] for g in of_row]))]
        return cuts + [Cut(name, 1, ((-1, np.flatnonzero(keep_out)),))] * bool(self.layer.bias_term)
