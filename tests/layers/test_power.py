"""Power against its formula."""

import numpy as np
import pytest

from protocaffe.backends import get_backend
from protocaffe.errors import NetError
from tests.support.bench import Bench
from tests.support.check_layer import check_error, check_layer

LARGE = {"x": (50, 20, 41)}


def layer(power=1, scale=1, shift=0):
    options = f"power: {power} scale: {scale} shift: {shift}"
    return f'layer {{ type: "Power" bottom: "x" top: "y" power_param {{ {options} }} }}'


def formulas(power, scale, shift):
    def reference(x):
        return (shift + scale * x) ** power

    def gradient(arrays, diffs):
        if power * scale == 0:
            return [np.zeros_like(diffs[0])]
        return [diffs[0] * power * scale * (shift + scale * arrays[0]) ** (power - 1)]

    return reference, gradient


@pytest.mark.parametrize(
    ("power", "scale", "shift"),
    [(1, 1, 0), (1, -3, 2), (1, 0, 5), (2, 0.5, -1), (2, 1, 0), (3, 2, 0.5), (0, 2, 1), (3, 0, 2), (4, 1, 0)],
)
@pytest.mark.parametrize("shape", [(2, 3, 4), (), (3, 0, 2)], ids=str)
def test_whole_powers(shape, power, scale, shift):
    check_layer(layer(power, scale, shift), {"x": shape}, *formulas(power, scale, shift),
                reshaped="batch" if shape else {"x": (3,)}, large=LARGE)  # fmt: skip


@pytest.mark.parametrize(
    ("power", "scale", "shift"), [(0.5, 2, 0.25), (-1.5, 2, 0), (-1, 1, 0.5), (2.5, 0.5, 0), (-2, -1, -1)]
)
def test_fractional_and_negative_powers(power, scale, shift):
    def positive(rng, shape):
        return rng.uniform(0.5, 2, shape).astype(np.float32).astype(np.float64)

    loose = {"float32": (2e-5, 1e-6), "float64": (1e-11, 1e-12)}
    check_layer(layer(power, scale, shift), {"x": (2, 3, 4)}, *formulas(power, scale, shift), inputs={"x": positive},
                large=LARGE, tolerance=loose)  # fmt: skip


@pytest.mark.parametrize(("power", "y", "dx"), [(3, 0, 0), (2, 0, 0), (0, 1, 0), (1, 0, 1)])
@pytest.mark.parametrize("inplace", [False, True])
def test_at_zero(power, y, dx, inplace):
    bench = Bench(layer(power), {"x": (2,)}, get_backend("cpu"), inplace=inplace)
    assert bench.forward([np.zeros(2)])[0].tolist() == [y, y]
    assert bench.backward([np.ones(2)], [True])[0][0].tolist() == [dx, dx]


def test_a_negative_number_has_no_square_root():
    bench = Bench(layer(0.5), {"x": (2,)}, get_backend("cpu"))
    y = bench.forward([np.array([-4.0, 4.0])])[0]
    assert np.isnan(y[0]) and y[1] == 2


def test_errors():
    check_error(NetError, "takes 1 top blob, got 0", 'layer { type: "Power" bottom: "x" }', {"x": (2,)})
