import struct

import numpy as np
import pytest

from protocaffe.data.idx import read_idx
from protocaffe.errors import DataError


def test_reads_images_and_labels():
    images = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    content = struct.pack(">IIII", 0x803, 2, 3, 4) + images.tobytes()
    np.testing.assert_array_equal(read_idx(content, "images"), images)
    np.testing.assert_array_equal(read_idx(struct.pack(">II", 0x801, 3) + b"\1\2\3", "labels"), [1, 2, 3])


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "nothing"),
        (b"<html>", "3c 68 74 6d"),
        (b"\0\0\x08\x03\0\0", "16 bytes, got 6"),
        (struct.pack(">II", 0x801, 3) + b"\1\2", "needs 3 bytes after the header, got 2"),
        (struct.pack(">IIII", 0x803, 2**32 - 1, 2**32 - 1, 2**32 - 1), "needs"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_refuses_what_is_not_idx(content, reason):
    with pytest.raises(DataError, match=f'"x.*{reason}'):
        read_idx(content, "x")
