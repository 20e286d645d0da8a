"""LRN against sums over windows."""

import numpy as np
import pytest

from protocaffe.errors import ParameterError, ShapeError
from tests.support.check_layer import check_error, check_layer


def layer(options=""):
    return f'layer {{ type: "LRN" bottom: "x" top: "y" lrn_param {{ {options} }} }}'


def window_sums(v, size, within):
    """For each element the sum over its window; axes 2 and 3 ``within`` a plane, else axis 1."""
    half = size // 2
    out = np.zeros_like(v)
    for axis in (2, 3) if within else (1,):
        padded = np.pad(v, [(half, half) if a == axis else (0, 0) for a in range(4)])
        out = sum(padded.take(range(d, d + v.shape[axis]), axis) for d in range(size))
        v = out
    return out


CASES = {
    "default": ("", (2, 7, 3, 4), {}),
    "three": ("local_size: 3 alpha: 0.5 beta: 0.5 k: 2", (2, 4, 3, 3), {"size": 3, "alpha": 0.5, "beta": 0.5, "k": 2}),
    "wider_than_the_channels": ("local_size: 9 beta: 1", (2, 3, 2, 5), {"size": 9, "beta": 1}),
    "one_channel": ("local_size: 1", (3, 1, 2, 2), {"size": 1}),
    "many_pixels": ("", (1, 3, 20, 30), {}),
    "within": ("local_size: 3 norm_region: WITHIN_CHANNEL", (2, 3, 5, 4), {"size": 3, "within": True}),
    "within_wider_than_the_plane": ("local_size: 21 norm_region: WITHIN_CHANNEL", (2, 2, 3, 6),
                                    {"size": 21, "within": True}),
    "within_one_pixel": ("local_size: 1 norm_region: WITHIN_CHANNEL", (2, 2, 3, 4), {"size": 1, "within": True}),
    "within_5_k_unused": ("k: 7 alpha: 2 beta: 1.5 norm_region: WITHIN_CHANNEL", (1, 2, 3, 7),
                          {"alpha": 2, "beta": 1.5, "within": True}),
}  # fmt: skip


@pytest.mark.parametrize(("options", "shape", "o"), CASES.values(), ids=CASES)
def test_lrn(options, shape, o):
    size, within, beta = o.get("size", 5), o.get("within", False), o.get("beta", 0.75)
    a = o.get("alpha", 1) / size ** (2 if within else 1)

    def scale(x):
        return o.get("k", 1) + a * window_sums(x * x, size, within)

    def gradient(arrays, diffs):
        (x,), (dy,) = arrays, diffs
        s = scale(x)
        down = window_sums(dy * x * s ** (-beta - 1), size, within)
        return [dy * s**-beta - 2 * a * beta * x * down]

    check_layer(layer(options), {"x": shape}, lambda x: x * scale(x) ** -beta, gradient, large={"x": (6, 8, 20, 25)})


def test_spatial_shapes_may_change():
    def formula(x):
        return x * (1 + window_sums(x * x, 5, False) / 5) ** -0.75

    check_layer(layer(), {"x": (2, 3, 4, 5)}, formula, reshaped={"x": (1, 3, 6, 2)})


def test_errors():
    check_error(ParameterError, "local_size must be odd, got 4", layer("local_size: 4"), {"x": (1, 2, 3, 3)})
    check_error(ShapeError, r"must have 4 axes \(N, C, H, W\), got \(2, 3\)", layer(), {"x": (2, 3)})
