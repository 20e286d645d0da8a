"""ReLU, Sigmoid and TanH against their formulas."""

from functools import partial

import numpy as np
import pytest

from protocaffe.backends import get_backend
from protocaffe.errors import NetError, ParameterError
from tests.support import oracles
from tests.support.bench import Bench
from tests.support.check_layer import check_error, check_layer

SHAPES = [(2, 3, 4, 5), (7,), (), (3, 0, 2)]
LARGE = {"x": (50, 20, 41)}


def layer(kind, options="", top="y"):
    return f'layer {{ type: "{kind}" bottom: "x" top: "{top}" {options} }}'


@pytest.mark.parametrize("slope", [0.0, 0.25])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_relu(shape, slope):
    text = layer("ReLU", f"relu_param {{ negative_slope: {slope} }}" if slope else "")
    check_layer(text, {"x": shape}, partial(oracles.relu, slope=slope), partial(oracles.relu_gradient, slope=slope),
                kinks=[0], reshaped="batch" if shape else {"x": (3,)}, large=LARGE)  # fmt: skip


def test_relu_of_zero_and_of_negative_slopes():
    bench = Bench(layer("ReLU", "relu_param { negative_slope: -1 }"), {"x": (3,)}, get_backend("cpu"))
    assert bench.forward([np.array([-2.0, 0.0, 3.0])])[0].tolist() == [2, 0, 3]
    assert bench.backward([np.ones(3)], [True])[0][0].tolist() == [-1, -1, 1]  # Caffe's choice at 0: the slope
    text = layer("ReLU", "relu_param { negative_slope: -1 }", top="x")
    check_error(ParameterError, "at least 0 in place", text, {"x": (3,)}, inplace=True)


@pytest.mark.parametrize("kind", ["Sigmoid", "TanH"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_smooth(kind, shape):
    reference, gradient = (getattr(oracles, kind.lower() + end) for end in ("", "_gradient"))
    check_layer(layer(kind), {"x": shape}, reference, gradient, reshaped="batch" if shape else {"x": (3,)},
                large=LARGE)  # fmt: skip


@pytest.mark.parametrize(("kind", "low"), [("Sigmoid", 0), ("TanH", -1)])
@pytest.mark.parametrize("real", ["float32", "float64"])
def test_far_out_they_are_flat(kind, low, real):
    bench = Bench(layer(kind), {"x": (6,)}, get_backend("cpu", real))
    y = bench.forward([np.array([-np.inf, -1e30, -800, 800, 1e30, np.inf])])[0]
    assert y.tolist() == [low] * 3 + [1] * 3
    assert bench.backward([np.ones(6)], [True])[0][0].tolist() == [0] * 6


@pytest.mark.parametrize("kind", ["ReLU", "Sigmoid", "TanH"])
def test_errors(kind):
    check_error(NetError, "takes 1 bottom blob, got 0", f'layer {{ type: "{kind}" top: "y" }}', {})
    text = f'layer {{ type: "{kind}" bottom: "x" bottom: "z" top: "y" }}'
    check_error(NetError, "takes 1 bottom blob, got 2", text, {"x": (2,), "z": (2,)})
    check_error(NetError, "takes 1 top blob, got 0", f'layer {{ type: "{kind}" bottom: "x" }}', {"x": (2,)})
