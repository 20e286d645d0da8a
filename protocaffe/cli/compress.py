"""``protocaffe compress``: a net, its weights, masks and code books in one small file."""

from __future__ import annotations

import os
from typing import Any

import click

from protocaffe.cli.common import (
    CaffeCommand,
    apply_masks,
    device_options,
    mask_options,
    state_options,
    stdout_table,
)
from protocaffe.errors import ParameterError


def bits_of(values: tuple[str, ...], default: int) -> tuple[int, dict[str, int]]:
    """Read ``--bits 5 --bits conv1=8``: what holds for all layers, and for single ones.

    >>> bits_of(("4", "conv1=8"), 5)
    (4, {'conv1': 8})
    """
    own: dict[str, int] = {}
    for value in values:
        name, _, number = value.rpartition("=")
        if not number.isdigit() or "=" in value and not name:
            raise ParameterError(f'--bits must be a number or NAME=NUMBER such as conv1=8, got "{value}"')
        if name:
            own[name] = int(number)
        else:
            default = int(number)
    return default, own


@click.command("compress", cls=CaffeCommand, short_help="Net, weights, masks and code books in one small file.")
@click.option("--model", required=True, metavar="FILE", help="The net (prototxt); it goes into the file.")
@click.option("--weights", required=True, metavar="FILES", help="Weights (caffemodel), several separated by commas.")
@click.option("--bits", "bits", multiple=True, metavar="[NAME=]N",
              help="Weights share up to 2^N values, 0 to 8 (0: floats); all layers or one. Default: 5.")  # fmt: skip
@click.option("--bias-bits", type=click.IntRange(0, 8), default=8, show_default=True,
              help="Biases are rounded to 2^N - 1 equal steps (0: floats are kept).")  # fmt: skip
@click.option("--sparsity", type=float, help="Prune to this share first, by magnitude, as 'protocaffe prune' does.")
@click.option("--scope", type=click.Choice(["global", "uniform"]), default="global", show_default=True,
              help="With --sparsity: over all layers together, or the same share of each.")  # fmt: skip
@click.option("--output", required=True, metavar="FILE", help="Where to write the compressed model (.pcz).")
@state_options
@mask_options
@device_options
def command(
    model: str, weights: str, bits: tuple[str, ...], bias_bits: int, sparsity: float | None, scope: str, output: str,
    level: int, stage: str, mask_from_zeros: bool, drop_masks: bool, **device: Any,
) -> None:  # fmt: skip
    """Store a pruned net so that it takes little room: weights share a few values, positions and codes are packed.

    The file loads wherever weights do (test, finetune, Net.copy_from), masks in force; 'protocaffe decompress' makes a
    prototxt and a caffemodel of it again.
    """
    from protocaffe.cli.session import open_net, split
    from protocaffe.io import read_net
    from protocaffe.pruning import prune_net, sparsity_of_net
    from protocaffe.pruning.compress import BITS, compress_net

    default, own = bits_of(bits, BITS)
    net = open_net(model, "TEST", weights, level, stage, **device)
    apply_masks(net, mask_from_zeros, drop_masks)
    if sparsity is not None:
        prune_net(net, sparsity, scope)
    sizes = compress_net(output, net, read_net(model), default, own, bias_bits)
    columns = [("parameter", "left"), *((c, "right") for c in
               ("values", "non-zero", "shared values", "positions", "codes", "book"))]  # fmt: skip
    with stdout_table("", columns) as table:
        for blob in sizes.blobs:
            name = blob.layer + (f"[{blob.index}]" if blob.index else "")
            row = (blob.count, blob.nonzeros, blob.shared or "-", blob.positions, blob.codes, blob.book)
            table.add_row(name, *(f"{v:,}" if isinstance(v, int) else v for v in row))
        rest = sizes.total - sizes.net - sizes.directory - sum(b.positions + b.codes + b.book for b in sizes.blobs)
    net.copy_from(output)  # rounding makes zeros of some biases
    for line in sparsity_of_net(net).lines()[-2:]:
        click.echo(line)
    click.echo(f"net {sizes.net:,} bytes, directory {sizes.directory:,}, head and checksum {rest:,}")
    before = sum(os.path.getsize(path) for path in split(weights))
    ratio = f" ({before / sizes.total:.1f}x smaller)" if before > sizes.total else ""
    click.echo(f"wrote {output}: {sizes.total:,} bytes; {weights}: {before:,} bytes{ratio}")
