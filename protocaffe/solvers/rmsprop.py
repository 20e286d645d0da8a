"""RMSProp: a rate per weight, from its recent gradients."""

from __future__ import annotations

from ..errors import ParameterError
from ..solver import Solver


class RMSPropSolver(Solver):
    """h = rms_decay h + (1 - rms_decay) g^2; w -= lr g / (sqrt(h) + delta).

    Source: Tieleman and Hinton 2012; Caffe, src/caffe/solvers/rmsprop_solver.cpp.
    """

    type_name = "RMSProp"
    kernel = "rmsprop_update"

    def _check_rule(self) -> None:
        if self.param.momentum:
            self.fail(ParameterError, f"momentum cannot be used with RMSProp, got {self.param.momentum}")
        if not 0 <= self.param.rms_decay < 1:
            self.fail(ParameterError, f"rms_decay must be at least 0 and below 1, got {self.param.rms_decay}")

    def second_decay(self) -> float:
        return self.param.rms_decay
