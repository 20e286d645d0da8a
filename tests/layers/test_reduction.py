"""Reduction against its formula."""

import numpy as np
import pytest

from protocaffe.backends import get_backend
from protocaffe.errors import ShapeError
from tests.support.bench import Bench
from tests.support.check_layer import check_error, check_layer

#: operation: (each value's part, its derivative)
OPERATIONS = {
    "SUM": (lambda x: x, np.ones_like),
    "ASUM": (np.abs, np.sign),
    "SUMSQ": (np.square, lambda x: 2 * x),
    "MEAN": (lambda x: x, np.ones_like),
}


def layer(options):
    return f'layer {{ type: "Reduction" bottom: "x" top: "y" reduction_param {{ {options} }} }}'


def formulas(operation, axis, coeff):
    part, slope = OPERATIONS[operation]

    def factor(x, axis):
        return coeff / max(1, np.prod(x.shape[axis:])) if operation == "MEAN" else coeff

    def reference(x):
        at = axis % x.ndim
        return np.asarray(factor(x, at) * part(x).sum(axis=tuple(range(at, x.ndim))))

    def gradient(arrays, diffs):
        x = arrays[0]
        at = axis % x.ndim
        return [factor(x, at) * slope(x) * diffs[0].reshape(*x.shape[:at], *[1] * (x.ndim - at))]

    return reference, gradient


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize(
    ("shape", "axis", "coeff"),
    [((2, 3, 4, 5), 0, 1), ((3, 4, 5), 1, 2), ((2, 3, 4, 2), 2, -0.5), ((2, 3, 4), -1, 3), ((2, 2, 1, 3, 2), -3, 1),
     ((7,), 0, 1), ((1,), -1, 1), ((0, 3), 0, 1), ((0, 3), 1, 1), ((3, 0), 1, 2)],
    ids=str,
)  # fmt: skip
def test_reduction(operation, shape, axis, coeff):
    large = {0: (40, 50, 60), -1: (700, 81), 1: (3, 30000)}.get(axis, (20, 30, 40, 5, 2))
    check_layer(layer(f"operation: {operation} axis: {axis} coeff: {coeff}"), {"x": shape},
                *formulas(operation, axis, coeff), kinks=[0], large={"x": large})  # fmt: skip


def test_defaults():
    check_layer(layer(""), {"x": (3, 4)}, *formulas("SUM", 0, 1))


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("axis", [0, 1])
def test_rows_of_several_chunks(operation, axis):
    check_layer(layer(f"operation: {operation} axis: {axis} coeff: 0.5"), {"x": (2, 9001)},
                *formulas(operation, axis, 0.5), kinks=[0], reshaped={"x": (2, 30)})  # fmt: skip


def test_the_absolute_value_of_zero_has_no_gradient():
    bench = Bench(layer("operation: ASUM"), {"x": (3,)}, get_backend("cpu"))
    assert bench.forward([np.array([-2.0, 0.0, 3.0])])[0] == 5
    assert bench.backward([np.ones(())], [True])[0][0].tolist() == [-1, 0, 1]


def test_errors():
    check_error(ShapeError, "axis 2", layer("axis: 2"), {"x": (2, 3)})
    check_error(ShapeError, "axis -3", layer("axis: -3"), {"x": (2, 3)})
