"""Pruning while training, as a solver file's ``pruning_param`` says."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import ParameterError, did_you_mean
from .magnitude import Weights, magnitude_masks
from .net import prunable_weights, set_masks, sparsity_of_net
from .schedule import Schedule

if TYPE_CHECKING:
    from ..net import Net
    from .report import SparsityReport

logger = logging.getLogger("protocaffe.solver")


class Pruner:
    """Prunes ``net`` at the schedule's iterations, when their gradients are there and before their update.

    With ``mode: HARD`` what is pruned stays so. With SOFT it learns on behind its mask, from the gradients that the net
    without it has, and comes back when its magnitude exceeds those that are kept by ``margin`` (pruning and splicing:
    Guo, Yao and Chen 2016, Dynamic Network Surgery, arXiv 1608.04493); masks are chosen anew at every step of the
    schedule, and from end_step on at the same pace until freeze_step, when what is pruned is gone.

    What is chosen at an iteration depends on its weights, gradients and number alone, so that a resumed run chooses
    what an uninterrupted one does. Raises ParameterError for what cannot be.
    """

    def __init__(self, net: Net, param: Any, max_iter: int) -> None:
        self.net = net
        self.param = param
        self.schedule = Schedule.of(param, max_iter)
        self.soft = param.mode == param.SOFT
        self.freeze = self._freeze(max_iter)
        #: (iteration, what was left) of each step of this run
        self.history: list[tuple[int, SparsityReport]] = []
        names = [weights.name for weights in prunable_weights(net)]
        self._shares: dict[str, float] = {}
        for rule in param.layer:
            if rule.name not in names:
                hint = did_you_mean(rule.name, names)
                raise ParameterError(f'pruning_param: no prunable layer "{rule.name}"{hint}')
            if rule.exclude == rule.HasField("sparsity"):
                raise ParameterError(f'pruning_param: layer "{rule.name}" needs either a sparsity or exclude: true')
            if not 0 <= rule.sparsity < 1:
                who = f'pruning_param: the sparsity of layer "{rule.name}"'
                raise ParameterError(f"{who} must be a share in [0, 1), got {rule.sparsity:g}")
            self._shares[rule.name] = rule.sparsity

    def _freeze(self, max_iter: int) -> int:
        param, end = self.param, self.schedule.steps[-1]
        if param.HasField("freeze_step") and not self.soft:
            raise ParameterError("pruning_param: freeze_step is for mode: SOFT")
        freeze = param.freeze_step if param.HasField("freeze_step") else max(end, (end + max_iter) // 2)
        if self.soft and freeze < end:
            raise ParameterError(f"pruning_param: freeze_step must not be before end_step {end}, got {freeze}")
        if not 0 <= param.margin < 10:
            raise ParameterError(f"pruning_param: margin must be from 0 to 10, got {param.margin:g}")
        return int(freeze)

    def begin(self, iteration: int) -> None:
        """Before a number of iterations: let pruned weights live on, from the weights as they are, if they are to."""
        arena = self.net.arena
        if self.soft and not arena.soft and iteration <= self.freeze:
            arena.soften()

    def prune(self, iteration: int) -> None:
        """Prune, if ``iteration`` is one of the schedule's."""
        progress = self.schedule.progress(iteration)
        if progress is None and self._splices(iteration):
            progress = 1.0
        if progress is not None:
            self._choose(progress, iteration)
        if self.soft and iteration == self.freeze:
            self.net.arena.harden()
            logger.info("Iteration %d, the masks are frozen: what is pruned is gone", iteration)

    def _splices(self, iteration: int) -> bool:
        """Whether masks are chosen once more after the schedule's end."""
        schedule = self.schedule
        due = (iteration - schedule.begin) % schedule.every == 0 or iteration == self.freeze
        return self.soft and schedule.steps[-1] < iteration <= self.freeze and due

    def _choose(self, progress: float, iteration: int) -> None:
        param, schedule = self.param, self.schedule
        own = {name: schedule.share(progress, share) if share else 0.0 for name, share in self._shares.items()}
        min_keep = param.min_keep if param.HasField("min_keep") else None
        scope = param.Scope.Name(param.scope).lower()
        before = [weights.mask for weights in prunable_weights(self.net)]
        before = [None if mask is None else mask.copy() for mask in before]
        masks = magnitude_masks(self._scores(), schedule.share(progress), scope, own, min_keep)
        set_masks(self.net, masks)
        back = 0
        if self.net.arena.soft:
            back = sum(int((new & ~old).sum()) for new, old in zip(masks, before, strict=True) if old is not None)
            self._unmask()
        report = sparsity_of_net(self.net)
        self.history.append((iteration, report))
        logger.info(
            "Iteration %d, pruned to a sparsity of %.4f: %d of %d weights are left%s", iteration, report.sparsity,
            report.prunable - report.zeros, report.prunable, f", {back} came back" if self.net.arena.soft else "",
        )  # fmt: skip

    def _scores(self) -> list[Weights]:
        """What magnitudes are ranked: of the weights behind the masks, if they live on, smaller where pruned now."""
        if not self.net.arena.soft:
            return prunable_weights(self.net)
        arena, less = self.net.arena, 1 / (1 + self.param.margin)
        out = []
        for weights, blob in zip(prunable_weights(self.net), self.net.prunable(), strict=True):
            score = np.abs(arena.piece(arena.master, blob).read())
            if weights.mask is not None:
                score[~weights.mask] *= less
            out.append(Weights(weights.name, score))
        return out

    def _unmask(self) -> None:
        """Layers read what lies behind the masks as they are now."""
        net = self.net
        args = (net.arena_memory("mask"), net.arena_memory("master"), net.arena_memory("working"))
        net.backend.run("masked_copy", net.arena.size, *args)
