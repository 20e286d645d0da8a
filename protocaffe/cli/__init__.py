"""The ``protocaffe`` command: one file per sub-command; Caffe's spelling of flags (one dash, underscores) works too."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence

import click

from protocaffe import __version__
from protocaffe.errors import did_you_mean

COMMANDS = (
    "train", "test", "time", "prune", "shrink", "finetune", "sensitivity", "compress", "decompress", "summary",
    "verify", "data", "convert_imageset", "compute_image_mean", "demo", "device_query",
)  # fmt: skip


class LazyGroup(click.Group):
    """A group that imports a sub-command's file (and with it what that needs) only when it is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        return importlib.import_module(f"protocaffe.cli.{cmd_name}").command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and not args[0].startswith("-") and args[0] not in COMMANDS:
            hint = did_you_mean(args[0], COMMANDS) or f"; there are {', '.join(COMMANDS)}"
            ctx.fail(f'no command "{args[0]}"{hint}')
        return super().resolve_command(ctx, args)


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, message="protocaffe %(version)s")
def group() -> None:
    """Train, test, prune and fine-tune Caffe models.

    Flags may be written as Caffe writes them: `protocaffe train -solver=solver.prototxt -gpu 0`.
    """


def main(args: Sequence[str] | None = None) -> None:
    """Entry point of the console script; exits with 0, 1 (an error, in one line) or 2 (wrong usage)."""
    group.main(args=list(sys.argv[1:] if args is None else args), prog_name="protocaffe")
