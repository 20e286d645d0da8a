"""``protocaffe sensitivity``: accuracy against sparsity, layer by layer, and the shares that a drop allows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np

from protocaffe.cli.common import CaffeCommand, device_options, state_options
from protocaffe.errors import ParameterError

if TYPE_CHECKING:
    from protocaffe.pruning.sensitivity import Curve


def accuracy_of(net: Any, iterations: int) -> float:
    """The net's accuracy on the same batches each time: the mean of its first output that is one."""
    from protocaffe.cli.test import scores
    from protocaffe.scoring import accuracies

    names = accuracies(net)
    if not names:
        raise ParameterError(f'net "{net.name}" has no accuracy among its outputs: {", ".join(net.outputs)}')
    for layer in net._sources():
        layer.seek(0)
    return float(np.ravel(scores(net, iterations)[names[0]])[0])


def plot(path: str, title: str, baseline: float, curves: list[Curve]) -> None:
    """Draw the curves to a file (PNG, SVG or PDF by its name)."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ParameterError(f'--plot needs matplotlib ({error}): pip install "protocaffe[plots]"') from error
    from protocaffe.io.files import atomic_write

    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.add_subplot()
    for curve in curves:
        axes.plot(curve.sparsity, curve.accuracy, marker="o", markersize=3, label=f"{curve.name} ({curve.weights:,})")
    axes.axhline(baseline, color="gray", linewidth=0.8, linestyle="--")
    axes.set(title=title, xlabel="sparsity of the layer", ylabel="accuracy, nothing fine-tuned")
    axes.legend(fontsize="small")
    kind = Path(path).suffix.lstrip(".").lower()
    if kind not in ("png", "svg", "pdf"):
        raise ParameterError(f'--plot must end in .png, .svg or .pdf, got "{path}"')
    with atomic_write(path) as file:
        figure.savefig(file, format=kind)


def shares_of(text: str) -> list[float]:
    """Read ``0.5,0.9``."""
    try:
        return [float(part) for part in text.split(",") if part.strip()]
    except ValueError:
        raise ParameterError(f'--sparsities must be shares separated by commas, got "{text}"') from None


@click.command("sensitivity", cls=CaffeCommand, short_help="Accuracy against sparsity, layer by layer.")
@click.option("--model", required=True, metavar="FILE", help="The net (prototxt) with validation data and an Accuracy.")
@click.option("--weights", required=True, metavar="FILES", help="Weights (caffemodel), several separated by commas.")
@click.option("--iterations", type=click.IntRange(min=1), default=50, show_default=True, help="Batches of each score.")
@click.option("--sparsities", metavar="LIST", help="Shares to try, such as 0.5,0.9,0.99.")
@click.option("--max-accuracy-drop", type=float, metavar="SHARE",
              help="Also find shares for all layers with which the net falls by no more than this.")  # fmt: skip
@click.option("--output", metavar="FILE", help="Write the curves here (JSON).")
@click.option("--plot", "picture", metavar="FILE", help="Draw them here (.png, .svg, .pdf; needs protocaffe[plots]).")
@state_options
@device_options
def command(
    model: str, weights: str, iterations: int, sparsities: str | None, max_accuracy_drop: float | None,
    output: str | None, picture: str | None, level: int, stage: str, **device: Any,
) -> None:  # fmt: skip
    """Prune each layer alone, to one share after the other, and score the net: which layers bear it, and which do not.

    Nothing is fine-tuned and nothing is written back. With --max-accuracy-drop it prints shares for all layers as
    --layer flags of 'protocaffe prune' and as lines of a solver's pruning_param.
    """
    from protocaffe.cli.common import stdout_table
    from protocaffe.cli.progress import bar
    from protocaffe.cli.session import open_net
    from protocaffe.io.files import atomic_write
    from protocaffe.pruning.sensitivity import SPARSITIES, Scan

    net = open_net(model, "TEST", weights, level, stage, **device)
    tried = shares_of(sparsities) if sparsities is not None else list(SPARSITIES)
    scan = Scan(net, lambda: accuracy_of(net, iterations))
    done = 0
    with bar("sensitivity", len(scan._blobs) * len(tried)) as update:

        def each(name: str, share: float, accuracy: float) -> None:
            nonlocal done
            done += 1
            update(done, f"{name} at {share:g}: {accuracy:.4f}")

        curves = scan.run(tried, each)
    columns = [("layer", "left"), ("weights", "right"), *((f"{share:g}", "right") for share in sorted(set(tried)))]
    with stdout_table(f"{model}: accuracy {scan.baseline:.4f}; with one layer pruned to", columns) as table:
        for curve in curves:
            found = dict(zip(curve.sparsity, curve.accuracy, strict=True))
            cells = [f"{found[share]:.4f}" if share in found else "" for share in sorted(set(tried))]
            table.add_row(curve.name, f"{curve.weights:,}", *cells)
    result: dict[str, Any] = {"model": model, "weights": weights, "accuracy": scan.baseline}
    result["layers"] = [vars(curve) for curve in curves]
    if max_accuracy_drop is not None:
        shares, accuracy = scan.budgets(max_accuracy_drop)
        total = sum(curve.weights for curve in curves)
        whole = sum(shares[curve.name] * curve.weights for curve in curves) / max(1, total)
        result |= {"budgets": shares, "budgets_accuracy": accuracy, "budgets_sparsity": whole}
        click.echo(f"all together: sparsity {whole:.2%}, accuracy {accuracy:.4f}, with")
        click.echo("  " + " ".join(f"--layer {name}={share:.4f}" for name, share in shares.items()))
        for name, share in shares.items():
            click.echo(f'  layer {{ name: "{name}" sparsity: {share:.4f} }}')
    if output:
        with atomic_write(output) as file:
            file.write((json.dumps(result, indent=1) + "\n").encode())
    if picture:
        plot(picture, model, scan.baseline, curves)
