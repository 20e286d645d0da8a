"""``protocaffe convert_imageset``: Caffe's tool of this name: a list of images and labels becomes an LMDB."""

from __future__ import annotations

import random

import click

from protocaffe.cli.common import CaffeCommand
from protocaffe.cli.data import reporting


@click.command("convert_imageset", cls=CaffeCommand, short_help="Write a list of images and labels as an LMDB.")
@click.argument("rootfolder", metavar="ROOTFOLDER")
@click.argument("listfile", metavar="LISTFILE")
@click.argument("db_name", metavar="DB_NAME")
@click.option("--gray", is_flag=True, help="Store one channel.")
@click.option("--shuffle", is_flag=True, help="Shuffle the list (the same way each time for the same --seed).")
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of --shuffle.")
@click.option("--resize-width", type=click.IntRange(min=0), default=0, help="Resize to this width (0: as it is).")
@click.option("--resize-height", type=click.IntRange(min=0), default=0, help="Resize to this height (0: as it is).")
@click.option("--check-size", is_flag=True, help="Refuse images of different sizes.")
@click.option("--encoded", is_flag=True, help="Store the images' files in place of pixels.")
@click.option("--encode-type", default="", metavar="TYPE", help="Store pixels encoded as png or jpg.")
@click.option("--backend", default="lmdb", show_default=True, help="Kind of database: lmdb.")
def command(
    rootfolder: str, listfile: str, db_name: str, gray: bool, shuffle: bool, seed: int,
    resize_width: int, resize_height: int, check_size: bool, encoded: bool, encode_type: str, backend: str,
) -> None:  # fmt: skip
    """Write images as an LMDB that Data layers (and BVLC Caffe) read.

    Each line of LISTFILE is the path of an image below ROOTFOLDER, a space, and its label (0, 1, 2 ...). Pixels are
    stored in the order B, G, R. Nothing is left behind when it fails, and a database that is there is not overwritten.
    """
    from protocaffe.data.images import ImageOptions, convert_images, read_list
    from protocaffe.errors import ParameterError

    if backend.lower() != "lmdb":
        raise ParameterError(f'--backend must be lmdb, got "{backend}": other databases are not written')
    if (resize_width > 0) != (resize_height > 0):
        raise ParameterError("--resize-width and --resize-height go together")
    lines = read_list(listfile)
    if shuffle:
        random.Random(seed).shuffle(lines)
    size = (resize_height, resize_width) if resize_width else None
    with reporting() as report:
        count = convert_images(
            rootfolder, lines, db_name, ImageOptions(gray, size, encoded, encode_type), check_size, report
        )
    click.echo(f"{db_name}: {count:,} images of {len({line.label for line in lines})} classes")
