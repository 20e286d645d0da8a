"""Single blobs in files (.binaryproto: mean images, info-gain matrices), and pycaffe's conversions."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..errors import FileFormatError
from . import schema, wire
from .caffemodel import read_bytes
from .files import atomic_write


def read_blob(path: str | os.PathLike[str]) -> np.ndarray:
    """Read a .binaryproto: its values in the stored shape.

    Raises
    ------
    FileFormatError : truncated, damaged or no blob; names the file
    OSError : the file cannot be read
    """
    buf = read_bytes(path, "binaryproto")
    try:
        return wire.read_blob(buf, 0, len(buf)).data
    except (ValueError, OverflowError) as e:
        raise FileFormatError(f'"{os.fspath(path)}" is not a valid binaryproto: it {e}') from e


def read_mean(path: str | os.PathLike[str]) -> np.ndarray:
    """Read a mean image: (C, H, W), float32; the legacy form 1 x C x H x W loses its first axis.

    Raises
    ------
    FileFormatError : damaged, or not one image
    """
    mean = read_blob(path)
    if mean.ndim == 4 and mean.shape[0] == 1:
        mean = mean[0]
    if mean.ndim != 3:
        raise FileFormatError(f'"{os.fspath(path)}" is not a mean image: expected shape (C, H, W), got {mean.shape}')
    return mean.astype(np.float32, copy=False)


def write_mean(path: str | os.PathLike[str], mean: np.ndarray) -> None:
    """Write a mean image (C, H, W) as Caffe's tools do: a blob with the four legacy extents 1, C, H, W."""
    array = np.asarray(mean, np.float32)
    if array.ndim == 4 and array.shape[0] == 1:
        array = array[0]
    if array.ndim != 3:
        raise ValueError(f"a mean image must have 3 axes (C, H, W), got shape {array.shape}")
    flat = np.ascontiguousarray(array, "<f4").reshape(-1)
    parts: list[Any] = [wire.varint_field(i, d) for i, d in enumerate((1, *array.shape), start=1)]
    with atomic_write(path) as file:
        file.writelines([*parts, wire.head(5, flat.nbytes), flat.tobytes()])


def blobproto_to_array(blob: Any, return_diff: bool = False) -> np.ndarray:
    """The values (or gradients) of a BlobProto in its shape."""
    decoded = wire.read_blob(data := blob.SerializeToString(), 0, len(data))
    if return_diff:
        return np.zeros_like(decoded.data) if decoded.diff is None else decoded.diff
    return decoded.data


def array_to_blobproto(arr: np.ndarray, diff: np.ndarray | None = None) -> Any:
    """A BlobProto of an array of any shape.

    >>> blob = array_to_blobproto(np.ones((2, 3)))
    >>> list(blob.shape.dim), len(blob.data)
    ([2, 3], 6)
    """
    return schema.BlobProto.FromString(b"".join(bytes(p) for p in wire.blob_parts(np.asarray(arr), diff)))


def arraylist_to_blobprotovector_str(arraylist: Sequence[np.ndarray]) -> bytes:
    """Arrays as the bytes of a BlobProtoVector."""
    return b"".join(bytes(p) for a in arraylist for p in wire.wrapped(1, wire.blob_parts(np.asarray(a))))


def blobprotovector_str_to_arraylist(data: bytes) -> list[np.ndarray]:
    """The arrays in the bytes of a BlobProtoVector."""
    return [wire.read_blob(data, a, b).data for number, _, a, b in wire.scan(data, 0, len(data)) if number == 1]


def array_to_datum(arr: np.ndarray, label: int | None = None) -> Any:
    """A Datum of an image (C, H, W): bytes if it is uint8, else floats."""
    arr = np.asarray(arr)
    if arr.ndim != 3:
        raise ValueError(f"a datum must have 3 axes (C, H, W), got shape {arr.shape}")
    datum = schema.Datum(channels=arr.shape[0], height=arr.shape[1], width=arr.shape[2])
    if arr.dtype == np.uint8:
        datum.data = arr.tobytes()
    else:
        datum.float_data.extend(arr.astype(np.float32).ravel().tolist())
    if label is not None:
        datum.label = label
    return datum


def datum_to_array(datum: Any) -> np.ndarray:
    """The image (C, H, W) of a Datum that is not encoded: uint8, or float32 where it holds floats."""
    shape = datum.channels, datum.height, datum.width
    if datum.data:
        return np.frombuffer(datum.data, np.uint8).reshape(shape)
    return np.array(datum.float_data, np.float32).reshape(shape)
