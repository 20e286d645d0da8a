"""Images in batches for the one input of a net."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from ..errors import NetError, ShapeError

if TYPE_CHECKING:
    from ..net import Net

#: images of a batch, whatever the prototxt says: enough to be quick, not so many that memory runs out
SMALLEST, LARGEST = 16, 64


def image_input(net: Net) -> str:
    """The name of a deploy net's one input. Raises NetError unless there is one, (N, C, H, W)."""
    if len(net.inputs) != 1:
        has = ", ".join(net.inputs) or "none"
        raise NetError(f'net "{net.name}" must have one Input for images, it has {has}: give a deploy prototxt')
    shape = net.blobs[net.inputs[0]].shape
    if len(shape) != 4 or 0 in shape:
        raise NetError(f'net "{net.name}": input "{net.inputs[0]}" must have shape (N, C, H, W), got {shape}')
    return net.inputs[0]


class Batches:
    """``images`` (n, C, H, W) in batches of one size; the last one is filled up with the first images once more."""

    def __init__(self, net: Net, images: np.ndarray) -> None:
        self.name = image_input(net)
        wanted = net.blobs[self.name].shape
        if images.ndim != 4 or not len(images) or images.shape[1:] != wanted[1:]:
            raise ShapeError(f'images for input "{self.name}" must have shape (n, *{wanted[1:]}), got {images.shape}')
        self.images = images
        self.size = min(len(images), max(SMALLEST, min(LARGEST, wanted[0])))

    @property
    def count(self) -> int:
        """Number of images, without those that come twice."""
        return len(self.images)

    def __iter__(self) -> Iterator[np.ndarray]:
        for start in range(0, self.count, self.size):
            yield self.images[np.arange(start, start + self.size) % self.count]

    def give(self, net: Net, batch: np.ndarray) -> None:
        """Put a batch into a net's input, whose batch becomes as large."""
        blob = net.blobs[self.name]
        blob.reshape(batch.shape)
        blob.data = batch

    def outputs(self, net: Net) -> dict[str, np.ndarray]:
        """The net's outputs for all images, by name."""
        parts: dict[str, list[np.ndarray]] = {name: [] for name in net.outputs}
        for batch in self:
            self.give(net, batch)
            net.run_forward()
            for name, found in parts.items():
                values = np.array(net.blobs[name].data)
                if values.shape[:1] != (len(batch),):
                    raise NetError(f'output "{name}" of shape {values.shape} has no axis of {len(batch)} images')
                found.append(values)
        return {name: np.concatenate(found)[: self.count] for name, found in parts.items()}
