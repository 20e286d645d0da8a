"""SGD: stochastic gradient descent with momentum."""

from __future__ import annotations

from ..solver import Solver


class SGDSolver(Solver):
    """h = momentum h + lr g; w -= h.

    Source: Polyak 1964; Caffe, src/caffe/solvers/sgd_solver.cpp.
    """

    type_name = "SGD"
    kernel = "sgd_update"
