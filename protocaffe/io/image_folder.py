"""A folder of unlabelled images, brought into the form of a net's input."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import DataError, ParameterError, ShapeError
from .transformer import Transformer, load_image, resize_image

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".pgm", ".ppm")


def list_images(folder: str | os.PathLike[str], limit: int | None = None, seed: int = 0) -> list[Path]:
    """The images in a folder and the folders in it, known by their endings; at most ``limit``, drawn from ``seed``.

    In the order of their names. Raises DataError where there is none, OSError where there is no folder.
    """
    root = Path(folder)
    os.listdir(root)  # an error that says why
    found = sorted(path for path in root.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
    if not found:
        raise DataError(f'"{root}" holds no images ({", ".join(SUFFIXES)})')
    if limit is not None and len(found) > limit:
        chosen = np.random.default_rng(seed).choice(len(found), limit, replace=False)
        found = [found[i] for i in sorted(chosen)]
    return found


@dataclass(frozen=True)
class Preprocessing:
    """What is done to an image whose values are in [0, 1], in this order.

    ``resize``: to (height, width), then the input's size is cut out of the centre; without it the image is resized to
    the input's size. ``swap``: order of the channels, which come as R, G, B (None: 2, 1, 0 for three). ``raw_scale``
    multiplies, ``mean`` (by channel, or an image) is subtracted, ``scale`` multiplies.
    """

    resize: tuple[int, int] | None = None
    swap: Sequence[int] | None = None
    raw_scale: float = 255.0
    mean: np.ndarray | None = None
    scale: float = 1.0

    def transformer(self, shape: Sequence[int]) -> Transformer:
        """As a Transformer for an input (N, C, H, W) called "image". Raises ShapeError for what does not fit."""
        out = Transformer({"image": shape})
        out.set_transpose("image", (2, 0, 1))
        swap = (2, 1, 0) if self.swap is None and shape[1] == 3 else self.swap
        if swap is not None:
            out.set_channel_swap("image", swap)
        out.set_raw_scale("image", self.raw_scale)
        if self.mean is not None:
            out.set_mean("image", self.mean)
        out.set_input_scale("image", self.scale)
        return out


def read_images(
    paths: Sequence[Path],
    shape: Sequence[int],
    steps: Preprocessing,
    each: Callable[[int, str], Any] = lambda done, name: None,
) -> np.ndarray:
    """Images as an input (N, C, H, W) of one or three channels takes them: (n, C, H, W), float32.

    ``each(done, name)`` hears of every image. Raises FileFormatError that names an image that cannot be read.
    """
    channels, (height, width) = shape[1], tuple(shape[2:])
    if channels not in (1, 3):
        raise ShapeError(f"images have 1 or 3 channels, the input {tuple(shape)} wants {channels}")
    down, right = 0, 0
    if steps.resize is not None:
        down, right = steps.resize[0] - height, steps.resize[1] - width
        if min(down, right) < 0:
            raise ParameterError(f"cannot cut {height} x {width} out of images resized to {steps.resize}")
    transformer = steps.transformer(shape)
    out = np.empty((len(paths), channels, height, width), np.float32)
    for i, path in enumerate(paths):
        image = load_image(path, color=channels == 3)
        if steps.resize is not None:
            top, left = down // 2, right // 2
            image = resize_image(image, steps.resize)[top : top + height, left : left + width]
        out[i] = transformer.preprocess("image", image)
        each(i + 1, path.name)
    return out
