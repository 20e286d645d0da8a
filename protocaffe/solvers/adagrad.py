"""AdaGrad: a rate per weight, from all its gradients."""

from __future__ import annotations

from ..errors import ParameterError
from ..solver import Solver


class AdaGradSolver(Solver):
    """h += g^2; w -= lr g / (sqrt(h) + delta).

    Source: Duchi, Hazan, Singer 2011; Caffe, src/caffe/solvers/adagrad_solver.cpp.
    """

    type_name = "AdaGrad"
    kernel = "adagrad_update"

    def _check_rule(self) -> None:
        if self.param.momentum:
            self.fail(ParameterError, f"momentum cannot be used with AdaGrad, got {self.param.momentum}")
