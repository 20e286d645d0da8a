"""Pruning while training, as a solver file's ``pruning_param`` says."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from ..errors import ParameterError, did_you_mean
from .magnitude import magnitude_masks
from .net import prunable_weights, set_masks, sparsity_of_net
from .schedule import Schedule

if TYPE_CHECKING:
    from ..net import Net

logger = logging.getLogger("protocaffe.solver")


class Pruner:
    """Prunes ``net`` at the schedule's iterations, when their gradients are there and before their update.

    What is pruned stays so, in snapshots and after a resume too. What is chosen at an iteration depends on its weights,
    gradients and number alone, so that a resumed run chooses what an uninterrupted one does.

    Raises ParameterError for what cannot be.
    """

    def __init__(self, net: Net, param: Any, max_iter: int) -> None:
        self.net = net
        self.param = param
        self.schedule = Schedule.of(param, max_iter)
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

    def prune(self, iteration: int) -> None:
        """Prune, if ``iteration`` is one of the schedule's."""
        progress = self.schedule.progress(iteration)
        if progress is None:
            return
        weights, param, schedule = prunable_weights(self.net), self.param, self.schedule
        own = {name: schedule.share(progress, share) if share else 0.0 for name, share in self._shares.items()}
        min_keep = param.min_keep if param.HasField("min_keep") else None
        scope = param.Scope.Name(param.scope).lower()
        set_masks(self.net, magnitude_masks(weights, schedule.share(progress), scope, own, min_keep))
        report = sparsity_of_net(self.net)
        logger.info(
            "Iteration %d, pruned to a sparsity of %.4f: %d of %d weights are left", iteration, report.sparsity,
            report.prunable - report.zeros, report.prunable,
        )  # fmt: skip
