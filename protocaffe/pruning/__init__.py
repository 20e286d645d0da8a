"""Pruning: which weights go (criteria) and what is left (reports): pure functions on arrays, an adapter for nets."""

from protocaffe.pruning.magnitude import Weights, magnitude_masks
from protocaffe.pruning.net import all_parameters, prunable_weights, prune_net, set_masks, sparsity_of_net
from protocaffe.pruning.recalibrate import recalibrate
from protocaffe.pruning.report import LayerSparsity, SparsityReport, sparsity_report
from protocaffe.pruning.shrink import ShrinkPlan, apply, edit_net, plan_shrink

__all__ = [
    "LayerSparsity",
    "ShrinkPlan",
    "SparsityReport",
    "Weights",
    "all_parameters",
    "apply",
    "edit_net",
    "magnitude_masks",
    "plan_shrink",
    "prunable_weights",
    "prune_net",
    "recalibrate",
    "set_masks",
    "sparsity_of_net",
    "sparsity_report",
]
