"""Pruning by rounds until a target: prune a part of what is left, fine-tune, score; go on, or go back with less.

Each round fine-tunes from the first learning rate on (rewinding the learning rate: Renda et al. 2020, arXiv
2003.02389). What is scored should be a validation split: a search that looks at test data fits them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from ..errors import ParameterError

#: share of the remaining weights that a round prunes at first, and the least that is worth a round
FIRST_PART, LEAST_PART = 0.3, 0.03


@dataclass(frozen=True)
class Round:
    """What a round came to. ``kept``: it is within the bounds, and later rounds start from it."""

    number: int
    sparsity: float
    accuracy: float
    kept: bool


def search(
    attempt: Callable[[float], float],
    keep: Callable[[], None],
    baseline: float,
    sparsity: float = 0.0,
    target: float | None = None,
    max_drop: float | None = None,
    part: float = FIRST_PART,
    least: float = LEAST_PART,
) -> Iterator[Round]:
    """Yield each round of a search for the sparsest net that is accurate enough.

    Parameters
    ----------
    attempt : prunes the best net so far to a sparsity, fine-tunes it and returns its accuracy
    keep : makes what was attempted last the best net so far
    baseline : accuracy of the net as it comes, whose sparsity is ``sparsity``
    target : stop at this sparsity; without ``max_drop`` it is reached whatever the accuracy
    max_drop : the accuracy may fall so far below the baseline (a share: 0.005 is half a point)
    part : share of the remaining weights that a round prunes; halved after a round that was not kept, until it is below
        ``least``

    Raises ParameterError unless target or max_drop is given, and for shares that cannot be.
    """
    _check(target, max_drop, part)
    best, number = sparsity, 0
    while (target is None or best < target) and part >= least:
        number += 1
        wanted = 1 - (1 - best) * (1 - part)
        if target is not None and wanted > target - (1 - target) * least:
            wanted = target  # a last round for the crumbs would be a waste
        accuracy = attempt(wanted)
        kept = max_drop is None or accuracy >= baseline - max_drop
        if kept:
            keep()
            best = wanted
        else:
            part /= 2
        yield Round(number, wanted, accuracy, kept)


def _check(target: float | None, max_drop: float | None, part: float) -> None:
    if target is None and max_drop is None:
        raise ParameterError("pruning by rounds needs a target sparsity, a largest drop of accuracy, or both")
    if target is not None and not 0 < target < 1:
        raise ParameterError(f"pruning by rounds: the target sparsity must be a share in (0, 1), got {target:g}")
    if max_drop is not None and not 0 <= max_drop < 1:
        raise ParameterError(f"pruning by rounds: the largest drop must be a share in [0, 1), got {max_drop:g}")
    if not 0 < part < 1:
        raise ParameterError(f"pruning by rounds: a round's part must be a share in (0, 1), got {part:g}")
