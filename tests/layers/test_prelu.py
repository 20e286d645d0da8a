"""PReLU against its formula."""

import numpy as np
import pytest

from protocaffe.backends import get_backend
from protocaffe.errors import ParameterError, ShapeError
from tests.support.bench import Bench
from tests.support.check_layer import check_error, check_layer


def layer(options=""):
    return f'layer {{ type: "PReLU" bottom: "x" top: "y" prelu_param {{ {options} }} }}'


def along(slope, x):
    return slope if not slope.ndim else slope.reshape(-1, *[1] * (x.ndim - 2))


def reference(x, slope):
    return np.maximum(x, 0) + along(slope, x) * np.minimum(x, 0)


def gradient(arrays, diffs):
    (x, slope), (dy,) = arrays, diffs
    each = dy * np.minimum(x, 0)
    axes = tuple(i for i in range(x.ndim) if not slope.ndim or i != 1)
    return [dy * np.where(x > 0, 1, along(slope, x)), each.sum(axis=axes)]


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize(
    ("shape", "large"),
    [
        ((2, 3, 4, 5), (70, 20, 41)),
        ((2, 3, 1, 2, 2), (2, 3, 60, 50, 4)),
        ((4, 6), (500, 301)),
        ((3, 2, 1, 1), (301, 400, 1, 1)),
        ((1, 3, 5), (1, 3, 20000)),
        ((1, 1), (1, 40000)),
        ((0, 3, 2), None),
        ((0, 3), None),
        ((2, 3, 0), None),
    ],
    ids=str,
)
def test_prelu(shape, large, shared):
    def again(large):
        return (large[0], shape[1], *large[2:])

    text = layer("channel_shared: true" if shared else "")
    check_layer(text, {"x": shape}, reference, gradient, kinks=[0], large=large and {"x": large},
                reshaped={"x": again(large) if large and len(large) == 2 else (shape[0] + 1, *shape[1:])})  # fmt: skip


@pytest.mark.parametrize(("options", "values"), [("", 0.25), ('filler { type: "constant" value: -0.5 }', -0.5)])
@pytest.mark.parametrize("shared", [False, True])
def test_slopes_at_first_and_at_zero(options, values, shared):
    bench = Bench(layer(options + (" channel_shared: true" if shared else "")), {"x": (1, 3)}, get_backend("cpu"))
    (slope,) = bench.params
    assert slope.shape == (() if shared else (3,))
    assert (slope.data == values).all() and not slope.prunable
    assert bench.forward([np.array([[-2.0, 0.0, 3.0]])])[0].tolist() == [[-2 * values, 0, 3]]
    (dx,), _ = bench.backward([np.ones((1, 3))], [True], before=[np.zeros(slope.shape)])
    assert dx.tolist() == [[values, values, 1]]  # Caffe's choice at 0: the slope


def test_a_slope_below_zero_works_in_place():
    bench = Bench(layer(), {"x": (2, 3)}, get_backend("cpu", "float64"), inplace=True)
    bench.params[0].data[...] = [-1, 0, 2]
    x, dy = np.array([[-1.0, -2, -3], [4, -5, 6]]), np.arange(6.0).reshape(2, 3)
    assert bench.forward([x])[0].tolist() == [[1, 0, -6], [4, 0, 6]]
    (dx,), (da,) = bench.backward([dy], [True], before=[np.zeros(3)])
    assert dx.tolist() == [[0, 0, 4], [3, 0, 5]]
    assert da.tolist() == [0, -1 * 2 - 4 * 5, -2 * 3]


def test_errors():
    match = r'bottom "x" must have at least 2 axes \(N, C, ...\), got \(3,\)'
    check_error(ShapeError, match, layer(), {"x": (3,)})
    check_error(ParameterError, 'unknown filler type "ones"', layer('filler { type: "ones" }'), {"x": (2, 3)})
    bench = Bench(layer(), {"x": (2, 3)}, get_backend("cpu"))
    with pytest.raises(ShapeError, match=r'bottom "x" must have 3 channels, one for each slope, got 4 \(\(2, 4\)\)'):
        bench.reshape({"x": (2, 4)})
