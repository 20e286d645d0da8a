"""``protocaffe finetune`` with a target: rounds of pruning and fine-tuning, and a table of what each came to."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import click
import numpy as np

from protocaffe.cli.glog import log_lines
from protocaffe.cli.report import Report, copied
from protocaffe.cli.session import Job, open_solver
from protocaffe.cli.train import run
from protocaffe.errors import ParameterError


def accuracy_of(solver: Any) -> float | None:
    """The first accuracy of the first test net, None where there is none."""
    from protocaffe.scoring import accuracies

    names = accuracies(solver.test_nets[0]) if solver.test_nets else []
    means = solver.test(0) if names else {}
    return float(np.ravel(means[names[0]])[0]) if means else None


class Rounds:
    """Trains, prunes and scores as `pruning.loop.search` asks for; the best net so far lies in ``job.output``."""

    def __init__(self, job: Job, scope: str) -> None:
        if not job.output:
            raise ParameterError("--target-sparsity and --max-accuracy-drop need --output: where the best net is kept")
        self.job, self.scope, self.output = job, scope, job.output
        self.solver = open_solver(job)
        self.baseline = self.score()
        self.best = copied(self.solver.net)
        self.stopped = False

    def score(self) -> float:
        """The first accuracy of the first test net."""
        if not self.solver.test_nets:
            raise ParameterError(f'"{self.job.solver}" has no test net (test_iter, test_interval): nothing to score')
        accuracy = accuracy_of(self.solver)
        if accuracy is None:
            outputs = ", ".join(self.solver.test_nets[0].outputs)
            raise ParameterError(f'the test net of "{self.job.solver}" has no accuracy among its outputs: {outputs}')
        return accuracy

    def attempt(self, sparsity: float) -> float:
        """Prune the best net, fine-tune it, and score what comes out."""
        from protocaffe.pruning import prune_net

        self.solver.close()
        self.solver = open_solver(replace(self.job, weights=None, mask_from_zeros=False, drop_masks=False))
        param = self.solver.param
        param.snapshot, param.snapshot_after_train, param.test_initialization = 0, False, False
        param.test_interval = max(1, param.max_iter) + 1  # scored once, at the end
        self.solver.net.copy_weights(self.best)
        prune_net(self.solver.net, sparsity, self.scope)
        run(self.solver, f"to {sparsity:.2%}")
        self.stopped = self.solver._stopped
        return -1.0 if self.stopped else self.score()

    def keep(self) -> None:
        """What was attempted is the best now."""
        if not self.stopped:
            self.best = copied(self.solver.net)
            self.solver.net.save(self.output)


def by_rounds(job: Job, target: float | None, max_drop: float | None, scope: str, record: str | None,
              notes: Report | None = None) -> Any:  # fmt: skip
    """Search (see pruning/loop.py); prints a line for each round and writes them all to ``record`` as JSON."""
    from protocaffe.io.files import atomic_write
    from protocaffe.pruning import sparsity_of_net
    from protocaffe.pruning.loop import search

    lines: list[dict[str, Any]] = []
    with log_lines():
        work = Rounds(job, scope)
        start = sparsity_of_net(work.solver.net).sparsity
        notes = notes or Report(None)
        notes.before(work.solver.net, job.weights or "", lambda: work.baseline)
        click.echo(f"the net as it comes: sparsity {start:.2%}, accuracy {work.baseline:.4f}")
        for done in search(work.attempt, work.keep, work.baseline, start, target, max_drop):
            if work.stopped:
                click.echo(f"stopped in round {done.number}; the best net so far stays")
                break
            report = sparsity_of_net(work.solver.net)
            lines.append({
                "round": done.number, "sparsity": report.sparsity, "nonzeros": report.nonzeros,
                "parameters": report.parameters, "accuracy": done.accuracy, "kept": done.kept,
            })  # fmt: skip
            notes.round(done.number, report, done.accuracy, done.kept)
            what = "kept" if done.kept else "too much: once more with half of it"
            click.echo(
                f"round {done.number}: sparsity {report.sparsity:.2%}, {report.nonzeros:,} of {report.parameters:,} "
                f"parameters ({report.ratio:.1f}x fewer), accuracy {done.accuracy:.4f}: {what}"
            )
            if record:
                with atomic_write(record) as file:
                    text = json.dumps({"baseline": work.baseline, "rounds": lines}, indent=1) + "\n"
                    file.write(text.encode())
    return best_of(work)


def best_of(work: Rounds) -> Any:
    """The net with the best weights in it; written if no round did."""
    work.solver.net.copy_weights(work.best, keep_masks=False)
    work.solver.net.save(work.output)
    return work.solver


def options(command: Any) -> Any:
    """The options of a search, for a click command."""
    more: Sequence[Any] = (
        click.option("--target-sparsity", type=float, help="Prune and fine-tune by rounds up to this share of zeros."),
        click.option("--max-accuracy-drop", type=float, metavar="SHARE",
                     help="Prune and fine-tune by rounds for as long as the first test net's accuracy falls by no more "
                     "than this (0.005: half a point). Let that net read a validation split."),
        click.option("--scope", type=click.Choice(["global", "uniform"]), default="global", show_default=True,
                     help="With rounds: rank all layers' weights together, or take the same share of each."),
        click.option("--record", metavar="FILE", help="With rounds: write what each came to here (JSON)."),
    )  # fmt: skip
    for option in reversed(more):
        command = option(command)
    return command
