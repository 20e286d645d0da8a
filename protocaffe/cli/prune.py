"""``protocaffe prune``: masks by magnitude, stored with the weights."""

from __future__ import annotations

from typing import Any

import click

from protocaffe.cli.common import CaffeCommand, device_options, layer_shares, state_options
from protocaffe.cli.report import Report, report_options


@click.command("prune", cls=CaffeCommand, short_help="Prune weights by magnitude; masks are stored with them.")
@click.option("--model", required=True, metavar="FILE", help="The net (prototxt).")
@click.option("--weights", required=True, metavar="FILES", help="Weights (caffemodel), several separated by commas.")
@click.option("--sparsity", type=float, required=True, help="Share of the prunable weights to prune, such as 0.9.")
@click.option("--scope", type=click.Choice(["global", "uniform"]), default="global", show_default=True,
              help="Rank the weights of all layers together, or take the same share of each layer.")  # fmt: skip
@click.option("--layer", "layers", multiple=True, metavar="NAME=SHARE",
              help="A layer with a share of its own; it takes no part in the ranking.")  # fmt: skip
@click.option("--min-keep", type=float, metavar="N",
              help="What every layer keeps at least: a share below 1, or a number of weights. Default: 1 %, or half of "
              "what the sparsity leaves where that is less.")  # fmt: skip
@click.option("--drop-masks", is_flag=True, help="Forget masks stored with the weights: their zeros may be kept again.")
@click.option("--output", required=True, metavar="FILE", help="Where to write the pruned weights (caffemodel).")
@report_options
@state_options
@device_options
def command(
    model: str, weights: str, sparsity: float, scope: str, layers: tuple[str, ...], min_keep: float | None,
    drop_masks: bool, output: str, level: int, stage: str, page: str | None, no_timing: bool, **device: Any,
) -> None:  # fmt: skip
    """Prune a net by magnitude: the weights nearest to zero become zero, and a mask keeps them so.

    Weights that the net's own masks have pruned stay pruned. Biases are not pruned.
    """
    from protocaffe.cli.session import open_net
    from protocaffe.pruning import prune_net

    notes = Report(page, not no_timing)
    net = open_net(model, "TEST", weights, level, stage, **device)
    notes.before(net, weights)
    if drop_masks:
        net.drop_masks()
    report = prune_net(net, sparsity, scope, layer_shares(layers), min_keep)
    net.save(output)
    for line in report.lines():
        click.echo(line)
    click.echo(f"wrote {output}")
    notes.after(net, output)
