"""resize_param against the formula, pixel by pixel, alone and through the transformer and the Data layer's feed."""

import math

import numpy as np
import pytest

from protocaffe.data.datum import encode_datum
from protocaffe.data.datum_feed import DatumFeed
from protocaffe.data.lmdb_source import write_lmdb
from protocaffe.data.resize import Resize
from protocaffe.data.transformer import Transformer
from protocaffe.errors import DataError, ParameterError
from protocaffe.io import parse_net, schema

RNG = np.random.default_rng(0)
TEST = 1


def place(i, extent, wanted):
    return min(max((i + 0.5) * extent / wanted - 0.5, 0), extent - 1)


def linear(image, height, width):
    """One plane, in float64: four neighbours of each output pixel, weighted by nearness."""
    out = np.empty((height, width))
    for i in range(height):
        for j in range(width):
            y, x = place(i, image.shape[0], height), place(j, image.shape[1], width)
            total = 0.0
            for a in {math.floor(y), math.ceil(y)}:
                for b in {math.floor(x), math.ceil(x)}:
                    total += float(image[a, b]) * (1 - abs(y - a)) * (1 - abs(x - b))
            out[i, j] = total
    return out


def resize(items, height, width, **options):
    out = np.full((len(items), items[0].shape[0], height, width), np.nan, np.float32)
    Resize(schema.ResizeParameter(height=height, width=width, **options))(items, out)
    return out


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
@pytest.mark.parametrize(
    ("shape", "size"), [((7, 9), (16, 20)), ((7, 9), (3, 4)), ((28, 28), (96, 96)), ((1, 5), (4, 1)), ((6, 6), (6, 12))]
)
def test_linear(shape, size, dtype):
    items = RNG.integers(0, 256, (3, 2, *shape)).astype(dtype)
    expected = [[linear(plane, *size) for plane in item] for item in items]
    np.testing.assert_allclose(resize(items, *size), expected, rtol=0, atol=1e-3)


def test_nearest_repeats_pixels():
    items = RNG.integers(0, 256, (2, 3, 4, 5), np.uint8)
    nearest = schema.ResizeParameter.NEAREST
    np.testing.assert_array_equal(
        resize(items, 12, 10, interp_mode=[nearest]), items.repeat(3, axis=2).repeat(2, axis=3)
    )
    np.testing.assert_array_equal(resize(items, 2, 5, interp_mode=[nearest]), items[:, :, ::2])


def test_pieces_change_nothing(monkeypatch):
    items = RNG.integers(0, 256, (50, 1, 28, 28), np.uint8)
    whole = resize(items, 96, 96)
    monkeypatch.setattr("protocaffe.data.resize.PIECE", 3 * 96 * 96)
    np.testing.assert_array_equal(resize(items, 96, 96), whole)


def test_the_same_size_is_a_copy():
    items = RNG.integers(0, 256, (3, 1, 5, 4), np.uint8)
    np.testing.assert_array_equal(resize(items, 5, 4), items)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"height": 5}, "height and width must be given and at least 1, got 5 and 0"),
        ({"height": 5, "width": 5, "resize_mode": 2}, "must be WARP, got FIT_SMALL_SIZE"),
        ({"height": 5, "width": 5, "interp_mode": [1, 2]}, "must be LINEAR or NEAREST, got LINEAR, AREA"),
        ({"height": 5, "width": 5, "prob": 0.5}, "prob must be 1 .*, got 0.5"),
    ],
)
def test_what_is_not_offered_is_refused(options, reason):
    with pytest.raises(ParameterError, match=reason):
        Resize(schema.ResizeParameter(**options))


@pytest.mark.parametrize("as_list", [False, True])
def test_resized_then_cropped_then_mean_and_scale(as_list):
    items = RNG.integers(0, 256, (4, 3, 7, 9), np.uint8)
    param = schema.TransformationParameter(crop_size=10, mean_value=[1, 2, 3], scale=0.5)
    param.resize_param.height, param.resize_param.width = 14, 12
    transformer = Transformer(param, TEST, (3, 7, 9))
    assert transformer.shape == (3, 10, 10)
    out = np.empty((4, 3, 10, 10), np.float32)
    transformer.apply(list(items) if as_list else items, 0, out)
    resized = np.array([[linear(plane, 14, 12) for plane in item] for item in items])
    expected = (resized[:, :, 2:12, 1:11] - np.array([1, 2, 3]).reshape(3, 1, 1)) * 0.5
    np.testing.assert_allclose(out, expected, rtol=0, atol=1e-3)


def test_the_crop_must_fit_the_resized_item():
    param = schema.TransformationParameter(crop_size=10)
    param.resize_param.height, param.resize_param.width = 8, 12
    with pytest.raises(DataError, match="crop_size is 10, but the items have 8 x 12"):
        Transformer(param, TEST, (1, 28, 28))


@pytest.mark.parametrize("cache_bytes", [0, 1 << 20])
def test_items_of_any_size_make_one_batch(tmp_path, cache_bytes):
    images = [RNG.integers(0, 256, (1, h, w), np.uint8) for h, w in ((5, 6), (7, 4), (5, 6))]
    write_lmdb(tmp_path / "db", [encode_datum(image, label) for label, image in enumerate(images)])
    layer = parse_net(
        'layer { name: "d" type: "Data" top: "x" top: "y" '
        "transform_param { scale: 2 resize_param { height: 8 width: 10 } } "
        f'data_param {{ source: "{tmp_path / "db"}" backend: LMDB batch_size: 3 }} }}'
    ).layer[0]
    feed = DatumFeed(layer, TEST, 0, cache_bytes=cache_bytes)
    assert feed.shapes == [(3, 1, 8, 10), (3,)]
    arrays = [np.empty(shape, np.float32) for shape in feed.shapes]
    feed.produce(0, arrays)
    expected = [[2 * linear(image[0], 8, 10)] for image in images]
    np.testing.assert_allclose(arrays[0], expected, rtol=0, atol=1e-3)
    np.testing.assert_array_equal(arrays[1], [0, 1, 2])
