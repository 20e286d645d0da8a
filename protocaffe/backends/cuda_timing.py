"""How long calls take on the GPU, without what they cost the host: they are timed inside a captured graph."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ..errors import BackendError
from .base import Bound
from .cuda_graph import Segment

#: what a graph that is timed should take, us, and how many calls it holds at most
_TARGET, _MOST = 2000.0, 20
#: a first run longer than this times the best one's: not looked at again
_HOPELESS = 4.0
_ROUNDS = 3


def microseconds(device: Any, call: Bound) -> float:
    """What the GPU needs for ``call`` once, as work that is given to it call by call."""
    start, stop = device.driver.Event(), device.driver.Event()
    start.record(device.stream)
    call()
    stop.record(device.stream)
    stop.synchronize()
    return 1e3 * float(stop.time_since(start))


def fastest(
    device: Any,
    makers: Mapping[str, Callable[[], Bound]],
    hopeless: float = _HOPELESS,
    errors: tuple[type[Exception], ...] = (),
) -> dict[str, float]:
    """Microseconds of those calls that work and are not hopelessly slow: the least of a few rounds in turns."""
    failures: tuple[type[Exception], ...] = (BackendError, *errors)
    firsts: dict[str, float] = {}
    calls: dict[str, Bound] = {}
    for name, make in makers.items():
        try:
            call = make()
            call()  # loads what is loaded at the first use
            us = microseconds(device, call)
            if us < hopeless * min(firsts.values(), default=us):
                us = min(us, microseconds(device, call))
                calls[name] = call
            firsts[name] = us
        except failures:
            continue
    least = min(firsts.values(), default=0.0)
    calls = {name: call for name, call in calls.items() if firsts[name] <= hopeless * least}
    graphs: dict[str, tuple[Segment, int]] = {}
    for name, call in calls.items():
        count = max(1, min(_MOST, int(_TARGET / max(firsts[name], 1.0))))
        graph = Segment(device, [call] * count)
        graph.warm()
        try:
            graph()
        except failures:
            continue
        graphs[name] = graph, count
    times: dict[str, float] = {}
    for _ in range(_ROUNDS):
        for name, (graph, count) in graphs.items():
            us = microseconds(device, graph) / count
            times[name] = min(us, times.get(name, us))
    return times
