"""A user's own images as a database, and a database's mean image: what Caffe's two tools of these names do.

Source: tools/convert_imageset.cpp and tools/compute_image_mean.cpp of Caffe.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ..errors import DataError, ParameterError
from .datum import decode_datum, decode_image, encode_datum
from .datum_source import open_database
from .fetch import Progress, silent
from .lmdb_source import LmdbWriter


@dataclass(frozen=True)
class ImageOptions:
    """How images are stored: as bytes in the order B, G, R (one channel with ``gray``), resized to (height, width)
    where ``size`` is given, or ``encoded``: as files, with their own bytes unless they have to be changed or another
    ``encode_type`` ("png", "jpg") is asked for.
    """

    gray: bool = False
    size: tuple[int, int] | None = None
    encoded: bool = False
    encode_type: str = ""


class Line(NamedTuple):
    """A line of a list: the image's path below the root folder, its label, and where that stands, for errors."""

    name: str
    label: int
    where: str = ""


def read_list(path: str | Path) -> list[Line]:
    """The lines ``name label`` of a list file; names may hold spaces. Raises DataError that names the line."""
    lines = []
    for number, line in enumerate(Path(path).read_text(encoding="utf-8", errors="surrogateescape").splitlines(), 1):
        name, _, label = line.strip().rpartition(" ")
        if not line.strip():
            continue
        try:
            lines.append(Line(name.strip(), int(label), f'"{path}", line {number}: '))
        except ValueError:
            name = ""
        if not name:
            raise DataError(f'"{path}", line {number}: expected "file label", got "{line}"')
        if not 0 <= lines[-1].label < 2**31:
            raise DataError(f'"{path}", line {number}: the label must be from 0 to 2^31 - 1, got {label}')
    if not lines:
        raise DataError(f'"{path}" lists no images')
    return lines


def convert_images(
    root: str | Path,
    lines: Sequence[Line | tuple[str, int]],
    target: str | Path,
    options: ImageOptions | None = None,
    check_size: bool = False,
    progress: Progress | None = None,
) -> int:
    """Write the images ``root``/name with their labels as a new LMDB; returns how many.

    A file that is no image ends the conversion with a DataError that names it and its line in the list, and leaves no
    database behind; so does, with ``check_size``, an image of another size than the first one.
    """
    options, report = options or ImageOptions(), progress or silent
    first: tuple[str, tuple[int, ...]] | None = None
    with LmdbWriter(target) as writer:
        for done, (name, label, where) in enumerate(Line(*line) for line in lines):
            path = Path(root) / name
            try:
                value, shape = _datum(path, label, options)
            except OSError as error:
                raise DataError(f'{where}"{path}": {error.strerror or error}') from error
            except ValueError as error:
                raise DataError(f'{where}"{path}": {error}') from error
            first = first or (name, shape)
            if check_size and shape != first[1]:
                raise DataError(
                    f'{where}"{path}" has shape (C, H, W) = {shape}, but "{first[0]}" has {first[1]}: '
                    "give a size to resize to, or do not check"
                )
            writer.put(value)
            if done % 100 == 0:
                report(str(target), done, len(lines))
    return writer.count


def _datum(path: Path, label: int, options: ImageOptions) -> tuple[bytes, tuple[int, ...]]:
    from ..io import schema

    content = path.read_bytes()
    image = decode_image(content, force_color=not options.gray, force_gray=options.gray)
    kind = options.encode_type.lower().lstrip(".")
    resized = options.size is not None and options.size != image.shape[1:]
    if options.size is not None and resized:
        image = resize(image, options.size)
    if not (options.encoded or kind):
        return encode_datum(image, label), image.shape
    own = path.suffix.lower().lstrip(".").replace("jpeg", "jpg")
    if resized or options.gray or (kind and kind.replace("jpeg", "jpg") != own):
        content = _encode(image, kind or own)
    datum = schema.Datum(channels=image.shape[0], height=image.shape[1], width=image.shape[2])
    datum.data, datum.label, datum.encoded = content, label, True
    return datum.SerializeToString(), image.shape


def resize(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Bilinear, uint8 (C, H, W) to (C, *size); pixels are areas, nothing is averaged beforehand (as OpenCV).

    >>> resize(np.array([[[0, 100]]], np.uint8), (1, 4)).tolist()
    [[[0, 25, 75, 100]]]
    """
    from ..io.transformer import resize_image

    out = resize_image(image.transpose(1, 2, 0), size).transpose(2, 0, 1)
    return np.ascontiguousarray(np.rint(out).clip(0, 255).astype(np.uint8))


def _encode(image: np.ndarray, kind: str) -> bytes:
    from PIL import Image

    formats = {"png": "PNG", "jpg": "JPEG", "jpeg": "JPEG", "bmp": "BMP"}
    if kind not in formats:
        raise ParameterError(f'encode type must be one of {", ".join(formats)}, got "{kind}"')
    pixels = image[0] if image.shape[0] == 1 else image[::-1].transpose(1, 2, 0)
    out = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(out, formats[kind], **({"quality": 95} if "j" in kind else {}))
    return out.getvalue()


def _items(source: str | Path, progress: Progress) -> Iterator[np.ndarray]:
    reader = open_database(source)
    try:
        for index in range(len(reader)):
            try:
                yield decode_datum(reader.read(index))[0]
            except ValueError as error:
                raise DataError(f'"{source}": record {index}: {error}') from error
            if index % 1000 == 0:
                progress(str(source), index, len(reader))
    finally:
        reader.close()


def mean_image(source: str | Path, progress: Progress | None = None) -> np.ndarray:
    """The mean of all items of a database of Datum messages, float32 (C, H, W); sums in float64.

    Raises DataError where items differ in shape.
    """
    total: np.ndarray | None = None
    count = 0
    for item in _items(source, progress or silent):
        if total is None:
            total = np.zeros(item.shape, np.float64)
        if item.shape != total.shape:
            raise DataError(
                f'"{source}": record {count} has shape {item.shape}, the records before it {total.shape}: '
                "a mean image needs images of one size (resize them when they are converted)"
            )
        total += item
        count += 1
    assert total is not None  # an empty LMDB is not opened
    return (total / count).astype(np.float32)
