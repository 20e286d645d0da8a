"""``protocaffe device_query``: the GPUs that this machine has."""

from __future__ import annotations

import click

from protocaffe.cli.common import CaffeCommand
from protocaffe.errors import BackendError


@click.command("device_query", cls=CaffeCommand)
@click.option("--gpu", default="all", show_default=True, help="Number of a GPU, or all.")
def command(gpu: str) -> None:
    """Print what the driver says of the GPUs; an error where none can be used."""
    from protocaffe.backends import describe_gpus
    from protocaffe.backends.head_start import gpu_number

    number = gpu_number(gpu)
    if gpu != "all" and number < 0:
        raise BackendError(f'--gpu must be the number of a GPU or "all", got "{gpu[:20]}"')
    for properties in describe_gpus(None if gpu == "all" else number):
        for name, value in properties.items():
            click.echo(f"{name + ':':30}{value}")
