"""``protocaffe decompress``: a prototxt and a caffemodel from a compressed model."""

from __future__ import annotations

import click

from protocaffe.cli.common import CaffeCommand


@click.command("decompress", cls=CaffeCommand, short_help="A prototxt and a caffemodel from a compressed model.")
@click.option("--weights", required=True, metavar="FILE", help="The compressed model (.pcz).")
@click.option(
    "--output", metavar="FILE", help="Where to write the weights and masks (caffemodel; HDF5 if it ends in .h5)."
)
@click.option("--model", metavar="FILE", help="Where to write the net (prototxt).")
def command(weights: str, output: str | None, model: str | None) -> None:
    """Unpack a compressed model. The weights are the shared values; the masks are stored with them.

    The caffemodel is read by the real Caffe too.
    """
    from protocaffe.errors import ParameterError
    from protocaffe.io.compressed import read_net_of, unpack
    from protocaffe.io.files import atomic_write
    from protocaffe.io.prototxt import to_text

    if not output and not model:
        raise ParameterError("give --output for the weights, --model for the net, or both")
    if output:
        unpack(weights, output)
        click.echo(f"wrote {output}")
    if model:
        with atomic_write(model) as file:
            file.write(to_text(read_net_of(weights)).encode())
        click.echo(f"wrote {model}")
