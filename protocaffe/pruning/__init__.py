"""Pruning: which weights go (criteria) and what is left (reports): pure functions on arrays, an adapter for nets."""

from protocaffe.pruning.arguments import PruningArguments, pruning_arguments
from protocaffe.pruning.choice import Weights, choose_masks, erk_densities
from protocaffe.pruning.criteria import net_scores, prune_by, prune_channels
from protocaffe.pruning.dead import clear_dead
from protocaffe.pruning.magnitude import magnitude_masks
from protocaffe.pruning.n_of_m import n_of_m_masks
from protocaffe.pruning.net import all_parameters, prunable_weights, prune_net, set_masks, sparsity_of_net
from protocaffe.pruning.outputs import channel_masks, choose_channels
from protocaffe.pruning.recalibrate import recalibrate
from protocaffe.pruning.report import LayerSparsity, SparsityReport, sparsity_report
from protocaffe.pruning.shrink import ShrinkPlan, apply, edit_net, plan_shrink

__all__ = [
    "LayerSparsity",
    "PruningArguments",
    "ShrinkPlan",
    "SparsityReport",
    "Weights",
    "all_parameters",
    "apply",
    "channel_masks",
    "choose_channels",
    "choose_masks",
    "clear_dead",
    "edit_net",
    "erk_densities",
    "magnitude_masks",
    "n_of_m_masks",
    "net_scores",
    "plan_shrink",
    "prunable_weights",
    "prune_by",
    "prune_channels",
    "prune_net",
    "pruning_arguments",
    "recalibrate",
    "set_masks",
    "sparsity_of_net",
    "sparsity_report",
]
