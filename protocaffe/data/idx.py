"""IDX, the file format of MNIST: a magic number, the extents (big-endian), then the bytes."""

from __future__ import annotations

import struct

import numpy as np

from ..errors import DataError


def read_idx(content: bytes, name: str) -> np.ndarray:
    """Return the uint8 array in an IDX file's content: (N,) for labels, (N, H, W) for images.

    ``name`` is what an error calls the file. Raises DataError when the header or the length is wrong.

    >>> read_idx(bytes([0, 0, 8, 1, 0, 0, 0, 2, 7, 9]), "labels")
    array([7, 9], dtype=uint8)
    """
    if len(content) < 4 or content[:3] != b"\0\0\x08" or not 1 <= content[3] <= 4:
        raise DataError(
            f'"{name}": expected an IDX file of bytes (00 00 08 ..), got {content[:4].hex(" ") or "nothing"}'
        )
    axes = content[3]
    header = 4 + 4 * axes
    if len(content) < header:
        raise DataError(f'"{name}": the IDX header must have {header} bytes, got {len(content)}')
    shape = struct.unpack(f">{axes}I", content[4:header])
    count = 1
    for extent in shape:
        count *= extent
    if len(content) - header != count:
        raise DataError(f'"{name}": {shape} needs {count} bytes after the header, got {len(content) - header}')
    return np.frombuffer(content, np.uint8, count, header).reshape(shape)
