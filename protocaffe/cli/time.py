"""``protocaffe time``: Caffe's ``caffe time``: how long each layer takes, forward and backward."""

from __future__ import annotations

import logging
from functools import partial
from time import perf_counter
from typing import TYPE_CHECKING, NamedTuple

import click

from protocaffe.cli.common import CaffeCommand, device_options, state_options
from protocaffe.cli.glog import log_lines
from protocaffe.scoring import number

if TYPE_CHECKING:
    from collections.abc import Callable

    from protocaffe.net import Net
    from protocaffe.plan import Plan

log = logging.getLogger("protocaffe.caffe")


class Times(NamedTuple):
    """Milliseconds: of each layer by itself, and of the net as it really runs (fused, without stops between layers)."""

    forward: dict[str, float]
    backward: dict[str, float]
    net_forward: float
    net_backward: float


def milliseconds(net: Net, work: Callable[[], object], times: int, warm: int = 2) -> float:
    """The mean time of ``work`` on the net's device, after two runs that are not counted: a GPU captures the second."""
    for _ in range(warm):
        work()
    net.backend.synchronize()
    start = perf_counter()
    for _ in range(times):
        work()
    net.backend.synchronize()
    return (perf_counter() - start) * 1e3 / times


def layer_time(net: Net, plan: Plan, index: int, iterations: int, warm: int = 2) -> float:
    """The mean time of one layer: of many runs without a stop, so that launching does not hide how fast it is."""
    calls = plan.calls((index,))
    if any(call.host or call.ahead for call in calls):
        return milliseconds(net, lambda: plan.run((index,)), iterations, warm)
    return milliseconds(net, lambda: plan.run((index,) * iterations), 1, warm) / iterations if calls else 0.0


def forward_times(net: Net, iterations: int, warm: int = 2) -> tuple[float, dict[str, float]]:
    """Milliseconds of a forward pass: of the net as it really runs, and of each layer by itself."""
    names = list(net._layer_names)
    whole = milliseconds(net, partial(net.run_forward, check=False), iterations, warm)
    if net._dynamic:  # shapes may change from run to run, and with them the plans
        runs = [partial(net.run_forward, i, i, False) for i in range(len(names))]
        per_layer = [milliseconds(net, run, iterations, warm) for run in runs]
    else:
        plan = net._forward()
        per_layer = [layer_time(net, plan, i, iterations, warm) for i in range(len(names))]
    return whole, dict(zip(names, per_layer, strict=True))


def measure(net: Net, iterations: int) -> Times:
    """Time a net, whole and layer by layer; nothing is fetched from the device."""
    names = list(net._layer_names)
    net.forward()  # which complains about bad labels
    forward, per_layer = forward_times(net, iterations)
    net.run_forward(check=False)
    backward = milliseconds(net, net.run_backward, iterations)
    if net._dynamic:
        net.run_forward()
        back = [milliseconds(net, partial(net.run_backward, i, i), iterations) for i in reversed(range(len(names)))]
    else:
        up = net._backward()
        back = [layer_time(net, up, i, iterations) for i in reversed(range(len(names)))]
    return Times(per_layer, dict(zip(names, reversed(back), strict=True)), forward, backward)


@click.command("time", cls=CaffeCommand, short_help="How long each layer takes.")
@click.option("--model", required=True, metavar="FILE", help="The net (prototxt).")
@click.option("--weights", metavar="FILES", help="Weights (caffemodel), several separated by commas.")
@click.option("--iterations", type=click.IntRange(min=1), default=50, show_default=True, help="Runs to average over.")
@click.option("--phase", type=click.Choice(["TRAIN", "TEST"], case_sensitive=False), default="TRAIN", show_default=True)
@state_options
@device_options
def command(
    model: str, weights: str | None, iterations: int, phase: str, level: int, stage: str, cpu: bool, gpu: str | None,
    math: str | None,
) -> None:  # fmt: skip
    """Time the forward and backward pass of a net: each layer alone, then the net as it really runs."""
    from protocaffe.cli.common import stdout_table
    from protocaffe.cli.session import open_net

    with log_lines():
        net = open_net(model, phase, weights, level, stage, cpu, gpu, math)
        log.info("*** Benchmark begins ***")
        log.info("Testing for %d iterations.", iterations)
        times = measure(net, iterations)
        log.info("Average time per layer: ")
        for name in times.forward:
            log.info("%10s\tforward: %s ms.", name, number(times.forward[name]))
            log.info("%10s\tbackward: %s ms.", name, number(times.backward[name]))
        log.info("Average Forward pass: %s ms.", number(times.net_forward))
        log.info("Average Backward pass: %s ms.", number(times.net_backward))
        log.info("Average Forward-Backward: %s ms.", number(times.net_forward + times.net_backward))
        log.info("Total Time: %s ms.", number((times.net_forward + times.net_backward) * iterations))
        log.info("*** Benchmark ends ***")
    columns = [("layer", "left"), ("type", "left"), ("forward, ms", "right"), ("backward, ms", "right")]
    with stdout_table(f"{model}, {phase}, mean of {iterations}", columns) as table:
        for name, layer in zip(net._layer_names, net.layers, strict=True):
            table.add_row(name, layer.type, f"{times.forward[name]:.3f}", f"{times.backward[name]:.3f}")
        table.add_section()
        table.add_row("net", "", f"{times.net_forward:.3f}", f"{times.net_backward:.3f}")
