"""One Datum message (the value of an LMDB record) to an array and a label, and back."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import numpy as np

DATA_TAG, LABEL_TAG = 0x22, 0x28  # field number * 8 + wire type of Datum.data and Datum.label


def decode_datum(payload: bytes, force_color: bool = False, force_gray: bool = False) -> tuple[np.ndarray, int | None]:
    """Return the item, (C, H, W) uint8 or float32, and its label (None when the message has none).

    An encoded item (PNG, JPEG, ...) is decoded as it is, or to three channels in the order B, G, R with
    ``force_color``, or to one with ``force_gray``, as Caffe does; both flags leave raw items alone.

    Raises ValueError that says what is wrong with the message.
    """
    from google.protobuf.message import DecodeError

    from ..io import schema

    try:
        datum = schema.Datum.FromString(payload)
    except DecodeError as error:
        raise ValueError(f"not a Datum message of {len(payload)} bytes ({error})") from error
    label = datum.label if datum.HasField("label") else None
    if datum.encoded:
        return decode_image(datum.data, force_color, force_gray), label
    shape = (datum.channels, datum.height, datum.width)
    data = datum.data  # each look at it makes a copy
    item = np.frombuffer(data, np.uint8) if data else np.array(datum.float_data, np.float32)
    if min(shape) < 1 or item.size != shape[0] * shape[1] * shape[2]:
        raise ValueError(f"the Datum says {_extents(shape)} but holds {item.size} values")
    return item.reshape(shape), label


def has_label(payload: bytes) -> bool:
    """True when the message has a label; one that is no Datum is left for `decode_datum` to refuse, when it is due."""
    from google.protobuf.message import DecodeError

    from ..io import schema

    try:
        return schema.Datum.FromString(payload).HasField("label")
    except DecodeError:
        return False


def decode_image(content: bytes, force_color: bool = False, force_gray: bool = False) -> np.ndarray:
    """Return an encoded image as uint8 (C, H, W): 1 channel for grey, else B, G, R (and alpha).

    Raises ValueError when the image cannot be decoded or has more than 8 bits a channel.
    """
    from PIL import Image

    try:
        with Image.open(io.BytesIO(content)) as image:
            if force_gray and image.format == "JPEG":
                image.draft("L", image.size)  # luma as stored, without a way over RGB: what Caffe gets from OpenCV
            mode = _target_mode(image, force_color, force_gray)
            pixels = np.asarray(image if image.mode == mode else image.convert(mode))
    except (
        Exception
    ) as error:  # what a damaged image may raise is not documented: struct.error, EOFError, IndexError ...
        raise ValueError(f"the encoded image cannot be decoded ({error})") from error
    if pixels.ndim == 2:
        return pixels[None]
    order = [2, 1, 0, 3][: pixels.shape[2]]
    return np.ascontiguousarray(pixels[:, :, order].transpose(2, 0, 1))


def _target_mode(image: Any, force_color: bool, force_gray: bool) -> str:
    if force_gray:
        return "L"
    if image.mode.startswith(("I", "F")):
        raise ValueError(f'the encoded image must have 8 bits a channel, got mode "{image.mode}"')
    if force_color:
        return "RGB"
    if image.mode in ("1", "L"):
        return "L"
    has_alpha = image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info
    return "RGBA" if has_alpha else "RGB"


class RawLayout:
    """The layout that all records of a set of raw bytes mostly have, so that many are decoded without protobuf:

    the same bytes up to the pixels, ``size`` pixels, then a label, which `split` wants below 128.
    """

    def __init__(self, head: bytes, shape: tuple[int, ...]) -> None:
        self.head, self.shape = np.frombuffer(head, np.uint8), shape
        self.size = int(np.prod(shape))
        self.length = len(head) + self.size + 2

    @classmethod
    def of(cls, payload: bytes) -> RawLayout | None:
        """Return the layout of this record, or None when it has another one."""
        item, label = decode_datum(payload)
        if item.dtype != np.uint8 or label is None or label < 0:
            return None
        tail = item.tobytes() + bytes([LABEL_TAG]) + _varint(label)
        head = payload[: len(payload) - len(tail)]
        if payload != head + tail or not head.endswith(bytes([DATA_TAG]) + _varint(item.size)):
            return None
        return cls(head, item.shape)

    def split(self, payloads: Sequence[bytes]) -> tuple[np.ndarray, np.ndarray] | None:
        """Return items (n, C, H, W) and labels (n,), uint8, or None when a record has another layout."""
        if any(len(payload) != self.length for payload in payloads):
            return None
        table = np.frombuffer(b"".join(payloads), np.uint8).reshape(len(payloads), self.length)
        start, end = len(self.head), self.length - 2
        if (table[:, :start] != self.head).any() or (table[:, end] != LABEL_TAG).any() or (table[:, -1] > 127).any():
            return None
        return table[:, start:end].reshape(-1, *self.shape), table[:, -1]

    def views(self, payloads: Sequence[bytes]) -> tuple[list[np.ndarray], np.ndarray] | None:
        """As `split`, but the items as a list of views of the records: for large ones, which are worth no copy more."""
        head, end = self.head.tobytes(), len(self.head) + self.size
        labels = []
        for payload in payloads:
            label = _label_at(payload, end) if payload.startswith(head) else None
            if label is None:
                return None
            labels.append(label)
        items = [np.frombuffer(payload, np.uint8, self.size, len(head)).reshape(self.shape) for payload in payloads]
        return items, np.array(labels, np.float32)


def _label_at(payload: bytes, at: int) -> int | None:
    """The label that is all there is from ``at`` on, or None."""
    tag, tail = payload[at : at + 1], payload[at + 1 :]
    if tag != bytes([LABEL_TAG]) or not 1 <= len(tail) <= 4 or tail[-1] > 127 or any(byte < 128 for byte in tail[:-1]):
        return None
    return sum((byte & 127) << 7 * i for i, byte in enumerate(tail))


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


def encode_datum(item: np.ndarray, label: int | None = None) -> bytes:
    """Return the message for an item of shape (C, H, W): bytes for uint8, floats for anything else."""
    from ..io.binaryproto import array_to_datum

    return array_to_datum(item, label).SerializeToString()


def _extents(shape: tuple[int, ...]) -> str:
    return " x ".join(str(extent) for extent in shape)
