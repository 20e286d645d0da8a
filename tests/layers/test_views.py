"""Permute, Crop, Tile and Reshape: layers that move values about."""

import numpy as np
import pytest

from protocaffe.backends import get_backend
from protocaffe.errors import NetError, ParameterError, ShapeError
from tests.support.bench import Bench
from tests.support.check_layer import check_error, check_layer


def permute(*order):
    options = " ".join(f"order: {a}" for a in order)
    return f'layer {{ type: "Permute" bottom: "x" top: "y" permute_param {{ {options} }} }}'


@pytest.mark.parametrize(
    ("order", "whole", "shape"),
    [((0, 2, 3, 1), (0, 2, 3, 1), (2, 3, 4, 5)), ((1, 0), (1, 0), (3, 4)), ((2,), (2, 0, 1), (2, 3, 4)),
     ((), (0,), (5,)), ((0, 1, 2), (0, 1, 2), (2, 3, 4)), ((4, 2), (4, 2, 0, 1, 3), (2, 3, 1, 2, 4)),
     ((1,), (1, 0, 2), (2, 0, 3))],
)  # fmt: skip
def test_permute(order, whole, shape):
    check_layer(permute(*order), {"x": shape}, lambda x: x.transpose(whole),
                lambda arrays, diffs: [diffs[0].transpose(np.argsort(whole))],
                large={"x": (20, 30, 7, 8)[: len(shape)]} if len(shape) == 4 else None)  # fmt: skip


def test_permute_errors():
    check_error(
        ParameterError, r"must name axes of bottom \(2, 3\), each once, got \[0, 2\]", permute(0, 2), {"x": (2, 3)}
    )
    check_error(ParameterError, r"got \[1, 1\]", permute(1, 1), {"x": (2, 3)})
    check_error(ShapeError, "takes 1 to 8 axes", permute(), {"x": ()})


def crop(options="", bottoms="xr"):
    names = " ".join(f'bottom: "{b}"' for b in bottoms)
    return f'layer {{ type: "Crop" {names} top: "y" crop_param {{ {options} }} }}'


@pytest.mark.parametrize(
    ("options", "shape", "like", "part"),
    [
        ("", (2, 3, 5, 6), (1, 9, 3, 4), np.s_[:, :, :3, :4]),
        ("offset: 1", (2, 3, 5, 6), (7, 1, 3, 4), np.s_[:, :, 1:4, 1:5]),
        ("axis: 1 offset: 1 offset: 0 offset: 2", (2, 3, 5, 6), (2, 2, 5, 3), np.s_[:, 1:3, :, 2:5]),
        ("axis: -1 offset: 2", (3, 7), (9, 4), np.s_[:, 2:6]),
        ("axis: 0", (4, 3), (2, 3), np.s_[:2]),
        ("", (2, 3, 4, 4), (2, 3, 4, 4), np.s_[:]),
    ],
)
def test_crop(options, shape, like, part):
    def gradient(arrays, diffs):
        dx = np.zeros_like(arrays[0])
        dx[part] = diffs[0]
        return [dx, None]

    check_layer(crop(options), {"x": shape, "r": like}, lambda x, r: x[part], gradient, reshaped=None)


def test_crop_errors():
    shapes = {"x": (1, 2, 5, 5), "r": (1, 2, 3, 3)}
    check_error(
        ShapeError, r"axis 2: offset 3 \+ 3 values of bottom 1 .* go beyond bottom 0", crop("offset: 3"), shapes
    )
    check_error(
        ParameterError, r"once for each of the 2 axes from 2 on, got \[1, 1, 1\]", crop("offset: 1 " * 3), shapes
    )
    check_error(ShapeError, "must have 4 axes", crop(), {"x": (1, 2, 5, 5), "r": (3, 3)})
    check_error(NetError, "takes 2 bottom", crop("", "x"), {"x": (1, 2, 5, 5)})


def tile(options):
    return f'layer {{ type: "Tile" bottom: "x" top: "y" tile_param {{ {options} }} }}'


@pytest.mark.parametrize(
    ("options", "axis", "tiles", "shape"),
    [("tiles: 3", 1, 3, (2, 3, 4)), ("axis: 0 tiles: 2", 0, 2, (3, 2)), ("axis: -1 tiles: 4", 2, 4, (2, 1, 3)),
     ("tiles: 1", 1, 1, (2, 3)), ("tiles: 2", 1, 2, (2, 0, 3))],
)  # fmt: skip
def test_tile(options, axis, tiles, shape):
    def gradient(arrays, diffs):
        return [sum(np.split(diffs[0], tiles, axis))]

    repeats = [tiles if a == axis else 1 for a in range(len(shape))]
    check_layer(
        tile(options), {"x": shape}, lambda x: np.tile(x, repeats), gradient, large={"x": (40, 30, 20)[: len(shape)]}
    )


def test_tile_errors():
    check_error(ParameterError, "tiles must be given and at least 1, got 0", tile(""), {"x": (2, 3)})
    check_error(ShapeError, "axis 2", tile("axis: 2 tiles: 2"), {"x": (2, 3)})


def reshape(options):
    return f'layer {{ type: "Reshape" bottom: "x" top: "y" reshape_param {{ {options} }} }}'


@pytest.mark.parametrize(
    ("options", "shape"),
    [
        ("shape { dim: 0 dim: -1 }", (-1, 60)),
        ("shape { dim: 0 dim: 0 dim: 2 dim: -1 }", (-1, 3, 2, 10)),
        ("shape { dim: -1 dim: 1 } num_axes: 1", (-1, 1, 3, 4, 5)),
        ("shape { dim: 12 } axis: 1 num_axes: 2", (-1, 12, 5)),
        ("shape { dim: 1 } axis: -1", (-1, 3, 4, 5, 1)),
        ("shape { dim: 1 dim: 1 } axis: 1 num_axes: 0", (-1, 1, 1, 3, 4, 5)),
        ("shape { dim: 5 dim: 4 } axis: -3", (-1, 3, 5, 4)),
        ("shape { dim: -1 }", (-1,)),
    ],
)
def test_reshape(options, shape):
    check_layer(reshape(options), {"x": (2, 3, 4, 5)}, lambda x: x.reshape(shape),
                lambda arrays, diffs: [diffs[0].reshape(arrays[0].shape)])  # fmt: skip


def test_reshape_copies_nothing():
    bench = Bench(reshape("shape { dim: -1 }"), {"x": (2, 3)}, get_backend("cpu"))
    assert np.shares_memory(bench.top[0].data, bench.bottom[0].data)
    assert np.shares_memory(bench.top[0].diff, bench.bottom[0].diff)


@pytest.mark.parametrize(
    ("error", "match", "options"),
    [
        (ParameterError, r"may hold -1 once .* got \[-1, -1\]", "shape { dim: -1 dim: -1 }"),
        (ParameterError, r"no negative extents, got \[-2\]", "shape { dim: -2 }"),
        (ParameterError, "num_axes must be at least 0", "num_axes: -2"),
        (ShapeError, "must lie within", "axis: 3"),
        (ShapeError, "must lie within", "axis: 1 num_axes: 2"),
        (ShapeError, r"\[6, 1, 0\]: 0 in place 2 has no axis", "shape { dim: 6 dim: 1 dim: 0 }"),
        (ShapeError, r"6 values of bottom \(2, 3\) do not divide by 4", "shape { dim: 4 dim: -1 }"),
        (ShapeError, r"has 6 values, the top would have \(5,\)", "shape { dim: 5 }"),
    ],
)
def test_reshape_errors(error, match, options):
    check_error(error, match, reshape(options), {"x": (2, 3)})
