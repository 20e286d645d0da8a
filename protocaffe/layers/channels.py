"""What layers share that scale or shift a blob by another one of fewer axes: Scale, Bias."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any

from ..blob import Blob
from ..errors import ParameterError, ShapeError
from ..layer import Layer

#: pieces of sums over images: in all, which is what fills a GPU, and of one channel
PIECES, MOST = 2048, 64


def chunks_of_images(images: int, channels: int) -> int:
    """Into how many pieces sums over the images of each channel are cut, whatever the number of threads.

    >>> chunks_of_images(256, 64), chunks_of_images(256, 2048), chunks_of_images(4, 64), chunks_of_images(0, 3)
    (32, 1, 4, 1)
    """
    return max(1, min(images, MOST, -(-PIECES // max(1, channels))))


def work_of_pieces(rows: int) -> int:
    """``work`` of the kernels that sum pieces: 1024 elements a row ask for blocks of 256 threads, of which a GPU's
    processor runs several at once, so that some load while others add up what they have.
    """
    return 1024 * rows


@dataclass(frozen=True)
class Broadcast:
    """``outer`` x ``channels`` x ``inner`` values; ``channels`` is the number of values of the smaller blob."""

    outer: int
    channels: int
    inner: int

    @property
    def chunks(self) -> int:
        """Pieces in which sums over ``outer`` are taken."""
        return chunks_of_images(self.outer, self.channels)

    @property
    def extents(self) -> tuple[int, int, int, int]:
        """Arguments of the channel kernels."""
        return self.chunks, self.outer, self.channels, self.inner


def own_shape(layer: Layer, x: Blob, axis: int, num_axes: int) -> tuple[int, ...]:
    """Shape of a layer's own values: ``num_axes`` axes of ``x`` from ``axis`` on (-1: all from there)."""
    if num_axes < -1:
        layer.fail(ParameterError, f"num_axes must be at least 0, or -1 for all from axis on, got {num_axes}")
    start = layer.axis(x, axis) if num_axes else 0
    if num_axes != -1 and start + num_axes > x.num_axes:
        layer.fail(ShapeError, f"num_axes {num_axes} from axis {axis} on goes beyond bottom {x.shape}")
    return x.shape[start:] if num_axes == -1 else x.shape[start : start + num_axes]


def broadcast(layer: Layer, x: Blob, small: Blob, axis: int, own: bool) -> Broadcast:
    """How ``small`` lies over ``x``; ShapeError where its axes are not those of ``x`` from ``axis`` on."""
    start = 0 if not small.num_axes else layer.axis(x, axis)
    if x.shape[start : start + small.num_axes] != small.shape:
        what = f'bottom "{x.name}"' if own else f'bottom 1 "{small.name}"'
        got, want = (x.shape, small.shape) if own else (small.shape, x.shape[start:])
        layer.fail(ShapeError, f"{what} must have the extents {want} from axis {axis} of bottom 0 on, got {got}")
    return Broadcast(prod(x.shape[:start]), small.count, prod(x.shape[start + small.num_axes :]))


def constant(value: float, filler: Any) -> Any:
    """A layer's filler, or one that gives ``value`` where the prototxt names none."""
    from ..io import schema

    return filler if filler is not None else schema.FillerParameter(type="constant", value=value)
