"""A user's own images: list file, database, mean image; the commands that make them, and what they refuse."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

import protocaffe
from protocaffe.data.datum import decode_datum
from protocaffe.data.images import ImageOptions, convert_images, mean_image, read_list, resize
from protocaffe.data.lmdb_source import LmdbReader
from protocaffe.errors import DataError
from protocaffe.io import parse_net, read_mean
from tests.cli.conftest import cli  # noqa: F401

RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (5, 6, 8, 3), np.uint8)  # RGB


@pytest.fixture
def images(tmp_path):
    """Five PNGs, one with a space in its name, and their list."""
    (tmp_path / "sub").mkdir()
    names = ["a.png", "b.png", "sub/c.png", "with space.png", "e.png"]
    for name, pixels in zip(names, PIXELS, strict=True):
        Image.fromarray(pixels).save(tmp_path / name)
    (tmp_path / "list.txt").write_text("\n".join(f"{name} {i % 3}" for i, name in enumerate(names)) + "\n\n")
    return tmp_path


def records(path):
    reader = LmdbReader(path)
    payloads = [reader.read(i) for i in range(len(reader))]
    reader.close()
    return payloads


def test_pixels_are_stored_as_bgr_with_their_labels(images):
    assert convert_images(images, read_list(images / "list.txt"), images / "db") == 5
    for i, payload in enumerate(records(images / "db")):
        item, label = decode_datum(payload)
        np.testing.assert_array_equal(item, PIXELS[i][:, :, ::-1].transpose(2, 0, 1))
        assert label == i % 3


def test_a_data_layer_reads_them(images):
    convert_images(images, read_list(images / "list.txt"), images / "db")
    data = f'data_param {{ source: "{images}/db" batch_size: 5 backend: LMDB }}'
    net = protocaffe.Net(parse_net(f'layer {{ type: "Data" top: "x" top: "y" {data} }}'))
    net.forward()
    np.testing.assert_array_equal(net.blobs["x"].data, PIXELS[..., ::-1].transpose(0, 3, 1, 2))
    np.testing.assert_array_equal(net.blobs["y"].data, [0, 1, 2, 0, 1])
    net.close()


@pytest.mark.parametrize("gray", [False, True])
def test_resizing_is_bilinear(images, gray):
    convert_images(images, read_list(images / "list.txt"), images / "db", ImageOptions(gray, (12, 16)))
    item, _ = decode_datum(records(images / "db")[0])
    assert item.shape == (1 if gray else 3, 12, 16)
    if not gray:
        # a pixel of the doubled image lies a quarter of the way between two old ones
        wanted = (0.75 * PIXELS[0, 2, :, 0] + 0.25 * PIXELS[0, 3, :, 0])[3] * 0.75
        wanted += (0.75 * PIXELS[0, 2, :, 0] + 0.25 * PIXELS[0, 3, :, 0])[4] * 0.25
        assert abs(float(item[2, 5, 7]) - wanted) <= 0.5


def test_encoded_files_keep_their_bytes_unless_changed(images):
    lines = read_list(images / "list.txt")
    convert_images(images, lines, images / "same", ImageOptions(encoded=True))
    convert_images(images, lines, images / "jpg", ImageOptions(gray=True, encode_type="jpg"))
    convert_images(images, lines, images / "small", ImageOptions(encoded=True, size=(3, 4)))
    assert (images / "a.png").read_bytes() in records(images / "same")[0]
    assert b"JFIF" in records(images / "jpg")[0]
    item, _ = decode_datum(records(images / "jpg")[0])
    gray = PIXELS[0] @ np.array([0.299, 0.587, 0.114])
    assert item.shape == (1, 6, 8) and np.abs(item[0] - gray).mean() < 3
    item, _ = decode_datum(records(images / "small")[0])
    np.testing.assert_array_equal(item, resize(PIXELS[0][:, :, ::-1].transpose(2, 0, 1), (3, 4)))


def test_mean_image(images):
    convert_images(images, read_list(images / "list.txt"), images / "db")
    wanted = PIXELS.astype(np.float64).mean(axis=0)[:, :, ::-1].transpose(2, 0, 1)
    np.testing.assert_allclose(mean_image(images / "db"), wanted, rtol=1e-6)


def test_commands(images, cli, monkeypatch):  # noqa: F811
    monkeypatch.chdir(images)
    done = cli("convert_imageset", "-shuffle", "-resize_width=4", "-resize_height=4", ".", "list.txt", "db")
    assert (done.code, done.out) == (0, "db: 5 images of 3 classes\n")
    first = records(images / "db")
    cli("convert_imageset", "-shuffle", "-resize_width=4", "-resize_height=4", ".", "list.txt", "db2")
    assert records(images / "db2") == first
    done = cli("compute_image_mean", "db", "mean.binaryproto")
    assert done.code == 0 and "mean_value channel [2]: " in done.out
    assert read_mean(images / "mean.binaryproto").shape == (3, 4, 4)


@pytest.mark.parametrize(
    ("line", "error"),
    [
        ("nolabel", 'list.txt", line 1: expected "file label"'),
        ("a.png x", 'line 1: expected "file label"'),
        ("a.png -1", "line 1: the label must be from 0"),
        ("", "lists no images"),
        ("a.png 0\n\ngone.png 1", 'list.txt", line 3: "{}/gone.png": No such file or directory\n'),
        ("list.txt 1", 'list.txt", line 1: "{}/list.txt": '),
    ],
)
def test_bad_lists_and_images_are_named_and_leave_nothing(images, cli, line, error):  # noqa: F811
    (images / "list.txt").write_text(line + "\n")
    done = cli("convert_imageset", images, images / "list.txt", images / "db")
    assert done.code == 1 and error.format(images) in done.err and "Traceback" not in done.err
    assert not [p.name for p in images.iterdir() if "db" in p.name]


def test_sizes_are_checked_and_databases_not_overwritten(images, cli):  # noqa: F811
    Image.fromarray(PIXELS[0][:3]).save(images / "e.png")
    lines = read_list(images / "list.txt")
    with pytest.raises(DataError, match=r'e\.png" has shape \(C, H, W\) = \(3, 3, 8\), but "a\.png" has \(3, 6, 8\)'):
        convert_images(images, lines, images / "db", check_size=True)
    convert_images(images, lines, images / "db")
    with pytest.raises(DataError, match="record 4 has shape"):
        mean_image(images / "db")
    with pytest.raises(DataError, match="is there already"):
        convert_images(images, lines, images / "db")
    done = cli("convert_imageset", "--backend", "leveldb", images, images / "list.txt", images / "x")
    assert done.code == 1 and "--backend must be lmdb" in done.err
    done = cli("convert_imageset", "--resize-width", 4, images, images / "list.txt", images / "x")
    assert done.code == 1 and "go together" in done.err
    done = cli("convert_imageset", "--encode-type", "webp", images, images / "list.txt", images / "x")
    assert done.code == 1 and 'got "webp"' in done.err
