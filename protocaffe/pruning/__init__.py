"""Pruning: which weights go (criteria) and what is left (reports): pure functions on arrays, an adapter for nets."""

from protocaffe.pruning.magnitude import Weights, magnitude_masks
from protocaffe.pruning.net import all_parameters, prunable_weights, prune_net, set_masks, sparsity_of_net
from protocaffe.pruning.report import LayerSparsity, SparsityReport, sparsity_report

__all__ = [
    "LayerSparsity",
    "SparsityReport",
    "Weights",
    "all_parameters",
    "magnitude_masks",
    "prunable_weights",
    "prune_net",
    "set_masks",
    "sparsity_of_net",
    "sparsity_report",
]
