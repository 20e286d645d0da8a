"""Nesterov: Nesterov's accelerated gradient."""

from __future__ import annotations

from ..solver import Solver


class NesterovSolver(Solver):
    """h' = momentum h + lr g; w -= (1 + momentum) h' - momentum h.

    Source: Nesterov 1983; Sutskever et al. 2013; Caffe, src/caffe/solvers/nesterov_solver.cpp.
    """

    type_name = "Nesterov"
    kernel = "nesterov_update"
