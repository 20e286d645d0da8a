"""Images for nets, as pycaffe's io does it: load, resize, crop, and bring them into the form that an input wants.

>>> import numpy as np
>>> t = Transformer({"data": (1, 3, 4, 4)})
>>> t.set_transpose("data", (2, 0, 1))
>>> t.set_channel_swap("data", (2, 1, 0))
>>> t.set_raw_scale("data", 255)
>>> t.set_mean("data", np.array([104, 117, 123]))
>>> red = np.zeros((8, 8, 3)) + [1.0, 0.0, 0.0]
>>> t.preprocess("data", red)[:, 0, 0].tolist()
[-104.0, -117.0, 132.0]

Source: pycaffe's interface (python/caffe/io.py).
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..errors import FileFormatError, NetError, ParameterError, ShapeError, did_you_mean

#: parts of red, green and blue in a gray value (ITU-R BT.709, rounded as in scikit-image)
_GRAY = np.array([0.2125, 0.7154, 0.0721], np.float32)


class Transformer:
    """Brings images into the form of a net's inputs, and back.

    ``preprocess`` resizes an image (H, W, C) to the input's height and width, then in this order: ``transpose`` of the
    axes, ``channel_swap``, multiply by ``raw_scale``, subtract ``mean``, multiply by ``input_scale``. Steps that are
    not set are left out. ``deprocess`` undoes them in the opposite order, but for the resizing.

    Parameters
    ----------
    inputs : shape (N, C, H, W) by input name, such as ``{"data": net.blobs["data"].shape}``
    """

    def __init__(self, inputs: Mapping[str, Sequence[int]]) -> None:
        self.inputs = {name: tuple(int(d) for d in shape) for name, shape in inputs.items()}
        self.transpose: dict[str, tuple[int, ...]] = {}
        self.channel_swap: dict[str, tuple[int, ...]] = {}
        self.raw_scale: dict[str, float] = {}
        self.mean: dict[str, np.ndarray] = {}
        self.input_scale: dict[str, float] = {}

    def _shape(self, name: str) -> tuple[int, ...]:
        if name not in self.inputs:
            raise NetError(f'Transformer: no input "{name}"{did_you_mean(name, self.inputs)}; it has {self.inputs}')
        return self.inputs[name]

    def preprocess(self, name: str, data: Any) -> np.ndarray:
        """An image as the input ``name`` takes it: float32, (C, H, W). The argument is left as it is."""
        dims = self._shape(name)[2:]
        out = np.array(data, np.float32)
        if len(dims) == 2 and out.shape[:2] != dims:
            out = resize_image(out, dims)
        if name in self.transpose:
            if out.ndim != len(self.transpose[name]):
                raise ShapeError(
                    f'Transformer: data for "{name}" must have {len(self.transpose[name])} axes, got shape {out.shape}'
                )
            out = out.transpose(self.transpose[name])
        if name in self.channel_swap:
            out = out[list(self.channel_swap[name])]
        if name in self.raw_scale:
            out = out * np.float32(self.raw_scale[name])
        if name in self.mean:
            mean = self.mean[name]
            if out.ndim != 3 or any(m not in (1, d) for m, d in zip(mean.shape, out.shape, strict=True)):
                raise ShapeError(f'Transformer: the mean of "{name}" has shape {mean.shape}, the data {out.shape}')
            out = out - mean
        if name in self.input_scale:
            out = out * np.float32(self.input_scale[name])
        return np.ascontiguousarray(out)

    def deprocess(self, name: str, data: Any) -> np.ndarray:
        """The image of an input blob's item: (C, H, W), or (1, C, H, W)."""
        shape = self._shape(name)
        out = np.array(data, np.float32)
        if out.ndim == len(shape) and out.shape[0] == 1:
            out = out[0]
        if name in self.input_scale:
            out = out / np.float32(self.input_scale[name])
        if name in self.mean:
            out = out + self.mean[name]
        if name in self.raw_scale:
            out = out / np.float32(self.raw_scale[name])
        if name in self.channel_swap:
            out = out[np.argsort(self.channel_swap[name])]
        if name in self.transpose:
            out = out.transpose(np.argsort(self.transpose[name]))
        return np.ascontiguousarray(out)

    def set_transpose(self, name: str, order: Sequence[int]) -> None:
        """Order of the axes: (2, 0, 1) makes (C, H, W) of (H, W, C)."""
        self.transpose[name] = _permutation(f'the transpose of "{name}"', order, len(self._shape(name)) - 1)

    def set_channel_swap(self, name: str, order: Sequence[int]) -> None:
        """Order of the channels: (2, 1, 0) makes BGR of RGB. They must lie in the first axis after the transpose."""
        self.channel_swap[name] = _permutation(f'the channel swap of "{name}"', order, self._shape(name)[1])

    def set_raw_scale(self, name: str, scale: float) -> None:
        """Multiply the values before the mean is subtracted: 255 for a net of pixels 0 ... 255."""
        self._shape(name)
        self.raw_scale[name] = scale

    def set_mean(self, name: str, mean: Any) -> None:
        """Subtract a mean: one value per channel (C), an image (H, W) or (C, H, W), resized if it must be."""
        shape = self._shape(name)
        mean = np.array(mean, np.float32)
        if mean.ndim == 1:
            mean = mean.reshape(-1, 1, 1)
        elif mean.ndim == 2:
            mean = mean[None]
        if mean.ndim != 3 or mean.shape[0] not in (1, shape[1]) or (mean.size == 1 and shape[1] != 1):
            raise ShapeError(
                f'Transformer: the mean of "{name}" must have shape ({shape[1]},), (H, W) or {shape[1:]}, '
                f"got {mean.shape}"
            )
        if mean.shape[1:] != (1, 1) and mean.shape[1:] != shape[2:]:
            mean = resize_image(mean.transpose(1, 2, 0), shape[2:]).transpose(2, 0, 1)
        self.mean[name] = mean

    def set_input_scale(self, name: str, scale: float) -> None:
        """Multiply the values after the mean is subtracted."""
        self._shape(name)
        self.input_scale[name] = scale


def _permutation(what: str, order: Sequence[int], length: int) -> tuple[int, ...]:
    given = tuple(int(i) for i in order)
    if sorted(given) != list(range(length)):
        raise ParameterError(f"Transformer: {what} must order the numbers 0 to {length - 1}, got {given}")
    return given


def load_image(filename: str | os.PathLike[str], color: bool = True) -> np.ndarray:
    """Read an image: float32 in [0, 1], (H, W, 3) in RGB, or (H, W, 1) in gray if ``color`` is False.

    Transparency is dropped.

    Raises
    ------
    FileFormatError : the file is no image that Pillow reads
    OSError : the file cannot be opened
    """
    from PIL import Image, UnidentifiedImageError

    with open(filename, "rb") as file:
        try:
            with Image.open(file) as image:
                pixels = _unit_values(image)
        except (UnidentifiedImageError, OSError, SyntaxError, ValueError) as error:
            raise FileFormatError(f'"{os.fspath(filename)}" is no image that can be read: {error}') from error
    if color and pixels.shape[2] == 1:
        return np.tile(pixels, (1, 1, 3))
    return pixels if color or pixels.shape[2] == 1 else (pixels @ _GRAY)[..., None]


def _unit_values(image: Any) -> np.ndarray:
    """A Pillow image's values in [0, 1], (H, W, 1 or 3)."""
    if image.mode == "F":
        pixels = np.asarray(image, np.float32)
    elif image.mode == "I" or image.mode.startswith("I;16"):
        pixels = np.asarray(image).astype(np.float32) / np.float32(65535)
    else:
        gray = image.mode in ("1", "L", "LA", "La")
        pixels = np.asarray(image.convert("L" if gray else "RGB"), np.float32) / np.float32(255)
    return pixels if pixels.ndim == 3 else pixels[..., None]


def resize_image(im: Any, new_dims: Sequence[int], interp_order: int = 1) -> np.ndarray:
    """Resize an image (H, W, ...) to height and width ``new_dims``, float32.

    ``interp_order`` is 0 (nearest), 1 (bilinear) or 3 (bicubic, Keys' a = -1/2). Pixels are areas, whose centres lie at
    (i + 1/2) * old / new - 1/2; beyond the border the border's pixels go on. Nothing is averaged beforehand.

    >>> resize_image(np.array([[[0.0], [1.0]]]), (1, 4))[0, :, 0].tolist()
    [0.0, 0.25, 0.75, 1.0]
    """
    out = np.asarray(im, np.float32)
    if interp_order not in (0, 1, 3):
        raise ParameterError(f"resize_image: interp_order must be 0, 1 or 3, got {interp_order!r}")
    if out.ndim < 2 or 0 in out.shape[:2]:
        raise ShapeError(f"resize_image: the image must have shape (H, W, C), got {out.shape}")
    if len(new_dims) != 2 or min(new_dims) < 1:
        raise ShapeError(f"resize_image: new_dims must be a height and a width, got {tuple(new_dims)}")
    for axis, extent in enumerate(int(d) for d in new_dims):
        if extent != out.shape[axis]:
            out = _resize_axis(out, axis, extent, interp_order)
    return out if out is not im else out.copy()


def _resize_axis(array: np.ndarray, axis: int, extent: int, order: int) -> np.ndarray:
    old = array.shape[axis]
    centre = (np.arange(extent) + 0.5) * old / extent - 0.5
    base = np.floor(centre + (0.5 if order == 0 else 0))
    t = centre - base
    if order == 0:
        taps = [(0, np.ones(extent))]
    elif order == 1:
        taps = [(0, 1 - t), (1, t)]
    else:
        taps = [
            (-1, (-t + 2 * t**2 - t**3) / 2),
            (0, (2 - 5 * t**2 + 3 * t**3) / 2),
            (1, (t + 4 * t**2 - 3 * t**3) / 2),
            (2, (-(t**2) + t**3) / 2),
        ]
    column = [-1 if i == axis else 1 for i in range(array.ndim)]
    out = np.zeros((*array.shape[:axis], extent, *array.shape[axis + 1 :]), np.float32)
    for shift, weights in taps:
        index = np.clip(base + shift, 0, old - 1).astype(np.intp)
        out += array.take(index, axis) * weights.astype(np.float32).reshape(column)
    return out


def oversample(images: Sequence[Any], crop_dims: Sequence[int]) -> np.ndarray:
    """Ten crops of each image (H, W, C): four corners, centre, and these five mirrored; (10 N, h, w, C), float32.

    >>> oversample([np.zeros((6, 8, 3))], (4, 4)).shape
    (10, 4, 4, 3)
    """
    arrays = [np.asarray(im, np.float32) for im in images]
    height, width = (int(d) for d in crop_dims)
    if not arrays or any(a.ndim != 3 or a.shape != arrays[0].shape for a in arrays):
        raise ShapeError(f"oversample: needs images of one shape (H, W, C), got {[a.shape for a in arrays]}")
    down, right = arrays[0].shape[0] - height, arrays[0].shape[1] - width
    if min(height, width) < 1 or min(down, right) < 0:
        raise ShapeError(f"oversample: crops of {height} x {width} do not fit into images of {arrays[0].shape}")
    corners = [(0, 0), (0, right), (down, 0), (down, right), (down // 2, right // 2)]
    crops = []
    for array in arrays:
        five = [array[top : top + height, left : left + width] for top, left in corners]
        crops += [*five, *(crop[:, ::-1] for crop in five)]
    return np.stack(crops)
