"""ArgMax against a stable sort."""

import numpy as np
import pytest

from protocaffe.backends import get_backend
from protocaffe.errors import NetError, ParameterError, ShapeError
from tests.support.bench import Bench
from tests.support.check_layer import check_error, check_layer


def layer(options=""):
    return f'layer {{ type: "ArgMax" bottom: "x" top: "y" argmax_param {{ {options} }} }}'


def reference(k=1, axis=None, values=False):
    def places(x, axis):
        """Of equal values the larger place first."""
        order = np.flip(np.argsort(x, axis=axis, kind="stable"), axis)
        return np.take(order, np.arange(k), axis)

    def along(x):
        at = places(x, axis)
        return np.take_along_axis(x, at, axis) if values else at

    def whole(x):
        flat = x.reshape(len(x), int(np.prod(x.shape[1:])))
        at = places(flat, 1)
        both = np.stack([at, np.take_along_axis(flat, at, 1)][: 1 + values], 1)
        return both.reshape(len(x), 1 + values, k, *[1] * (x.ndim - 3))

    return whole if axis is None else along


def tied(rng, shape):
    return rng.integers(-2, 3, shape).astype(np.float64)


@pytest.mark.parametrize("inputs", [{}, {"x": tied}], ids=["distinct", "tied"])
@pytest.mark.parametrize("values", [False, True])
@pytest.mark.parametrize(
    ("shape", "k", "axis"),
    [((4, 3, 2, 5), 1, None), ((4, 6), 2, None), ((3, 4, 2), 8, None), ((3,), 1, None), ((2, 2, 1, 3, 2), 3, None),
     ((2, 3, 4, 5), 1, 1), ((2, 5, 3), 2, -2), ((4, 6), 6, 1), ((5, 3), 2, 0), ((4,), 2, 0), ((1, 1), 1, 1),
     ((0, 4), 2, None), ((0, 4, 2), 2, 1), ((2, 4, 0), 1, 1), ((2, 2, 3, 2, 2), 2, -3)],
    ids=str,
)  # fmt: skip
def test_arg_max(shape, k, axis, values, inputs):
    options = f"top_k: {k} out_max_val: {str(values).lower()}" + ("" if axis is None else f" axis: {axis}")
    large = {"x": (40, 60, 20)} if axis is None else None
    check_layer(layer(options), {"x": shape}, reference(k, axis, values), inputs=inputs, large=large)


def test_many_rows():
    check_layer(layer("axis: 1 top_k: 2"), {"x": (2, 3, 4)}, reference(2, 1), large={"x": (10, 21, 3000)})


@pytest.mark.parametrize("real", ["float32", "float64"])
def test_infinities_and_nan(real):
    inf, nan = np.inf, np.nan
    bench = Bench(layer("top_k: 3"), {"x": (4, 4)}, get_backend("cpu", real))
    x = [[-inf, -inf, 5, -inf], [inf, 0, inf, -inf], [nan, 3, 1, 2], [-inf, -inf, -inf, -inf]]
    places = bench.forward([np.array(x)])[0].reshape(4, 3)
    assert places.tolist() == [[2, 3, 1], [2, 0, 1], [0, 1, 3], [3, 2, 1]]


def test_errors():
    match = "top_k must be 1 to the number of values {}, got {}"
    check_error(ParameterError, match.format(6, 7), layer("top_k: 7"), {"x": (2, 3, 2)})
    check_error(ParameterError, match.format(3, 4), layer("top_k: 4 axis: 1"), {"x": (2, 3, 2)})
    check_error(ParameterError, match.format(6, 0), layer("top_k: 0"), {"x": (2, 3, 2)})
    check_error(ShapeError, "axis 3", layer("axis: 3"), {"x": (2, 3, 2)})
    check_error(ShapeError, "at least 1 axis", layer(), {"x": ()})
    check_error(NetError, "takes 1 top blob, got 0", 'layer { type: "ArgMax" bottom: "x" }', {"x": (2,)})
