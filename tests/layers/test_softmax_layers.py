"""Softmax and LogSoftmax against their formulas."""

from functools import partial

import numpy as np
import pytest

from protocaffe.backends import get_backend
from protocaffe.errors import ShapeError
from tests.support import oracles
from tests.support.bench import Bench
from tests.support.check_layer import check_error, check_layer

KINDS = {"Softmax": "softmax", "LogSoftmax": "log_softmax"}


def layer(kind, axis=1):
    return f'layer {{ type: "{kind}" bottom: "x" top: "y" softmax_param {{ axis: {axis} }} }}'


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("shape", "axis"), [((3, 7), 1), ((2, 4, 3, 2), 1), ((2, 3, 5), -1), ((4, 3), 0), ((2, 1), 1)])
def test_against_the_oracle(kind, shape, axis):
    reference, gradient = (partial(getattr(oracles, KINDS[kind] + end), axis=axis) for end in ("", "_gradient"))
    large = {"x": [60 if i == axis % len(shape) else 20 for i in range(len(shape))]}
    check_layer(layer(kind, axis), {"x": shape}, reference, gradient, large=large)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("real", ["float32", "float64"])
def test_large_scores_are_no_trouble(kind, real):
    x = np.array([[1000, 999, -1000], [-5e4, -5e4, -5e4], [1e38, 0, -1e38], [88, 89, 90]])
    bench = Bench(layer(kind), {"x": x.shape}, get_backend("cpu", real))
    y = bench.forward([x])[0]
    np.testing.assert_allclose(y, getattr(oracles, KINDS[kind])(x), rtol=1e-5, atol=1e-6)
    assert np.isfinite(bench.backward([np.ones(x.shape)], [True])[0][0]).all()


def test_log_softmax_is_exact_where_softmax_underflows():
    bench = Bench(layer("LogSoftmax"), {"x": (1, 2)}, get_backend("cpu"))
    assert bench.forward([np.array([[0.0, -500.0]])])[0].tolist() == [[0, -500]]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("real", ["float32", "float64"])
@pytest.mark.parametrize("at", range(5))
def test_nan_shows_in_its_row_only(kind, real, at):
    x = np.zeros((2, 5))
    x[0, at] = np.nan
    y = Bench(layer(kind), {"x": x.shape}, get_backend("cpu", real)).forward([x])[0]
    assert np.isnan(y[0]).all() and np.isfinite(y[1]).all()


@pytest.mark.parametrize("kind", KINDS)
def test_errors(kind):
    check_error(ShapeError, "axis 2", layer(kind, 2), {"x": (2, 3)})
    check_error(ShapeError, "axis -3", layer(kind, -3), {"x": (2, 3)})
