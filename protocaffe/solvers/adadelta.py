"""AdaDelta: updates scaled by the size of recent updates."""

from __future__ import annotations

from ..solver import Solver


class AdaDeltaSolver(Solver):
    """h = momentum h + (1 - momentum) g^2; u = g sqrt((h2 + delta) / (h + delta)); h2 = momentum h2 + (1 - momentum)
    u^2; w -= lr u.

    Source: Zeiler 2012; Caffe, src/caffe/solvers/adadelta_solver.cpp.
    """

    type_name = "AdaDelta"
    kernel = "adadelta_update"
    histories = 2
