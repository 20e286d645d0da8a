"""What SIGINT and SIGHUP do to a run, as in Caffe: stop after a snapshot, snapshot and go on, or nothing."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def signals(solver: Any, sigint: str = "stop", sighup: str = "snapshot") -> Iterator[None]:
    """While inside, signals are noted; the solver asks for them after each iteration and test batch.

    ``sigint``, ``sighup``: "stop", "snapshot" or "none" (nothing). SIGHUP comes first when both are there.
    """
    effects = {signal.SIGHUP: sighup, signal.SIGINT: sigint}
    came: set[int] = set()

    def action() -> str | None:
        for number, effect in effects.items():
            if number in came:
                came.discard(number)
                if effect != "none":
                    return effect
        return None

    before = {number: signal.signal(number, lambda got, frame: came.add(got)) for number in effects}
    asked, solver.action = solver.action, action
    try:
        yield
    finally:
        solver.action = asked
        for number, handler in before.items():
            signal.signal(number, handler)
