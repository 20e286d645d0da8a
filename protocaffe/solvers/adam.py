"""Adam: first and second moments of the gradient."""

from __future__ import annotations

import math

from ..errors import ParameterError
from ..solver import Solver


class AdamSolver(Solver):
    """h = momentum h + (1 - momentum) g; h2 = momentum2 h2 + (1 - momentum2) g^2; w -= lr c h / (sqrt(h2) + delta).

    c = sqrt(1 - momentum2^t) / (1 - momentum^t) at iteration t, counted from 1.

    Source: Kingma and Ba 2015; Caffe, src/caffe/solvers/adam_solver.cpp.
    """

    type_name = "Adam"
    kernel = "adam_update"
    histories = 2

    def adam_correction(self) -> float:
        t = self.iter + 1
        return math.sqrt(1 - self.param.momentum2**t) / (1 - self.param.momentum**t)

    def _check_rule(self) -> None:
        p = self.param
        if not 0 <= p.momentum < 1 or not 0 <= p.momentum2 < 1:
            self.fail(
                ParameterError,
                f"momentum and momentum2 must be at least 0 and below 1, got {p.momentum}, {p.momentum2}",
            )
