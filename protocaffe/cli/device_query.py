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

    if gpu != "all" and not gpu.isdigit():
        raise BackendError(f'--gpu must be the number of a GPU or "all", got "{gpu}"')
    for properties in describe_gpus(None if gpu == "all" else int(gpu)):
        for name, value in properties.items():
            click.echo(f"{name + ':':30}{value}")
