"""Pruning while training, as a solver file's ``pruning_param`` says."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import ParameterError
from .arguments import decimal, pruning_arguments
from .choice import Weights, smallest
from .net import prunable_weights, set_masks, sparsity_of_net
from .schedule import Schedule
from .scores import first_order_scores, magnitude_scores, random_scores, second_order_scores
from .training_channels import WINDOW, ChannelPruner

if TYPE_CHECKING:
    from ..net import Net
    from .report import SparsityReport

logger = logging.getLogger("protocaffe.solver")


class Pruner:
    """Prunes ``net`` at the schedule's iterations, when their gradients are there and before their update.

    With ``mode: HARD`` what is pruned stays so. With SOFT it learns on behind its mask, from the gradients that the net
    without it has, and comes back when its score exceeds those that are kept by ``margin`` (pruning and splicing: Guo,
    Yao and Chen 2016, Dynamic Network Surgery, arXiv 1608.04493), at most ``regrow`` of a layer's kept ones at a time;
    masks are chosen anew at every step of the schedule, and from end_step on at the same pace until freeze_step, when
    what is pruned is gone.

    Scores are those of scores.py: FIRST_ORDER takes the gradient of the iteration, SECOND_ORDER the mean of the squared
    gradients since the last step, TAYLOR_CHANNELS what the iterations since the last step show, the last ten at
    most. What is chosen depends on weights, gradients, number of the iteration and seed alone, so that a resumed run
    chooses what an uninterrupted one does. Raises ParameterError for what cannot be.
    """

    def __init__(self, net: Net, param: Any, max_iter: int) -> None:
        self.net = net
        self.param = param
        self.arguments = pruning_arguments(param, [weights.name for weights in prunable_weights(net)])
        self.schedule = Schedule.of(param, max_iter)
        self.soft = param.mode == param.SOFT
        self.freeze = self._freeze(max_iter)
        last = self.freeze if self.soft else self.schedule.steps[-1]
        if max_iter and last >= max_iter:
            logger.warning(
                "pruning_param: the run ends at iteration %d, before its last step at %d: it prunes less than asked",
                max_iter, last,
            )  # fmt: skip
        self.channels = self._channels()
        #: sums of squared gradients since the last step, and of how many iterations
        self.squares = net.backend.empty((net.arena.size,)) if self.arguments.method == "second-order" else None
        self.summed = 0
        #: (iteration, what was left) of each step of this run
        self.history: list[tuple[int, SparsityReport]] = []

    def _freeze(self, max_iter: int) -> int:
        param, end = self.param, self.schedule.steps[-1]
        for name in ("freeze_step", "margin", "regrow"):
            if param.HasField(name) and not self.soft:
                raise ParameterError(f"pruning_param: {name} is for mode: SOFT")
        freeze = param.freeze_step if param.HasField("freeze_step") else max(end, (end + max_iter) // 2)
        if self.soft and freeze < end:
            raise ParameterError(f"pruning_param: freeze_step must not be before end_step {end}, got {freeze}")
        if not 0 <= param.margin < 10:
            raise ParameterError(f"pruning_param: margin must be from 0 to 10, got {param.margin:g}")
        if not 0 <= param.regrow <= 1:
            raise ParameterError(f"pruning_param: regrow must be from 0 to 1, got {param.regrow:g}")
        return int(freeze)

    def _channels(self) -> ChannelPruner | None:
        if not self.arguments.whole_outputs:
            return None
        if self.soft:
            raise ParameterError(
                f"pruning_param: mode: SOFT is for single weights: a channel that method "
                f"{self.param.Method.Name(self.param.method)} has pruned gets no gradients that could bring it back"
            )
        return ChannelPruner(self.net, self.arguments)

    def prepare(self, iteration: int) -> None:
        """To be called before the passes of ``iteration``."""
        if self.channels is not None:
            coming = range(iteration, iteration + WINDOW)
            self.channels.prepare(any(self.schedule.progress(i) is not None for i in coming))

    def prune(self, iteration: int, seed: int) -> None:
        """Prune, if ``iteration`` is one of the schedule's."""
        net = self.net
        if self.channels is not None:
            self.channels.gather()
        if self.squares is not None and iteration <= self.freeze:
            net.backend.run("square_add", net.arena.size, net.arena_memory("diff"), self.squares)
            self.summed += 1
        progress = self.schedule.progress(iteration)
        if progress is None and self._splices(iteration):
            progress = 1.0
        if progress is not None:
            self._choose(progress, iteration, seed)
        if self.soft and iteration == self.freeze:
            net.arena.harden()
            logger.info("Iteration %d, the masks are frozen: what is pruned is gone", iteration)

    def _splices(self, iteration: int) -> bool:
        """Whether masks are chosen once more after the schedule's end."""
        schedule = self.schedule
        due = (iteration - schedule.begin) % schedule.every == 0 or iteration == self.freeze
        return self.soft and schedule.steps[-1] < iteration <= self.freeze and due

    def _choose(self, progress: float, iteration: int, seed: int) -> None:
        schedule, net = self.schedule, self.net
        if self.soft and not net.arena.soft:
            net.arena.soften()
        arguments = self.arguments
        if arguments.sparsity is not None:
            own = {name: schedule.share(progress, share) for name, share in arguments.layer_sparsity.items()}
            arguments = replace(arguments, sparsity=schedule.share(progress), layer_sparsity=own)
        if self.channels is not None:
            left, count = self.channels.choose(arguments)
            report = sparsity_of_net(net)
            self.history.append((iteration, report))
            logger.info(
                "Iteration %d, pruned to a sparsity of %.4f: %d of %d outputs are left", iteration, report.sparsity,
                left, count,
            )  # fmt: skip
            return
        weights = self._weights()
        before = [w.alive.copy() for w in weights]
        scores = self._scores(weights, seed)
        if net.arena.soft:
            less = 1 / (1 + self.param.margin)
            scores = [np.where(alive, score, score * less) for alive, score in zip(before, scores, strict=True)]
            weights = [
                w if w.name in arguments.exclude else w._replace(mask=w.alive | self._may_return(w.alive, score))
                for w, score in zip(weights, scores, strict=True)
            ]
        masks = arguments.masks(weights, scores)
        set_masks(net, masks)
        if net.arena.soft:
            self._unmask()
        self.history.append((iteration, sparsity_of_net(net)))
        back = sum(int(np.count_nonzero(new & ~old)) for new, old in zip(masks, before, strict=True))
        left, count = sum(int(np.count_nonzero(mask)) for mask in masks), sum(mask.size for mask in masks)
        logger.info(
            "Iteration %d, pruned to a sparsity of %.4f: %d of %d weights are left%s", iteration, 1 - left / count,
            left, count, f", {back} came back" if net.arena.soft else "",
        )  # fmt: skip

    def _may_return(self, alive: np.ndarray, score: np.ndarray) -> np.ndarray:
        """Which pruned weights of a layer may come back now, the best of them.

        Each was trained as if it came back alone: many at once overshoot together, and the net is lost.
        """
        regrow = decimal(self.param.regrow)
        count = math.ceil(regrow * max(1, int(np.count_nonzero(alive))))
        pruned = np.where(alive, -np.inf, score).ravel()
        return ~smallest(pruned, pruned.size - count).reshape(alive.shape) & ~alive

    def _weights(self) -> list[Weights]:
        """What is scored: the weights, those behind the masks if they live on."""
        weights, arena = prunable_weights(self.net), self.net.arena
        if not arena.soft:
            return weights
        pairs = zip(weights, self.net.prunable(), strict=True)
        return [w._replace(values=arena.piece(arena.master, blob).read()) for w, blob in pairs]

    def _scores(self, weights: Sequence[Weights], seed: int) -> list[np.ndarray]:
        method, arena, blobs = self.arguments.method, self.net.arena, self.net.prunable()
        if method == "magnitude":
            return magnitude_scores(weights)
        if method == "random":
            return random_scores(weights, seed)
        if self.squares is None:
            return first_order_scores(weights, [arena.piece(arena.diff, blob).read() for blob in blobs])
        squares = [arena.piece(self.squares.storage, blob).read() / max(1, self.summed) for blob in blobs]
        self.squares.assign(np.zeros(arena.size))
        self.summed = 0
        return second_order_scores(weights, squares)

    def _unmask(self) -> None:
        """Layers read what lies behind the masks as they are now."""
        net = self.net
        if net.arena.mask is None:
            return
        args = (net.arena_memory("mask"), net.arena_memory("master"), net.arena_memory("working"))
        net.backend.run("masked_copy", net.arena.size, *args)
