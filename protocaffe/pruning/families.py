"""Outputs that stand and fall together: those of layers that are added up, multiplied, or share a weight.

`shrink` can take such channels out of all these layers or of none, so they are chosen once for the whole family.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from protocaffe.errors import ParameterError
from protocaffe.layout import WeightLayout
from protocaffe.pruning.arguments import PruningArguments
from protocaffe.pruning.channel_rules import Trace
from protocaffe.pruning.choice import Weights, check_shares, choose_masks
from protocaffe.pruning.following import output_layers
from protocaffe.pruning.net import prunable_weights, users_of_weights
from protocaffe.pruning.outputs import alive_channels

if TYPE_CHECKING:
    from protocaffe.net import Net


class Family(NamedTuple):
    """Prunable weights (``members``: their places in `prunable_weights`) with coupled outputs: output k of member i is
    channel ``channels[i][k]`` of the family's ``size``."""

    names: tuple[str, ...]
    members: tuple[int, ...]
    channels: tuple[np.ndarray, ...]
    size: int
    layout: WeightLayout

    def mean(self, values: Sequence[np.ndarray]) -> np.ndarray:
        """The mean of what each member says of its outputs, for each channel."""
        total, said = np.zeros(self.size), np.zeros(self.size)
        for member, channels in zip(self.members, self.channels, strict=True):
            np.add.at(total, channels, np.asarray(values[member], np.float64))
            np.add.at(said, channels, 1)
        return total / np.maximum(said, 1)


def families(net: Net) -> list[Family]:
    """The families of a net's prunable weights, in the order of their first members; most have one member.

    Coupled are outputs that shrink.py removes together or not at all: those that an Eltwise combines, that meet in a
    Concat along another axis, or whose layers share a weight.
    """
    trace = Trace(net)
    units = trace.units
    traced = {id(linear.layer): linear.outputs for linear in trace.linears}
    weights, roots = prunable_weights(net), []
    for w, users in zip(weights, users_of_weights(net), strict=True):
        labels = [traced[id(u.wire.layer)] for u in users if id(u.wire.layer) in traced]
        labels = [one for one in labels if one.size == w.lies.outputs] or [units.fresh(w.lies.outputs)]
        for other in labels[1:]:
            units.join(labels[0], other, w.name)
        roots.append(labels[0])
    roots = [np.array([units.find(int(unit)) for unit in one], int) for one in roots]
    return [_family(members, weights, roots) for members in _meeting(roots)]


def _meeting(roots: Sequence[np.ndarray]) -> list[list[int]]:
    """The places of ``roots`` in groups that have units in common, directly or through others."""
    groups: list[tuple[list[int], set[int]]] = []
    for place, units in enumerate(roots):
        mine = {int(unit) for unit in units}
        meeting = [group for group in groups if group[1] & mine]
        members = sorted([place, *(member for group in meeting for member in group[0])])
        groups = [group for group in groups if group not in meeting]
        groups.append((members, mine.union(*(group[1] for group in meeting))))
    return sorted(members for members, _ in groups)


def _family(members: list[int], weights: Sequence[Weights], roots: Sequence[np.ndarray]) -> Family:
    order: dict[int, int] = {}
    for member in members:
        for unit in roots[member].tolist():
            order.setdefault(unit, len(order))
    channels = tuple(np.array([order[unit] for unit in roots[member].tolist()], int) for member in members)
    names = tuple(weights[member].name for member in members)
    return Family(names, tuple(members), channels, len(order), weights[members[0]].lies)


def with_families(found: Sequence[Family], names: Collection[str]) -> tuple[str, ...]:
    """``names`` and those of all whose channels go together with theirs."""
    return tuple(name for family in found if set(names) & set(family.names) for name in family.names)


def staying_whole(
    net: Net, arguments: PruningArguments, found: Sequence[Family] = (), who: str = "pruning"
) -> tuple[str, ...]:
    """Names of the layers that stay whole though ``arguments`` do not exclude them: those that give the net's outputs
    and have no share of their own, and all of the ``found`` families with such a layer or an excluded one.

    Raises ParameterError, which begins with ``who``, where that leaves nothing to prune, or holds a layer that has a
    share of its own.
    """
    own, exclude = arguments.layer_sparsity, arguments.exclude
    first = {*exclude, *(name for name in output_layers(net) if name not in own)}
    whole = first.union(with_families(found, first))
    for family in found:
        named = [name for name in family.names if name in own and name not in exclude]
        if whole.intersection(named):
            stays = ", ".join(name for name in family.names if name in first)
            raise ParameterError(
                f'{who}: layer "{named[0]}" has a share of its own, but its channels go together with those of layers '
                f"that stay whole: {stays} (those that give the net's outputs need a share too)"
            )
    names = [w.name for w in prunable_weights(net)]
    if whole.issuperset(names):
        why = f"{', '.join(names)} are excluded or give the net's outputs" if names else "no layer is prunable"
        raise ParameterError(f"{who}: nothing can be pruned: {why}")
    return tuple(name for name in names if name in whole and name not in exclude)


def choose_together(
    found: Sequence[Family],
    weights: Sequence[Weights],
    scores: Sequence[np.ndarray],
    sparsity: float,
    scope: str = "global",
    layer_sparsity: Mapping[str, float] | None = None,
    min_keep: float | None = None,
    exclude: Collection[str] = (),
) -> list[np.ndarray]:
    """As `choose_channels`, but the channels of each of the ``found`` families are chosen, and counted, once.

    A channel's score is the mean of its outputs'. A family whose member is in ``exclude`` stays whole; a share of its
    own may be given to any of its members. Raises ParameterError where two have different ones.
    """
    given = layer_sparsity or {}
    check_shares(given, exclude, sparsity, scope, min_keep)
    own: dict[str, float] = {}
    left: list[str] = []
    entries, means, alive = [], [], [alive_channels(w) for w in weights]
    for family in found:
        shares = {name: given[name] for name in family.names if name in given}
        if len(set(shares.values())) > 1:
            said = ", ".join(f"{name} {share:g}" for name, share in shares.items())
            raise ParameterError(f"pruning: the channels of these layers go together, so they need one share: {said}")
        if any(name in exclude for name in family.names):
            left.append(family.names[0])
        elif shares:
            own[family.names[0]] = next(iter(shares.values()))
        mean = family.mean(scores)
        entries.append(Weights(family.names[0], mean, family.mean(alive) > 0, family.layout))
        means.append(mean)
    chosen = choose_masks(entries, means, sparsity, scope, own, min_keep, left)
    kept: list[np.ndarray] = [np.ones(0, bool)] * len(weights)
    for family, stays in zip(found, chosen, strict=True):
        for member, channels in zip(family.members, family.channels, strict=True):
            kept[member] = stays[channels]
    return kept
