"""``protocaffe train``: Caffe's ``caffe train``."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import click

from protocaffe.cli.common import CaffeCommand, device_options, mask_options, state_options
from protocaffe.cli.glog import log_lines

if TYPE_CHECKING:
    from protocaffe.solver import Solver

EFFECTS = click.Choice(["stop", "snapshot", "none"])
log = logging.getLogger("protocaffe.caffe")


def run(solver: Solver, title: str, sigint: str = "stop", sighup: str = "snapshot") -> None:
    """Train until max_iter, with a bar on a terminal; signals do what Caffe's do."""
    from protocaffe.cli.progress import training
    from protocaffe.cli.signals import signals

    with training(solver, title), signals(solver, sigint, sighup):
        log.info("Starting Optimization")
        solver.solve()
        log.info("Optimization Done.")


@click.command("train", cls=CaffeCommand, short_help="Train a net from a solver file, or go on from a snapshot.")
@click.option("--solver", required=True, metavar="FILE", help="The solver file (prototxt).")
@click.option("--snapshot", metavar="FILE", help="Go on from this solver state (.solverstate, .solverstate.h5).")
@click.option("--weights", metavar="FILES", help="Start from these weights, several separated by commas.")
@click.option("--iterations", type=click.IntRange(min=0), help="Stop at this iteration, in place of max_iter.")
@click.option("--output", metavar="FILE", help="Also write the weights here in the end (HDF5 if it ends in .h5).")
@state_options
@click.option("--sigint-effect", type=EFFECTS, default="stop", show_default=True, help="What Ctrl-C does.")
@click.option("--sighup-effect", type=EFFECTS, default="snapshot", show_default=True, help="What SIGHUP does.")
@mask_options
@device_options
def command(sigint_effect: str, sighup_effect: str, **options: Any) -> None:
    """Train a net as the solver file says.

    Masks stored with weights or a snapshot stay in force: such a net trains masked.
    """
    from protocaffe.cli.session import Job, open_solver

    with log_lines():
        solver = open_solver(Job(**options))
        run(solver, "train", sigint_effect, sighup_effect)
        if options["output"]:
            solver.net.save(options["output"])
