"""What a person at a terminal sees during long work: a bar. Everywhere else Caffe's log lines tell (glog.py)."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


def on_terminal() -> bool:
    """True when standard error is a terminal: only then is there a bar."""
    return sys.stderr.isatty()


def clock(seconds: float) -> str:
    """A duration for people.

    >>> clock(42), clock(75), clock(7300)
    ('42 s', '1:15', '2:01:40')
    """
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    return f"{minutes}:{rest:02d}" if minutes < 60 else f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"


@contextmanager
def bar(title: str, total: int, show: bool | None = None) -> Iterator[Callable[[int, str], None]]:
    """A progress bar on a terminal; yields ``update(done, text)``, which does nothing elsewhere.

    The time left is reckoned from the speed since the bar began.
    """
    if not (on_terminal() if show is None else show):
        yield lambda done, text: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[text]}"))
    start, first, shown = time.monotonic(), None, 0.0
    with Progress(*columns, console=console) as progress:
        task = progress.add_task(title, total=total, text="")

        def update(done: int, text: str) -> None:
            nonlocal first, shown
            now = time.monotonic()
            first = done if first is None else first
            if now - shown < 0.1 and done < total:
                return
            shown = now
            left = f"{clock((now - start) * (total - done) / (done - first))} left" if total > done > first else ""
            progress.update(task, completed=done, text=", ".join(part for part in (text, left) if part))

        yield update


@contextmanager
def training(solver: Any, title: str) -> Iterator[None]:
    """A bar for a solver's run: loss, accuracy of the last test, images per second, time left."""
    if not on_terminal():
        yield
        return
    from protocaffe.scoring import number

    images = images_per_iteration(solver)
    start, first, shown = time.monotonic(), solver.iter, 0.0
    with bar(title, solver.param.max_iter) as update:

        def report() -> None:
            nonlocal shown
            now = time.monotonic()
            if now - shown < 0.1 and solver.iter < solver.param.max_iter:
                return  # the loss is not for free: reading it waits for the device
            shown, seconds = now, now - start
            speed = (solver.iter - first) * images / seconds if seconds else 0.0
            parts = [f"loss {number(solver.smoothed_loss)}", *scores(solver), f"{speed:,.0f} images/s"]
            update(solver.iter, ", ".join(parts))

        solver.add_callback(lambda: None, report)
        yield
        report()


def images_per_iteration(solver: Any) -> int:
    """Items that one iteration sees: the batch of the first source layer times iter_size."""
    net = solver.net
    for layer in net.layers:
        tops = net.top_names[layer.name]
        if layer.is_source and tops:
            return net.blobs[tops[0]].shape[0] * max(1, solver.param.iter_size)
    return 0


def scores(solver: Any) -> list[str]:
    """The accuracies of the last test, as text."""
    from protocaffe.scoring import accuracies

    return [
        f"{name} {float(result[name].mean()):.4f}"
        for net, result in zip(solver.test_nets, solver.test_scores, strict=True)
        for name in accuracies(net)
        if name in result
    ]
