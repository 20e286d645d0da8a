"""``protocaffe test``: Caffe's ``caffe test``: the output blobs' mean over a number of batches."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import click
import numpy as np

from protocaffe.cli.common import CaffeCommand, device_options, mask_options, state_options
from protocaffe.cli.glog import log_lines
from protocaffe.scoring import number

if TYPE_CHECKING:
    from collections.abc import Callable

    from protocaffe.net import Net

log = logging.getLogger("protocaffe.caffe")


def scores(
    net: Net, iterations: int, each: Callable[[int, dict[str, np.ndarray]], None] | None = None
) -> dict[str, np.ndarray]:
    """Run ``iterations`` batches forward; return the mean of every output blob. ``each`` sees every batch's outputs."""
    sums: dict[str, np.ndarray] = {}
    for i in range(iterations):
        outputs = {name: np.array(value, np.float64) for name, value in net.forward().items()}
        if each is not None:
            each(i, outputs)
        for name, value in outputs.items():
            sums[name] = sums[name] + value if name in sums else value
    return {name: value / iterations for name, value in sums.items()}


def loss_weight(net: Net, name: str) -> float:
    """The weight with which an output blob goes into the loss."""
    return float(net.blob_loss_weights.get(name, 0.0))


def with_loss(net: Net, name: str, value: float) -> str:
    """``NAME = V``, and for a loss Caffe's ``(* W = WV loss)``."""
    weight = loss_weight(net, name)
    return f"{name} = {number(value)}" + (f" (* {number(weight)} = {number(weight * value)} loss)" if weight else "")


def run(net: Net, iterations: int) -> dict[str, np.ndarray]:
    """Score the net with a progress bar, or Caffe's log lines; returns the means."""
    from protocaffe.cli.progress import bar

    total = 0.0
    log.info("Running for %d iterations.", iterations)
    with bar("test", iterations) as update:

        def each(i: int, outputs: dict[str, np.ndarray]) -> None:
            nonlocal total
            total += sum(loss_weight(net, name) * float(value.sum()) for name, value in outputs.items())
            for name, value in outputs.items():
                for v in value.ravel():
                    log.info("Batch %d, %s = %s", i, name, number(v))
            update(i + 1, "")

        means = scores(net, iterations, each)
    log.info("Loss: %s", number(total / iterations))
    for name, value in means.items():
        for v in value.ravel():
            log.info("%s", with_loss(net, name, v))
    return means


@click.command("test", cls=CaffeCommand, short_help="Score a trained net: outputs averaged over batches.")
@click.option("--model", required=True, metavar="FILE", help="The net (prototxt) with its test data.")
@click.option("--weights", required=True, metavar="FILES", help="Weights (caffemodel), several separated by commas.")
@click.option(
    "--iterations", type=click.IntRange(min=1), default=50, show_default=True, help="Batches to average over."
)
@state_options
@mask_options
@device_options
def command(
    model: str, weights: str, iterations: int, level: int, stage: str,
    mask_from_zeros: bool, drop_masks: bool, cpu: bool, gpu: str | None, math: str | None,
) -> None:  # fmt: skip
    """Run a net on its test data and print the mean of every output (accuracy, loss)."""
    from protocaffe.cli.common import apply_masks
    from protocaffe.cli.session import open_net

    with log_lines():
        net = open_net(model, "TEST", weights, level, stage, cpu, gpu, math, reuse_memory=True)
        apply_masks(net, mask_from_zeros, drop_masks)
        means = run(net, iterations)
    for name, value in means.items():
        for v in value.ravel():
            click.echo(with_loss(net, name, v))
