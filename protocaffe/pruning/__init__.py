"""Pruning: which weights go (criteria) and what is left (reports): pure functions on arrays, an adapter for nets."""

from protocaffe.pruning.arguments import PruningArguments, pruning_arguments
from protocaffe.pruning.choice import Weights, choose_masks, erk_densities
from protocaffe.pruning.criteria import net_scores, prune_by, prune_channels
from protocaffe.pruning.magnitude import magnitude_masks
from protocaffe.pruning.n_of_m import n_of_m_masks
from protocaffe.pruning.net import all_parameters, prunable_weights, prune_net, set_masks, sparsity_of_net
from protocaffe.pruning.outputs import channel_masks, choose_channels
from protocaffe.pruning.report import LayerSparsity, SparsityReport, sparsity_report

__all__ = [
    "LayerSparsity",
    "PruningArguments",
    "SparsityReport",
    "Weights",
    "all_parameters",
    "channel_masks",
    "choose_channels",
    "choose_masks",
    "erk_densities",
    "magnitude_masks",
    "n_of_m_masks",
    "net_scores",
    "prunable_weights",
    "prune_by",
    "prune_channels",
    "prune_net",
    "pruning_arguments",
    "set_masks",
    "sparsity_of_net",
    "sparsity_report",
]
