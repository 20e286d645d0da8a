"""Pruning whole outputs while training: the part of `Pruner` for the methods that score channels."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from .arguments import PruningArguments
from .criteria import prune_channels, scale_channels
from .families import choose_together, families, staying_whole
from .following import companions
from .gradients import check_gradients
from .net import prunable_weights, users_of_weights
from .outputs import alive_channels, l1_channels
from .taylor import ChannelWatch, normalised, taylor_of

if TYPE_CHECKING:
    from ..net import Net
    from .choice import Weights

logger = logging.getLogger("protocaffe.solver")

#: the last iterations up to each step of the schedule from which Taylor scores are gathered: so many at most, since
#: they begin anew after each step
WINDOW = 10


class ChannelPruner:
    """Chooses and masks outputs of ``net``; families.py says which go together.

    The layers whose outputs are the net's own, and what is coupled with them, stay whole unless they have a share of
    their own (`staying_whole`). Taylor scores are sums over the iterations since the last step, the last `WINDOW` at
    most; ``sums`` and ``summed`` belong in a solver state.
    """

    def __init__(self, net: Net, arguments: PruningArguments) -> None:
        self.net = net
        self.families = families(net)
        self.exclude = (*arguments.exclude, *staying_whole(net, arguments, self.families, "pruning_param"))
        logger.info("Pruning channels; these layers stay whole: %s", ", ".join(self.exclude) or "none")
        for family in self.families:
            if len(family.names) > 1 and family.names[0] not in self.exclude:
                logger.info("Channels of these layers go together: %s", ", ".join(family.names))
        self.arguments = arguments
        weights = prunable_weights(net)
        self._kept(arguments, weights, [np.zeros(w.lies.outputs) for w in weights])  # what cannot be it says now
        self.watch: ChannelWatch | None = None
        if arguments.method == "taylor-channels":
            check_gradients(net, "pruning_param: TAYLOR_CHANNELS", self.exclude)
            self.watch = ChannelWatch(net, taylor_of, "pruning_param: TAYLOR_CHANNELS", self.exclude)
            self.sums = [np.zeros(seen.shape) for seen in self.watch.seen]
        elif arguments.method == "scale-channels":
            scale_channels(net, self.exclude)  # where it cannot be it says so now
        if arguments.bias:
            for users in users_of_weights(net):
                if users[0].name not in self.exclude:
                    companions(net, users)
        self.summed = 0

    def prepare(self, wanted: bool) -> None:
        """Before an iteration's passes: its scores are ``wanted`` or not."""
        if self.watch is None:
            return
        for seen in self.watch.seen:
            seen[...] = 0
        if wanted:
            self.watch.attach()
        else:
            self.watch.detach()

    def gather(self) -> None:
        """After an iteration's passes: add what was seen."""
        if self.watch is not None and self.watch.attached:
            for total, seen in zip(self.sums, self.watch.seen, strict=True):
                total += seen
            self.summed += 1

    def choose(self, arguments: PruningArguments) -> tuple[int, int]:
        """Mask the outputs that go, as ``arguments`` (a step's) say; returns how many are left, and of how many."""
        a, weights = arguments, prunable_weights(self.net)
        prune_channels(self.net, self._kept(a, weights, self._scores(weights)), a.bias, self.exclude)
        counted = [w for w in prunable_weights(self.net) if w.name not in self.exclude]
        return sum(int(alive_channels(w).sum()) for w in counted), sum(w.lies.outputs for w in counted)

    def _kept(self, a: PruningArguments, weights: Sequence[Weights], scores: Sequence[np.ndarray]) -> list[np.ndarray]:
        shares = (a.sparsity or 0.0, a.scope, a.layer_sparsity, a.min_keep)
        return choose_together(self.families, weights, scores, *shares, self.exclude)

    def _scores(self, weights: Sequence[Weights]) -> list[np.ndarray]:
        if self.arguments.method == "l1-channels":
            return l1_channels(weights)
        if self.watch is None:
            return scale_channels(self.net, self.exclude)
        scores = [normalised(total / max(1, self.summed)) for total in self.sums]
        for total in self.sums:
            total[...] = 0
        self.summed = 0
        return scores

    # ------------------------------------------------------------------------------------------------ solver states
    def packed(self) -> list[bytes]:
        """The sums, for a solver state; none where none are gathered."""
        return [] if self.watch is None else [total.astype("<f8").tobytes() for total in self.sums]

    def unpack(self, stored: Sequence[bytes], summed: int) -> bool:
        """Go on from a state's sums (none: from 0); whether they fit."""
        if self.watch is None:
            return True
        fits = [len(values) for values in stored] == [8 * total.size for total in self.sums]
        for i, total in enumerate(self.sums):
            total[...] = np.frombuffer(stored[i], "<f8") if fits else 0
        self.summed = summed if fits else 0
        return fits or not stored
