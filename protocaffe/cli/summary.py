"""``protocaffe summary``: what a net is made of, and how sparse it is."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from protocaffe.cli.common import CaffeCommand, device_options, state_options, stdout_table

if TYPE_CHECKING:
    from protocaffe.net import Net


class Row(NamedTuple):
    """One layer of the table; ``zeros`` of ``prunable`` weights are zero."""

    name: str
    type: str
    shape: tuple[int, ...]
    field: list[int]
    parameters: int
    macs: int
    zeros: int
    prunable: int


def rows(net: Net) -> list[Row]:
    """The layers as written (splits, which only copy, are left out)."""
    from protocaffe.cli.geometry import multiply_accumulates, receptive_fields
    from protocaffe.pruning import sparsity_report
    from protocaffe.pruning.net import named_weights, own_parameters

    layers = [(layer.param, net.bottom_names[layer.name], net.top_names[layer.name]) for layer in net.layers]
    shapes = {name: tuple(blob.shape) for name, blob in net.blobs.items()}
    fields = receptive_fields(layers, shapes)
    own = dict(own_parameters(net))
    table = []
    for parameter, bottoms, tops in layers:
        if parameter.type == "Split":
            continue
        mine = own.get(parameter.name, [])
        report = sparsity_report(named_weights(parameter.name, mine), [blob.data for blob in mine])
        blobs = net.params.get(parameter.name, ())
        top = shapes[tops[0]] if tops else ()
        macs = multiply_accumulates(parameter, blobs[0].data.shape, shapes[bottoms[0]], top) if blobs and bottoms else 0
        figures = (report.parameters, macs, report.zeros, report.prunable)
        table.append(Row(parameter.name, parameter.type, top, fields[parameter.name], *figures))
    return table


def times(extents: Any) -> str:
    """Extents with a multiplication sign's stand-in.

    >>> times((64, 20, 24, 24)), times(())
    ('64x20x24x24', '')
    """
    return "x".join(str(d) for d in extents)


def share(zeros: int, count: int) -> str:
    return f"{zeros / count:.2%}" if count else ""


def show(net: Net, title: str, trained: bool) -> None:
    """Print the table and the totals; sparsity only of ``trained`` weights (without a filler, fresh ones are all 0)."""
    from protocaffe.pruning import sparsity_of_net

    table = rows(net)
    headings = ["parameters", "MACs an item"] + ["sparsity"] * trained
    columns = [("layer", "left"), ("type", "left"), ("output", "left"), ("receptive field", "left")]
    with stdout_table(title, columns + [(heading, "right") for heading in headings]) as out:
        for r in table:
            counts = [f"{r.parameters:,}" if r.parameters else "", f"{r.macs:,}" if r.macs else ""]
            counts += [share(r.zeros, r.prunable)] * trained
            out.add_row(r.name, r.type, times(r.shape), times(r.field), *counts)
    report = sparsity_of_net(net)
    click.echo(f"{report.parameters:,} parameters, {sum(r.macs for r in table):,} multiply-accumulates an item")
    for line in report.lines()[-2:] if trained else []:
        click.echo(line)


@click.command("summary", cls=CaffeCommand, short_help="Layers, shapes, receptive fields, parameters, sparsity.")
@click.option("--model", required=True, metavar="FILE", help="The net (prototxt).")
@click.option("--weights", metavar="FILES", help="Weights (caffemodel), several separated by commas.")
@click.option("--phase", type=click.Choice(["TRAIN", "TEST"], case_sensitive=False), default="TEST", show_default=True)
@state_options
@device_options
def command(model: str, weights: str | None, phase: str, level: int, stage: str, **device: Any) -> None:
    """Print a table: layer, type, output shape, receptive field, parameters, multiply-accumulates, sparsity."""
    from protocaffe.cli.session import open_net

    net = open_net(model, phase, weights, level, stage, **device)
    masked = any(blob.mask is not None for blob in net.prunable())
    show(net, Path(model).as_posix(), trained=bool(weights) or masked)
    net.close()
