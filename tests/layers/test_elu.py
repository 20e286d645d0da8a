"""ELU against its formula."""

import numpy as np
import pytest

from protocaffe.backends import get_backend
from protocaffe.errors import NetError, ParameterError
from tests.support.bench import Bench
from tests.support.check_layer import check_error, check_layer


def layer(alpha=None, top="y"):
    option = "" if alpha is None else f"elu_param {{ alpha: {alpha} }}"
    return f'layer {{ type: "ELU" bottom: "x" top: "{top}" {option} }}'


@pytest.mark.parametrize("alpha", [None, 0.5, 0])
@pytest.mark.parametrize("shape", [(2, 3, 4, 5), (1, 2, 3, 2, 2), (7,), (), (3, 0, 2)], ids=str)
def test_elu(shape, alpha):
    a = 1.0 if alpha is None else alpha

    def reference(x):
        return np.where(x > 0, x, a * np.expm1(np.minimum(x, 0)))

    def gradient(arrays, diffs):
        x = arrays[0]
        return [diffs[0] * np.where(x > 0, 1, a * np.exp(np.minimum(x, 0)))]

    check_layer(layer(alpha), {"x": shape}, reference, gradient, kinks=[0],
                reshaped="batch" if shape else {"x": (3,)}, large={"x": (50, 20, 41)})  # fmt: skip


@pytest.mark.parametrize("real", ["float32", "float64"])
def test_far_out(real):
    bench = Bench(layer(2), {"x": (5,)}, get_backend("cpu", real))
    y = bench.forward([np.array([-np.inf, -1e30, -800, 0, 1e30])])[0]
    assert y.tolist() == [-2, -2, -2, 0, np.array(1e30, real)]
    assert bench.backward([np.ones(5)], [True])[0][0].tolist() == [0, 0, 0, 2, 1]


def test_negative_alphas_work_but_not_in_place():
    bench = Bench(layer(-1), {"x": (3,)}, get_backend("cpu", "float64"))
    np.testing.assert_allclose(bench.forward([np.array([-2.0, 0.0, 3.0])])[0], [-np.expm1(-2), 0, 3])
    np.testing.assert_allclose(bench.backward([np.ones(3)], [True])[0][0], [-np.exp(-2), -1, 1])
    check_error(ParameterError, "alpha must be at least 0 in place, got -1", layer(-1, "x"), {"x": (3,)}, inplace=True)


def test_errors():
    check_error(NetError, "takes 1 top blob, got 0", 'layer { type: "ELU" bottom: "x" }', {"x": (2,)})
