"""``protocaffe shrink``: pruned channels taken out of a net."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from protocaffe.cli import unlabelled
from protocaffe.cli.common import CaffeCommand, device_options, state_options, stdout_table, wanted_backend
from protocaffe.errors import ParameterError

if TYPE_CHECKING:
    import numpy as np

    from protocaffe.io.caffemodel import LayerWeights
    from protocaffe.net import Net
    from protocaffe.pruning.batches import Batches
    from protocaffe.pruning.shrink import ShrinkPlan

#: batches of random input that both nets are run on
DRAWS = 3


def read_all(paths: str) -> list[LayerWeights]:
    """The layers of weight files separated by commas."""
    from protocaffe.cli.session import split
    from protocaffe.weights import read_any

    return [weights for path in split(paths) for weights in read_any(path)]


def pairs(given: tuple[str, ...]) -> list[tuple[str, str]]:
    """Read ``--also train_val.prototxt=small.prototxt``."""
    found = [tuple(text.rpartition("=")[::2]) for text in given]
    for text, (source, target) in zip(given, found, strict=True):
        if not source or not target:
            raise ParameterError(f'--also must be FILE=OUTPUT such as train_val.prototxt=small.prototxt, got "{text}"')
    return [(source, target) for source, target in found]


def show(plan: ShrinkPlan, before: Net, after: Net) -> None:
    """Print channels, parameters and multiply-accumulates before and after, and what stays."""
    from protocaffe.cli.summary import rows

    was, now = ({r.name: r for r in rows(net)} for net in (before, after))
    both = [("layer", "left"), ("type", "left")]
    numbers = ["channels", "inputs", "parameters", "MACs an item"]
    with stdout_table("before -> after", both + [(n, "right") for n in numbers]) as out:
        for c in plan.layers:
            a, b = was[c.name], now[c.name]
            figures = (c.outputs, c.inputs, (a.parameters, b.parameters), (a.macs, b.macs))
            out.add_row(c.name, c.type, *(f"{x:,} -> {y:,}" if x != y else f"{x:,}" for x, y in figures))
    totals = []
    for what, field in (("parameters", "parameters"), ("multiply-accumulates an item", "macs")):
        a, b = (sum(getattr(r, field) for r in table.values()) for table in (was, now))
        totals.append(f"{what} {a:,} -> {b:,}" + (f" ({a / b:.2f}x fewer)" if b else ""))
    pruned, stay = sum(c.pruned for c in plan.layers), sum(c.stay for c in plan.layers)
    click.echo("; ".join(totals))
    click.echo(f"removed {plan.removed:,} channels; of {pruned:,} pruned ones {stay:,} stay")
    for s in plan.stays:
        click.echo(f"stays: {s.channels:,} pruned of {s.layer}: {s.reason}")
    for who in plan.unknown:
        click.echo(f"unknown: {who}: all channels that it reads stay")
    for who in plan.inexact:
        click.echo(f"inexact (--force): {who}: its bias takes in constants as if they lay under the padding too")


def _differ(before: Net, after: Net, images: Batches, batch: np.ndarray) -> float:
    from protocaffe.pruning.compare import largest_difference

    for net in (before, after):
        images.give(net, batch)
    return largest_difference(before, after, {})


@click.command("shrink", cls=CaffeCommand, short_help="Take pruned channels out of a net, which computes the same.")
@click.option("--model", required=True, metavar="FILE", help="The net (prototxt).")
@click.option("--weights", required=True, metavar="FILES", help="Its weights (caffemodel), with masks or zeros.")
@click.option("--output-model", required=True, metavar="FILE", help="Where to write the smaller net (prototxt).")
@click.option("--output", required=True, metavar="FILE", help="Where to write its weights (HDF5 if it ends in .h5).")
@click.option("--also", multiple=True, metavar="FILE=OUTPUT",
              help="Another prototxt of the same layers (train_val beside deploy) to be given the sizes.")  # fmt: skip
@click.option("--original", metavar="FILES",
              help="With --images: the weights before pruning, with which the smaller net is to agree. Default: "
              "--weights.")  # fmt: skip
@click.option("--recalibrate", "data_model", metavar="FILE",
              help="Then estimate BatchNorm statistics anew with the training data of this prototxt, of the net as it "
              "was or as it is now.")  # fmt: skip
@click.option("--batches", type=click.IntRange(min=1), default=100, show_default=True,
              help="Batches to estimate them from.")  # fmt: skip
@click.option("--force", is_flag=True,
              help="Remove also what changes the border under padding; write whatever the difference.")  # fmt: skip
@unlabelled.options
@state_options
@device_options
def command(
    model: str, weights: str, output_model: str, output: str, also: tuple[str, ...], original: str | None,
    data_model: str | None, batches: int, force: bool, level: int, stage: str, cpu: bool, gpu: str | None,
    math: str | None, **images: Any,
) -> None:  # fmt: skip
    """Take pruned channels out of a net: a smaller prototxt and caffemodel with the same outputs.

    A channel is pruned when its whole filter is masked or zero. The constant that its bias or normalisation leaves of
    it goes into the layers that read it. Both nets are run, and nothing is written if they differ by more than 1e-5 of
    the largest output. The comparison runs on the CPU; --gpu is for --recalibrate and what follows.

    With --images the net that is left may then be brought nearer to the original (--original) without labels: by
    --reconstruct, --recalibrate-images and --distill.
    """
    from protocaffe.cli.progress import bar
    from protocaffe.cli.session import split
    from protocaffe.io import atomic_write, read_net, to_text
    from protocaffe.pruning import apply, edit_net, plan_shrink, recalibrate
    from protocaffe.pruning.compare import TOLERANCE, build, largest_difference, random_inputs

    given = unlabelled.take(images)
    if original is not None and given["images"] is None:
        raise ParameterError("--original needs --images: a folder of images without labels")
    backend = wanted_backend(cpu, gpu, math)
    others = [(read_net(source), target) for source, target in pairs(also)]
    data_net = read_net(data_model) if data_model else None
    host = wanted_backend(cpu=True, gpu=None)
    where: dict[str, Any] = {"level": level, "stages": split(stage)}
    plan = plan_shrink(read_net(model), read_all(weights), force, host, **where)
    small, smaller = apply(plan)
    before, after = build(plan.net_param, plan.weights, host, **where), build(small, smaller, host, **where)
    worst = max(largest_difference(before, after, random_inputs(before, i)) for i in range(DRAWS))
    said = f"largest relative difference of the outputs: {worst:.1e} on random input"
    work = None
    if given["images"] is not None:
        dense = read_all(original) if original else plan.weights
        work = unlabelled.begin(build(plan.net_param, dense, backend, **where), given)
    if work is not None:
        seen = max(_differ(before, after, work.held, batch) for batch in work.held)
        worst, said = max(worst, seen), f"{said}, {seen:.1e} on the images"
    if not worst <= TOLERANCE and not force:
        raise ParameterError(f"shrink: {said}; at most {TOLERANCE:g} is allowed (--force writes the net all the same)")
    if data_net is not None:
        with bar("recalibrate", batches) as update:
            smaller = recalibrate(
                edit_net(plan, data_net), smaller, batches, backend, each=lambda done: update(done, "")
            )
        after.copy_weights(smaller)
    show(plan, before, after)
    if work is not None:
        student = build(small, smaller, backend, **where)
        work.finish(student, plan.kept)
        after.copy_weights(student.layer_weights())
    click.echo(said + ("; BatchNorm statistics were estimated anew after that" if data_net is not None else ""))
    for net, target in [(small, output_model), *((edit_net(plan, net), target) for net, target in others)]:
        with atomic_write(target) as file:
            file.write(to_text(net).encode())
        click.echo(f"wrote {target}")
    after.save(output)
    click.echo(f"wrote {output}")
