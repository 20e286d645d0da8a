"""How much is pruned when: the schedule of a solver's ``pruning_param``.

Between begin_step b and end_step e the share of pruned weights rises from s_i = initial_sparsity to s_f = sparsity.
Every frequency-th iteration t, and e itself, prunes to s_f + (s_i - s_f) (1 - (t - b) / (e - b))^3 with CUBIC (Zhu and
Gupta 2017, arXiv 1710.01878), to s_i + (s_f - s_i) (t - b) / (e - b) with LINEAR; ONE_SHOT prunes to s_f at b.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..errors import ParameterError
from .arguments import decimal


@dataclass(frozen=True)
class Schedule:
    """``begin``, ``end`` and ``every`` are iterations, ``first`` and ``last`` shares of pruned weights."""

    kind: str
    begin: int
    end: int
    every: int
    first: float
    last: float

    @classmethod
    def of(cls, param: Any, max_iter: int) -> Schedule:
        """The schedule of a PruningParameter whose shares were checked (arguments.py); n:m comes in one shot.

        Raises ParameterError for what cannot be.
        """
        kind = param.Schedule.Name(param.schedule)
        end = param.end_step if param.HasField("end_step") else max(param.begin_step, max_iter * 3 // 4)
        if param.HasField("n"):
            kind, end = "ONE_SHOT", param.begin_step
        first, last = decimal(param.initial_sparsity), decimal(param.sparsity)
        if first > last:
            raise ParameterError(f"pruning_param: initial_sparsity {first:g} is more than sparsity {last:g}")
        if param.frequency < 1:
            raise ParameterError(f"pruning_param: frequency must be at least 1, got {param.frequency}")
        if param.begin_step < 0 or end < param.begin_step:
            raise ParameterError(
                "pruning_param: begin_step must be at least 0 and end_step not before it, "
                f"got {param.begin_step} and {end}"
            )
        return cls(kind, param.begin_step, end, param.frequency, first, last)

    @property
    def steps(self) -> list[int]:
        """Iterations at which weights are pruned.

        >>> Schedule("CUBIC", 100, 350, 100, 0, 0.9).steps
        [100, 200, 300, 350]
        """
        if self.kind == "ONE_SHOT":
            return [self.begin]
        regular = list(range(self.begin, self.end + 1, self.every))
        return regular if regular[-1] == self.end else [*regular, self.end]

    def progress(self, iteration: int) -> float | None:
        """How far the share has come at ``iteration``, from 0 to 1; None where nothing is to be done.

        >>> schedule = Schedule("CUBIC", 0, 400, 100, 0, 0.8)
        >>> [schedule.progress(t) for t in (0, 100, 200, 400, 150, 500)]
        [0.0, 0.578125, 0.875, 1.0, None, None]
        """
        if not self.begin <= iteration <= self.end:
            return None
        if self.kind == "ONE_SHOT":
            return 1.0 if iteration == self.begin else None
        if (iteration - self.begin) % self.every and iteration != self.end:
            return None
        done = (iteration - self.begin) / (self.end - self.begin) if self.end > self.begin else 1.0
        return 1 - (1 - done) ** 3 if self.kind == "CUBIC" else done

    def share(self, progress: float, last: float | None = None) -> float:
        """The share to prune to, from ``first`` to ``last`` (the schedule's own unless given).

        >>> round(Schedule("LINEAR", 0, 400, 100, 0.1, 0.9).share(0.5), 6)
        0.5
        """
        last = self.last if last is None else last
        return self.first + (last - self.first) * progress if last > self.first else last
