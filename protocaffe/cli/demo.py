"""``protocaffe demo``: the whole way once: fetch MNIST, train LeNet, prune it, fine-tune it under masks, test it."""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import click

from protocaffe.cli.common import CaffeCommand, stdout_table
from protocaffe.cli.data import reporting

MODEL = "models/lenet/train_val.prototxt"
SOLVER = "models/lenet/solver.prototxt"
DATA = "data/mnist"


#: half of what LeNet is trained with: enough to move the weights that are left
FINETUNE_LR = 0.01


class Plan(NamedTuple):
    """How long to train and to fine-tune, and how many batches of 100 make the test set."""

    train: int | None
    finetune: int
    test_batches: int


FULL = Plan(train=None, finetune=1500, test_batches=100)
OFFLINE = Plan(train=500, finetune=200, test_batches=5)


class Result(NamedTuple):
    """One row of the table."""

    title: str
    accuracy: float
    sparsity: float
    nonzeros: int
    seconds: float


@contextmanager
def working_directory(folder: Path) -> Iterator[None]:
    """Be in ``folder`` for a while: the paths in Caffe's files are relative to the working directory."""
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


def say(text: str) -> None:
    """A step, on standard output."""
    click.echo(f"\n{text}")
    sys.stdout.flush()


def prepare(folder: Path, source: str | None, offline: bool) -> None:
    """Put LeNet's files and the LMDBs into ``folder``, laid out as the prototxts expect them."""
    from protocaffe.data import datasets
    from protocaffe.resources import resource_path

    shutil.copytree(resource_path("models") / "lenet", folder / "models/lenet", dirs_exist_ok=True,
                    ignore=shutil.ignore_patterns("*.caffemodel", "*.solverstate"))  # fmt: skip
    with reporting() as report:
        if offline:
            datasets.offline_sample(folder / DATA, report)
        else:
            datasets.prepare("mnist", folder / DATA, source, report)


def evaluate(title: str, weights: str, batches: int, start: float) -> Result:
    """Test a weights file on the test digits."""
    from protocaffe.cli.session import open_net
    from protocaffe.cli.test import scores
    from protocaffe.pruning import sparsity_of_net

    net = open_net(MODEL, "TEST", weights)
    accuracy = float(scores(net, batches)["accuracy"])
    report = sparsity_of_net(net)
    net.close()
    result = Result(title, accuracy, report.sparsity, report.nonzeros, time.perf_counter() - start)
    click.echo(f"{title}: accuracy {accuracy:.4f}, sparsity {report.sparsity:.4f}")
    return result


def train(weights: str | None, iterations: int | None, title: str, output: str) -> None:
    """Train LeNet (from ``weights``, under their masks, if given) and write the result."""
    from protocaffe.cli.finetune import finetune
    from protocaffe.cli.glog import log_lines
    from protocaffe.cli.session import Job, open_solver
    from protocaffe.cli.train import run

    job = Job(SOLVER, weights=weights, iterations=iterations, cpu=True, output=output)
    if weights:
        job.base_lr = FINETUNE_LR
        finetune(job).close()
        return
    with log_lines():
        solver = open_solver(job)
        run(solver, title)
        solver.net.save(output)
        solver.close()


def prune(weights: str, sparsity: float, output: str) -> None:
    """Prune LeNet by global magnitude."""
    from protocaffe.cli.session import open_net
    from protocaffe.pruning import prune_net

    net = open_net(MODEL, "TEST", weights)
    for line in prune_net(net, sparsity).lines():
        click.echo(line)
    net.save(output)
    net.close()


def run_steps(plan: Plan, sparsity: float) -> list[Result]:
    """Train, prune, fine-tune, test; the current directory is the demo's."""
    dense, pruned, tuned = (f"lenet_{what}.caffemodel" for what in ("dense", "pruned", "finetuned"))
    length = f" --iterations {plan.train}" if plan.train else ""
    say(f"Train: protocaffe train --solver {SOLVER}{length} --output {dense}")
    start = time.perf_counter()
    train(None, plan.train, "train", dense)
    results = [evaluate("dense", dense, plan.test_batches, start)]

    say(f"Prune: protocaffe prune --model {MODEL} --weights {dense} --sparsity {sparsity:g} --output {pruned}")
    start = time.perf_counter()
    prune(dense, sparsity, pruned)
    results.append(evaluate("pruned", pruned, plan.test_batches, start))

    options = f"--weights {pruned} --base-lr {FINETUNE_LR} --iterations {plan.finetune} --output {tuned}"
    say(f"Fine-tune: protocaffe finetune --solver {SOLVER} {options}")
    start = time.perf_counter()
    train(pruned, plan.finetune, "fine-tune", tuned)
    results.append(evaluate("fine-tuned", tuned, plan.test_batches, start))
    return results


def table(results: list[Result], digits: int) -> None:
    """Print the results for people."""
    columns = [("LeNet", "left"), (f"accuracy on {digits:,} test digits", "right"), ("sparsity", "right"),
               ("non-zero parameters", "right"), ("seconds", "right")]  # fmt: skip
    with stdout_table("", columns) as out:
        for r in results:
            out.add_row(r.title, f"{r.accuracy:.2%}", f"{r.sparsity:.2%}", f"{r.nonzeros:,}", f"{r.seconds:.1f}")


def summary(results: list[Result], seconds: float, offline: bool) -> dict[str, Any]:
    """The line of JSON."""
    dense, pruned, tuned = results
    line = {
        "dense_accuracy": round(dense.accuracy, 4),
        "sparsity": round(tuned.sparsity, 6),
        "pruned_accuracy": round(pruned.accuracy, 4),
        "finetuned_accuracy": round(tuned.accuracy, 4),
        "seconds": round(seconds, 1),
    }
    return line | ({"data": "shipped sample"} if offline else {})


@click.command("demo", cls=CaffeCommand, short_help="Train, prune and fine-tune LeNet on MNIST, start to finish.")
@click.option("--folder", default="protocaffe_demo", show_default=True, help="Where data, models and weights go.")
@click.option("--source", metavar="FOLDER", help="Take MNIST's four IDX files from here instead of fetching them.")
@click.option("--offline", is_flag=True, help="Use the small sample of MNIST that comes with the package; no network.")
@click.option("--sparsity", type=float, default=0.9, show_default=True, help="Share of the weights to prune.")
@click.option("--iterations", type=click.IntRange(min=1), help="Training iterations, in place of the solver file's.")
@click.option("--finetune-iterations", type=click.IntRange(min=1), help="Fine-tuning iterations.")
def command(
    folder: str, source: str | None, offline: bool, sparsity: float,
    iterations: int | None, finetune_iterations: int | None,
) -> None:  # fmt: skip
    """Fetch MNIST, train LeNet, prune it, fine-tune it under its masks, and test it after each step.

    The last line is JSON. Each step prints the command that does the same; they run inside the demo's folder.
    """
    start = time.perf_counter()
    default = OFFLINE if offline else FULL
    plan = Plan(iterations or default.train, finetune_iterations or default.finetune, default.test_batches)
    path = Path(folder + "_offline" if offline and folder == "protocaffe_demo" else folder)
    say(f"Data: {path / DATA}")
    if offline:
        click.echo("Offline: the shipped sample (2,000 training and 500 test digits) stands in for MNIST;")
        click.echo("its accuracies say that everything works, not how well LeNet does on the 10,000 test digits.")
    prepare(path, source and str(Path(source).resolve()), offline)
    with working_directory(path):
        results = run_steps(plan, sparsity)
    table(results, 100 * plan.test_batches)
    click.echo(f"Files are in {path}.")
    click.echo(json.dumps(summary(results, time.perf_counter() - start, offline)))
