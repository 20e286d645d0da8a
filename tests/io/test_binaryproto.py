"""Mean images, and pycaffe's conversions."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from protocaffe import io
from protocaffe.errors import FileFormatError
from protocaffe.io import schema

GOLDENS = Path(__file__).resolve().parents[1] / "goldens"


def test_golden_mean():
    file = GOLDENS / "files/Data_uint8_meanfile/mean.binaryproto"
    blob = schema.BlobProto.FromString(file.read_bytes())
    mean = io.read_mean(file)
    assert mean.shape == (2, 7, 7) and mean.dtype == np.float32
    np.testing.assert_array_equal(mean.ravel(), np.array(blob.data, np.float32))


def test_mean_round_trip(tmp_path):
    file = tmp_path / "mean.binaryproto"
    mean = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    io.write_mean(file, mean)
    np.testing.assert_array_equal(io.read_mean(file), mean)
    blob = schema.BlobProto.FromString(file.read_bytes())
    assert (blob.num, blob.channels, blob.height, blob.width) == (1, 2, 3, 4)
    with pytest.raises(ValueError, match=r"\(2, 3\)"):
        io.write_mean(file, np.ones((2, 3)))


def test_a_stray_byte_is_an_error(tmp_path):
    file = tmp_path / "mean.binaryproto"
    io.write_mean(file, np.ones((3, 2, 2), np.float32))
    for stray in (b"\n", b"\0", b"a", b"\r"):
        file.write_bytes(file.read_bytes() + stray)
        with pytest.raises(FileFormatError, match=r"mean\.binaryproto"):
            io.read_mean(file)


def test_not_an_image(tmp_path):
    file = tmp_path / "mean.binaryproto"
    file.write_bytes(io.array_to_blobproto(np.ones((2, 2, 3, 3))).SerializeToString())
    with pytest.raises(FileFormatError, match=r"\(2, 2, 3, 3\)"):
        io.read_mean(file)


@pytest.mark.parametrize("shape", [(2, 3, 4, 5), (7,), (), (2, 0)])
def test_blobproto(shape):
    array = np.random.default_rng(0).standard_normal(shape)
    blob = io.array_to_blobproto(array, diff=array * 2)
    assert list(blob.shape.dim) == list(shape)
    np.testing.assert_array_equal(io.blobproto_to_array(blob), array.astype(np.float32))
    np.testing.assert_array_equal(io.blobproto_to_array(blob, return_diff=True), (array * 2).astype(np.float32))


def test_blobproto_of_a_legacy_shape():
    blob = schema.BlobProto(num=1, channels=2, height=1, width=2, data=[1, 2, 3, 4])
    assert io.blobproto_to_array(blob).shape == (1, 2, 1, 2)
    assert not io.blobproto_to_array(schema.BlobProto(data=[1.0]), return_diff=True).any()


def test_blobprotovector():
    arrays = [np.ones((2, 3), np.float32), np.zeros(4, np.float32)]
    data = io.arraylist_to_blobprotovector_str(arrays)
    assert len(schema.BlobProtoVector.FromString(data).blobs) == 2
    for a, b in zip(io.blobprotovector_str_to_arraylist(data), arrays, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("dtype", [np.uint8, np.float32, np.float64])
def test_datum(dtype):
    array = (np.arange(24).reshape(2, 3, 4) * 3).astype(dtype)
    datum = io.array_to_datum(array, label=5)
    assert datum.label == 5 and bool(datum.data) == (dtype == np.uint8)
    np.testing.assert_array_equal(io.datum_to_array(datum), array)
    with pytest.raises(ValueError, match="3 axes"):
        io.array_to_datum(array[0])


def test_io_is_lazy_and_complete():
    assert {"read_net", "LayerWeights", "datum_to_array"} <= set(dir(io))
    assert all(getattr(io, name) is not None for name in dir(io) if not name.startswith("_"))
    with pytest.raises(AttributeError):
        _ = io.no_such_name
