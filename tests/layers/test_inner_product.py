"""InnerProduct against a matrix product."""

from functools import partial

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocaffe.backends import get_backend
from protocaffe.errors import NetError, ParameterError, ShapeError
from tests.support import oracles
from tests.support.bench import Bench
from tests.support.check_layer import check_error, check_layer


def layer(options):
    return f'layer {{ type: "InnerProduct" bottom: "x" top: "y" inner_product_param {{ {options} }} }}'


@pytest.mark.parametrize(
    ("options", "shape", "oracle"),
    [
        ("num_output: 5", (3, 4), {}),
        ("num_output: 3", (2, 3, 2, 2), {}),
        ("num_output: 4 transpose: true", (3, 2, 3), {"transpose": True}),
        ("num_output: 4 bias_term: false", (3, 5), {}),
        ("num_output: 2 axis: 2", (2, 3, 4, 2), {"axis": 2}),
        ("num_output: 3 axis: -1 transpose: true bias_term: false", (2, 3, 4), {"axis": -1, "transpose": True}),
        ("num_output: 1", (1, 1), {}),
    ],
)
def test_against_the_oracle(options, shape, oracle):
    large = {"x": (130, *shape[1:])}
    check_layer(layer(options), {"x": shape}, partial(oracles.inner_product, **oracle),
                partial(oracles.inner_product_gradient, **oracle), large=large)  # fmt: skip


def test_threads_change_nothing():
    check_layer(layer("num_output: 150"), {"x": (120, 130)}, oracles.inner_product, oracles.inner_product_gradient,
                backend="cpu", large={"x": (120, 130)}, tolerance={"float32": (1e-4, 1e-4)})  # fmt: skip


def test_axis_0_takes_everything_together():
    oracle = partial(oracles.inner_product, axis=0), partial(oracles.inner_product_gradient, axis=0)
    check_layer(layer("num_output: 3 axis: 0"), {"x": (2, 3)}, *oracle, reshaped={"x": (3, 2)})


@given(
    shape=st.lists(st.integers(1, 6), min_size=2, max_size=4), outputs=st.integers(1, 20), axis=st.integers(0, 3),
    transpose=st.booleans(), bias=st.booleans(),
)  # fmt: skip
def test_any_shape(shape, outputs, axis, transpose, bias):
    oracle = {"axis": axis % len(shape), "transpose": transpose}
    options = f"num_output: {outputs} axis: {oracle['axis']} transpose: {transpose} bias_term: {bias}".lower()
    check_layer(layer(options), {"x": shape}, partial(oracles.inner_product, **oracle),
                partial(oracles.inner_product_gradient, **oracle), backend="cpu", reshaped=None)  # fmt: skip


def test_no_rows():
    bench = Bench(layer("num_output: 2"), {"x": (0, 3)}, get_backend("cpu"))
    assert bench.forward()[0].shape == (0, 2)
    assert not bench.backward([np.zeros((0, 2))], [True], before=[0, 0])[1][0].any()


def test_weights_that_are_not_finite_show():
    bench = Bench(layer("num_output: 2"), {"x": (2, 3)}, get_backend("cpu"))
    bench.params[0].data[0, 1] = np.nan
    bench.params[1].data[...] = (0, np.inf)
    top = bench.forward([np.ones((2, 3))])[0]
    assert np.isnan(top[:, 0]).all() and np.isinf(top[:, 1]).all()


def test_parameters_say_what_is_prunable():
    bench = Bench(layer("num_output: 4"), {"x": (2, 3)}, get_backend("cpu"))
    assert [(b.shape, b.prunable) for b in bench.params] == [((4, 3), True), ((4,), False)]
    bench = Bench(layer("num_output: 4 transpose: true bias_term: false"), {"x": (2, 3)}, get_backend("cpu"))
    assert [(b.shape, b.prunable) for b in bench.params] == [((3, 4), True)]


def test_mask_filler():
    filler = 'weight_filler { type: "constant" value: 1 } mask_filler { type: "uniform" min: -0.5 max: 0.5 }'
    weights, _ = Bench(layer(f"num_output: 4 {filler}"), {"x": (2, 3)}, get_backend("cpu")).params
    assert weights.mask.all() and weights.data.all()


@pytest.mark.parametrize(
    ("error", "match", "options", "shape"),
    [
        (ParameterError, "num_output must be given", "", (2, 3)),
        (ShapeError, "axis 3", "num_output: 2 axis: 3", (2, 3)),
        (ShapeError, "axis -3", "num_output: 2 axis: -3", (2, 3)),
    ],
)
def test_errors(error, match, options, shape):
    check_error(error, match, layer(options), {"x": shape})


def test_errors_of_blobs():
    check_error(NetError, "takes 1 bottom", 'layer { type: "InnerProduct" top: "y" }', {})
    check_error(NetError, "takes 1 top", 'layer { type: "InnerProduct" bottom: "x" }', {"x": (2, 3)})
    bench = Bench(layer("num_output: 2"), {"x": (2, 3)}, get_backend("cpu"))
    with pytest.raises(ShapeError, match=r'layer "L" \(InnerProduct\): bottom "x" must hold 3 values from axis 1'):
        bench.reshape({"x": (2, 4)})
