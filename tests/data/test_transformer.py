import numpy as np
import pytest

from protocaffe.data.transformer import Transformer
from protocaffe.errors import DataError
from protocaffe.io import schema, write_mean

RNG = np.random.default_rng(0)
TRAIN, TEST = 0, 1
ITEMS = RNG.integers(0, 256, (40, 3, 7, 9), np.uint8)


def transform(items, position=0, phase=TRAIN, key=3, **param):
    transformer = Transformer(schema.TransformationParameter(**param), phase, tuple(items[0].shape), key)
    out = np.full((len(items), *transformer.shape), np.nan, np.float32)
    transformer.apply(items, position, out)
    return out


def test_mean_values_then_scale():
    values = [10, 20.5, 30]
    expected = (ITEMS - np.array(values).reshape(3, 1, 1)) * 0.25
    np.testing.assert_allclose(transform(ITEMS, mean_value=values, scale=0.25), expected)
    np.testing.assert_allclose(transform(ITEMS, mean_value=[5]), ITEMS - 5.0)
    np.testing.assert_array_equal(transform(ITEMS.astype(np.float32)), ITEMS)


def test_center_crop_takes_the_mean_files_center(tmp_path):
    mean = RNG.uniform(0, 255, (3, 7, 9)).astype(np.float32)
    write_mean(tmp_path / "mean.binaryproto", mean)
    got = transform(ITEMS, phase=TEST, crop_size=4, mean_file=str(tmp_path / "mean.binaryproto"), scale=2)
    np.testing.assert_allclose(got, ((ITEMS - mean) * 2)[:, :, 1:5, 2:6])


@pytest.mark.parametrize("full_mean", [False, True])
@pytest.mark.parametrize("as_list", [False, True])
def test_random_crops_and_mirrors_are_pieces_of_the_item(tmp_path, full_mean, as_list):
    mean = RNG.uniform(0, 255, (3, 7, 9)).astype(np.float32) if full_mean else np.full((3, 1, 1), 9, np.float32)
    param = {"mean_value": [9]}
    if full_mean:
        write_mean(tmp_path / "mean.binaryproto", mean)
        param = {"mean_file": str(tmp_path / "mean.binaryproto")}
    items = list(ITEMS) if as_list else ITEMS
    out = transform(items, crop_size=5, mirror=True, **param)
    seen = set()
    for item, got in zip(ITEMS - mean, out, strict=True):
        pieces = {
            (top, left, flip): item[:, top : top + 5, left : left + 5][:, :, :: -1 if flip else 1]
            for top in range(3)
            for left in range(5)
            for flip in (False, True)
        }
        seen |= {name for name, piece in pieces.items() if np.allclose(piece, got)}
    assert {top for top, _, _ in seen} == {0, 1, 2} and {left for _, left, _ in seen} == set(range(5))
    assert {flip for _, _, flip in seen} == {False, True}


def test_draws_depend_on_key_and_position_only():
    param = {"crop_size": 4, "mirror": True}
    whole = transform(ITEMS, **param)
    np.testing.assert_array_equal(transform(ITEMS[10:16], position=10, **param), whole[10:16])
    np.testing.assert_array_equal(transform(list(ITEMS[10:16]), position=10, **param), whole[10:16])
    assert (transform(ITEMS, key=4, **param) != whole).any()


def test_mirror_in_both_phases_as_caffe():
    out = transform(ITEMS, phase=TEST, mirror=True)
    flipped = [np.array_equal(got, item[:, :, ::-1]) for got, item in zip(out, ITEMS, strict=True)]
    assert 0 < sum(flipped) < 40


@pytest.mark.parametrize(
    ("param", "reason"),
    [
        ({"crop_size": 8}, "crop_size is 8, but the items have 7 x 9"),
        ({"mean_value": [1, 2]}, "once or 3 times"),
        ({"mean_value": [1], "mean_file": "x"}, "both given"),
    ],
)
def test_parameters_that_do_not_fit(param, reason):
    with pytest.raises(DataError, match=reason):
        transform(ITEMS, **param)


def test_mean_of_another_shape(tmp_path):
    write_mean(tmp_path / "mean.binaryproto", np.zeros((3, 7, 7), np.float32))
    with pytest.raises(DataError, match=r'mean.binaryproto".*\(3, 7, 9\).*got .*\(3, 7, 7\)'):
        transform(ITEMS, mean_file=str(tmp_path / "mean.binaryproto"))


def test_listed_item_smaller_than_the_crop():
    transformer = Transformer(schema.TransformationParameter(crop_size=5), TRAIN, (3, 7, 9))
    with pytest.raises(DataError, match="does not fit crop_size 5"):
        transformer.apply([ITEMS[0], ITEMS[1, :, :4]], 0, np.empty((2, 3, 5, 5), np.float32))
