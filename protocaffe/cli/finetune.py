"""``protocaffe finetune``: train from weights, under the masks stored with them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from protocaffe.cli import rounds
from protocaffe.cli.common import CaffeCommand, device_options, mask_options, state_options
from protocaffe.cli.glog import log_lines
from protocaffe.cli.report import Report, report_options
from protocaffe.cli.session import Job, open_solver
from protocaffe.cli.train import EFFECTS, run
from protocaffe.lr_policies import learning_rate
from protocaffe.scoring import number


def announcement(solver: Any, job: Job) -> str:
    """At which learning rate the run starts, and where that comes from."""
    rate, _ = learning_rate(solver.param, solver.iter, solver.current_step)
    source = "--base-lr" if job.base_lr is not None else f"base_lr of {job.solver}"
    schedule = f"policy {solver.param.lr_policy} over {solver.param.max_iter} iterations"
    return f"fine-tuning starts at learning rate {number(rate)} ({source}; {schedule})"


def finetune(job: Job, sigint: str = "stop", sighup: str = "snapshot", notes: Report | None = None) -> Any:
    """Fine-tune as asked for; returns the solver after its last iteration."""
    from protocaffe.pruning import sparsity_of_net

    job.suffix = "_finetuned"
    notes = notes or Report(None)
    with log_lines():
        solver = open_solver(job)
        report = sparsity_of_net(solver.net)
        masked = any(blob.mask is not None for blob in solver.net.prunable())
        click.echo(announcement(solver, job))
        click.echo(
            f"masks keep {report.zeros:,} of {report.prunable:,} prunable weights at zero ({report.sparsity:.2%})"
            if masked
            else f"{job.weights} has no masks: every weight trains ('protocaffe prune' makes masks)"
        )
        shared = sum(blob.values.tied for blob in solver.net.learnable_params)
        if shared:
            click.echo(f"{shared} code books are tuned: weights that share a value go on sharing it")
        notes.before(solver.net, job.weights or "", lambda: rounds.accuracy_of(solver))
        run(solver, "finetune", sigint, sighup)
        if job.output:
            solver.net.save(job.output)
        notes.training(solver)
    return solver


@click.command("finetune", cls=CaffeCommand, short_help="Train from weights, under their masks.")
@click.option("--solver", required=True, metavar="FILE", help="The solver file (prototxt).")
@click.option("--weights", required=True, metavar="FILES", help="Weights (caffemodel), several separated by commas.")
@click.option("--base-lr", type=float, help="Learning rate to start at, in place of the solver file's base_lr.")
@click.option("--iterations", type=click.IntRange(min=0), help="Iterations to run, in place of max_iter.")
@click.option("--output", metavar="FILE", help="Also write the fine-tuned weights here (HDF5 if it ends in .h5).")
@state_options
@click.option("--sigint-effect", type=EFFECTS, default="stop", show_default=True, help="What Ctrl-C does.")
@click.option("--sighup-effect", type=EFFECTS, default="snapshot", show_default=True, help="What SIGHUP does.")
@rounds.options
@report_options
@mask_options
@device_options
def command(
    sigint_effect: str, sighup_effect: str, target_sparsity: float | None, max_accuracy_drop: float | None, scope: str,
    record: str | None, page: str | None, no_timing: bool, **options: Any,
) -> None:  # fmt: skip
    """Fine-tune a net under its masks: pruned weights stay exactly zero, the others learn.

    The schedule starts anew, at the solver file's base_lr unless --base-lr says otherwise: going back to a high
    learning rate serves better than going on with the last, small one (Renda et al. 2020, arXiv 2003.02389).
    Snapshots are called PREFIX_finetuned_iter_N, so that they do not replace those of the first training. A loss
    that is NaN or infinite ends the run with an error that names the first bad layer.

    With --target-sparsity or --max-accuracy-drop it prunes by magnitude, too: in rounds of pruning three tenths of
    what is left and fine-tuning, and with less where that was too much. The best net so far lies in --output.
    """
    job, notes = Job(**options), Report(page, not no_timing)
    if target_sparsity is None and max_accuracy_drop is None:
        solver = finetune(job, sigint_effect, sighup_effect, notes)
    else:
        solver = rounds.by_rounds(job, target_sparsity, max_accuracy_drop, scope, record, notes)
    from protocaffe.pruning import sparsity_of_net

    for line in sparsity_of_net(solver.net).lines()[-2:]:
        click.echo(line)
    if options["output"]:
        click.echo(f"wrote {Path(options['output'])}")
    timed = solver.test_nets[0] if solver.test_nets else None
    notes.after(solver.net, options["output"], lambda: rounds.accuracy_of(solver), timed)
