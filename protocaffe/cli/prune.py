"""``protocaffe prune``: masks by any criterion, stored with the weights."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import click

from protocaffe.cli import unlabelled
from protocaffe.cli.common import CaffeCommand, device_options, layer_shares, state_options
from protocaffe.cli.report import Report, report_options
from protocaffe.errors import ParameterError

if TYPE_CHECKING:
    from protocaffe.pruning import PruningArguments

METHODS = (
    "magnitude", "random", "first-order", "second-order", "l1-channels", "scale-channels", "taylor-channels",
    "effect-channels",
)  # fmt: skip
BATCHES = 10


@click.command("prune", cls=CaffeCommand, short_help="Prune weights or channels; masks are stored with them.")
@click.option("--model", required=True, metavar="FILE", help="The net (prototxt).")
@click.option("--weights", required=True, metavar="FILES", help="Weights (caffemodel), several separated by commas.")
@click.option("--sparsity", type=float, help="Share of the prunable weights (or channels) to prune, such as 0.9.")
@click.option("--nm", metavar="N:M", help="In place of --sparsity: of every M weights along the inputs N stay (2:4).")
@click.option("--method", type=click.Choice(METHODS), default="magnitude", show_default=True,
              help="What is pruned first.")  # fmt: skip
@click.option("--scope", type=click.Choice(["global", "uniform", "erk"]),
              help="Rank all layers together (global, the default), take the same share of each layer, or shares by "
              "the layers' extents (Erdős-Rényi-Kernel).")  # fmt: skip
@click.option("--layer", "layers", multiple=True, metavar="NAME=SHARE",
              help="A layer with a share of its own; it takes no part in the ranking.")  # fmt: skip
@click.option("--exclude", multiple=True, metavar="NAME", help="A layer to leave as it is.")
@click.option("--min-keep", type=float, metavar="N",
              help="What every layer keeps at least: a share below 1, or a number of weights (channels). Default: 1 %, "
              "or half of what the sparsity leaves where that is less.")  # fmt: skip
@click.option(
    "--batches",
    type=click.IntRange(min=1),
    metavar="N",
    help=f"Of the methods with gradients: batches of the TRAIN phase's data to run. Default: {BATCHES}.",
)
@click.option("--seed", type=click.IntRange(min=0), help="Of the random method, and of what is random in the batches. "
              "Default: 0.")  # fmt: skip
@click.option("--bias", is_flag=True, help="Of the channel methods: prune a channel's bias too, and the factor and "
              "shift of a Scale behind it.")  # fmt: skip
@click.option("--dead", is_flag=True, help="Then also mask what the outputs no longer depend on: channels that nothing "
              "reads, or that hold a constant (their readers' biases take it). Alone: nothing else goes.")  # fmt: skip
@click.option("--together", is_flag=True, help="Of the channel methods: choose channels that are added up, or whose "
              "layers share a weight, together, so that shrink can take them out.")  # fmt: skip
@click.option("--drop-masks", is_flag=True, help="Forget masks stored with the weights: their zeros may be kept again.")
@click.option("--output", required=True, metavar="FILE", help="Where to write the pruned weights (caffemodel).")
@report_options
@unlabelled.options
@state_options
@device_options
def command(
    model: str, weights: str, method: str, batches: int | None, seed: int | None, bias: bool, together: bool,
    dead: bool, drop_masks: bool, output: str, level: int, stage: str, cpu: bool, gpu: str | None, math: str | None,
    page: str | None, no_timing: bool, **criterion: Any,
) -> None:  # fmt: skip
    """Prune a net: what matters least becomes zero, and a mask keeps it so.

    Single weights go by magnitude (|w|), random draws, first-order (|w g|) or second-order (w^2 h / 2, h the mean
    squared gradient); whole outputs by l1-channels (mean |w| of a filter), scale-channels (|gamma| of the Scale behind)
    taylor-channels (|a g| summed over a channel's pixels) or effect-channels (how much --images say the net's outputs
    change without a channel). Channel methods leave the net's own outputs alone.

    Weights that the net's own masks have pruned stay pruned. Biases are not pruned unless --bias says so.
    """
    from protocaffe.cli.session import open_net
    from protocaffe.pruning import clear_dead, prune_by, sparsity_of_net
    from protocaffe.pruning.criteria import CHANNEL_METHODS, GRADIENT_METHODS, channel_lines

    gradients = method in GRADIENT_METHODS
    if batches is not None and not gradients:
        raise ParameterError(f"--batches is for the methods with gradients ({', '.join(GRADIENT_METHODS)})")
    if seed is not None and not (gradients or method in ("random", "effect-channels")):
        raise ParameterError(f"--seed is for what is random: nothing is with --method {method}")
    if bias and method not in CHANNEL_METHODS:
        raise ParameterError(f"--bias is for the methods that prune whole outputs ({', '.join(CHANNEL_METHODS)})")
    if together and method not in CHANNEL_METHODS:
        raise ParameterError(f"--together is for the methods that prune whole outputs ({', '.join(CHANNEL_METHODS)})")
    given = unlabelled.take(criterion)
    if method == "effect-channels" and given["images"] is None:
        raise ParameterError("--method effect-channels needs --images: a folder of images without labels")
    only_dead = dead and criterion["sparsity"] is None and criterion["nm"] is None
    if only_dead:
        refuse(method, criterion)
    arguments = None if only_dead else wanted(method, **criterion)
    where: dict[str, Any] = {"level": level, "stage": stage, "cpu": cpu, "gpu": gpu, "math": math}
    notes = Report(page, not no_timing)
    net = open_net(model, "TEST", weights, **where)
    notes.before(net, weights)
    training = open_net(model, "TRAIN", weights, seed=seed or 0, **where) if gradients else None
    batches, seed = batches or BATCHES, seed or 0
    try:
        for opened in (net, training):
            if drop_masks and opened is not None:
                opened.drop_masks()
        work = unlabelled.begin(net, given)
        result = None
        if arguments is not None:
            images = work.used if work else None
            result = prune_by(net, arguments, training, batches, seed, bias, together, images)
    finally:
        if training is not None:
            training.close()
    cleared = clear_dead(net) if dead else 0
    if result is not None and result.held:
        click.echo(f"the net's outputs stay whole: {', '.join(result.held)} (--layer NAME=SHARE prunes them)")
    channels = [] if result is None else channel_lines(result.channels)
    for line in [*channels, *sparsity_of_net(net).lines()]:
        click.echo(line)
    if dead:
        click.echo(f"dead: {cleared:,} parameters that the outputs did not depend on were masked")
    if result is not None and result.loss is not None:
        click.echo(f"{method}: {batches} batches of the TRAIN phase, mean loss {result.loss:.6g}, seed {seed}")
    elif method == "random":
        click.echo(f"random: seed {seed}")
    if work is not None:
        work.finish(net)
    net.save(output)
    click.echo(f"wrote {output}")
    notes.after(net, output)


def refuse(method: str, criterion: dict[str, Any]) -> None:
    """Raise ParameterError for options of a criterion that has no sparsity to reach."""
    given = [name for name, value in criterion.items() if value not in (None, ())]
    if method != "magnitude":
        given.append("method")
    if given:
        raise ParameterError(f"--{given[0].replace('_', '-').replace('layers', 'layer')} needs --sparsity or --nm")


def wanted(
    method: str, sparsity: float | None, nm: str | None, scope: str | None, layers: tuple[str, ...],
    exclude: tuple[str, ...], min_keep: float | None,
) -> PruningArguments:  # fmt: skip
    """What the options ask for. Raises ParameterError for those that exclude each other."""
    from protocaffe.pruning import PruningArguments

    if nm is None:
        if sparsity is None:
            raise ParameterError("--sparsity (the share that is to go), --nm or --dead must be given")
        return PruningArguments(method, scope or "global", sparsity, layer_shares(layers), min_keep, exclude)
    match = re.fullmatch(r"(\d{1,9}):(\d{1,9})", nm)
    if match is None or not 1 <= int(match[1]) < int(match[2]):
        raise ParameterError(f'--nm must be N:M with 1 <= N < M, such as 2:4, got "{nm}"')
    for name, given in (("sparsity", sparsity), ("scope", scope), ("layer", layers or None), ("min-keep", min_keep)):
        if given is not None:
            raise ParameterError(f"--nm fixes what every layer keeps: --{name} cannot be given beside it")
    return PruningArguments(method, exclude=exclude, n=int(match[1]), m=int(match[2]))
