"""``protocaffe compute_image_mean``: Caffe's tool of this name: the mean image of a database."""

from __future__ import annotations

import click

from protocaffe.cli.common import CaffeCommand
from protocaffe.cli.data import reporting
from protocaffe.scoring import number


@click.command("compute_image_mean", cls=CaffeCommand, short_help="The mean image of a database, as a .binaryproto.")
@click.argument("input_db", metavar="INPUT_DB")
@click.argument("output_file", metavar="[OUTPUT_FILE]", required=False)
@click.option("--backend", default="", help="Kind of database, lmdb or leveldb; what is there tells, too.")
def command(input_db: str, output_file: str | None, backend: str) -> None:
    """Compute the mean of all images of a database; write it as a .binaryproto (transform_param { mean_file: ... }).

    The mean of each channel is printed too (transform_param { mean_value: ... }).
    """
    from protocaffe.data.images import mean_image
    from protocaffe.errors import ParameterError
    from protocaffe.io import write_mean

    if backend.lower() not in ("", "lmdb", "leveldb"):
        raise ParameterError(f'--backend must be lmdb or leveldb, got "{backend}"')
    with reporting() as report:
        mean = mean_image(input_db, report)
    if output_file:
        write_mean(output_file, mean)
        click.echo(f"wrote {output_file}: {mean.shape[0]} x {mean.shape[1]} x {mean.shape[2]}")
    for channel, value in enumerate(mean.mean(axis=(1, 2), dtype="float64")):
        click.echo(f"mean_value channel [{channel}]: {number(float(value))}")
