"""Eltwise, Concat and Slice against their formulas."""

from functools import reduce

import numpy as np
import pytest

from protocaffe.backends import get_backend
from protocaffe.errors import NetError, ParameterError, ShapeError
from tests.support.bench import Bench
from tests.support.check_layer import check_error, check_layer

SHAPES = [(2, 3, 4), (5,), (), (2, 0, 3), (1, 1, 1, 1, 1)]


def eltwise(options="", bottoms="ab"):
    names = " ".join(f'bottom: "{b}"' for b in bottoms)
    return f'layer {{ type: "Eltwise" {names} top: "y" eltwise_param {{ {options} }} }}'


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize(
    ("options", "bottoms", "coeff"),
    [("", "ab", (1, 1)), ("operation: SUM coeff: 2 coeff: -0.5", "ab", (2, -0.5)), ("", "abcd", (1, 1, 1, 1)),
     ("coeff: 1 coeff: 0 coeff: 3", "abc", (1, 0, 3))],
)  # fmt: skip
def test_sum(shape, options, bottoms, coeff):
    check_layer(
        eltwise(options, bottoms), dict.fromkeys(bottoms, shape),
        lambda *x: sum(c * v for c, v in zip(coeff, x, strict=True)),
        lambda arrays, diffs: [c * diffs[0] for c in coeff], reshaped="batch" if shape else None,
        large=dict.fromkeys(bottoms, (30, 40, 20)),
    )  # fmt: skip


@pytest.mark.parametrize("stable", ["true", "false"])
@pytest.mark.parametrize("bottoms", ["ab", "abcd"])
def test_prod(bottoms, stable):
    def gradient(arrays, diffs):
        return [diffs[0] * reduce(np.multiply, [a for j, a in enumerate(arrays) if j != i]) for i in range(len(arrays))]

    check_layer(
        eltwise(f"operation: PROD stable_prod_grad: {stable}", bottoms), dict.fromkeys(bottoms, (2, 3, 4)),
        lambda *x: reduce(np.multiply, x), gradient, kinks=[0], large=dict.fromkeys(bottoms, (30, 40, 20)),
    )  # fmt: skip


def test_the_stable_gradient_of_a_product_bears_zeros():
    bench = Bench(eltwise("operation: PROD", "abc"), dict.fromkeys("abc", (2,)), get_backend("cpu"))
    bench.forward([np.array([0.0, 2]), np.array([3.0, 0]), np.array([5.0, 0])])
    grads, _ = bench.backward([np.ones(2)], [True] * 3)
    np.testing.assert_array_equal(grads, [[15, 0], [0, 0], [0, 0]])


@pytest.mark.parametrize("bottoms", ["ab", "abcd"])
def test_max(bottoms):
    def gradient(arrays, diffs):
        winner = np.argmax(arrays, axis=0)
        return [np.where(winner == i, diffs[0], 0) for i in range(len(arrays))]

    rng = np.random.default_rng(0)
    inputs = {b: lambda _, shape: rng.permutation(np.prod(shape)).reshape(shape) * 0.1 + rng.random() for b in bottoms}
    check_layer(eltwise("operation: MAX", bottoms), dict.fromkeys(bottoms, (2, 3, 4)), lambda *x: reduce(np.maximum, x),
                gradient, inputs=inputs, large=dict.fromkeys(bottoms, (30, 40, 20)))  # fmt: skip


def test_of_equal_values_the_second_then_the_earlier_wins():
    bench = Bench(eltwise("operation: MAX", "abc"), dict.fromkeys("abc", (3,)), get_backend("cpu"))
    bench.forward([np.array([1.0, 1, 2]), np.array([1.0, 0, 1]), np.array([1.0, 1, 2])])
    grads, _ = bench.backward([np.ones(3)], [True] * 3)
    np.testing.assert_array_equal(grads, [[0, 1, 1], [1, 0, 0], [0, 0, 0]])


def test_max_takes_coefficients_and_ignores_them_as_caffe_does():
    bench = Bench(eltwise("operation: MAX coeff: 3 coeff: -1"), dict.fromkeys("ab", (2,)), get_backend("cpu"))
    (y,) = bench.forward([np.array([1.0, 5]), np.array([2.0, 4])])
    np.testing.assert_array_equal(y, [2, 5])
    grads, _ = bench.backward([np.array([7.0, 8])], [True] * 2)
    np.testing.assert_array_equal(grads, [[0, 8], [7, 0]])


def test_eltwise_errors():
    shapes = {"a": (2, 3), "b": (2, 3)}
    check_error(NetError, "takes at least 2 bottom", eltwise("", "a"), {"a": (2,)})
    match = r'bottom 1 "b" must have the shape of bottom 0 \(2, 3\), got \(3, 2\)'
    check_error(ShapeError, match, eltwise(), {"a": (2, 3), "b": (3, 2)})
    check_error(ParameterError, "coeff is for SUM, the operation is PROD",
                eltwise("operation: PROD coeff: 1 coeff: 2"), shapes)  # fmt: skip
    check_error(ParameterError, "for none or all 2 bottoms, got 1", eltwise("coeff: 1"), shapes)


# ----------------------------------------------------------------------------------------------------- Concat and Slice
def concat(options="", bottoms="ab"):
    names = " ".join(f'bottom: "{b}"' for b in bottoms)
    return f'layer {{ type: "Concat" {names} top: "y" concat_param {{ {options} }} }}'


def cut(options="", tops="ab"):
    names = " ".join(f'top: "{t}"' for t in tops)
    return f'layer {{ type: "Slice" bottom: "x" {names} slice_param {{ {options} }} }}'


@pytest.mark.parametrize(
    ("options", "axis", "shapes"),
    [("", 1, [(2, 3, 4), (2, 1, 4)]), ("axis: 0", 0, [(2, 3), (1, 3), (4, 3)]), ("axis: -1", 2, [(2, 3, 4), (2, 3, 1)]),
     ("concat_dim: 2", 2, [(2, 3, 4), (2, 3, 2)]), ("", 1, [(3, 2)]), ("", 1, [(1, 2, 3), (1, 4, 3), (1, 0, 3)])],
)  # fmt: skip
def test_concat(options, axis, shapes):
    names = "abcd"[: len(shapes)]
    points = np.cumsum([s[axis] for s in shapes])[:-1]
    check_layer(
        concat(options, names), dict(zip(names, shapes, strict=True)), lambda *x: np.concatenate(x, axis),
        lambda arrays, diffs: np.split(diffs[0], points, axis), reshaped="batch" if axis else None,
        large=dict.fromkeys(names, (40, 30, 20)),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("options", "axis", "shape", "points"),
    [("", 1, (2, 4, 3), [2]), ("axis: 0", 0, (6, 2), [2, 4]), ("axis: -1", 2, (2, 3, 4), [2]), ("", 1, (3, 2), []),
     ("slice_point: 1 slice_point: 4", 1, (2, 5, 3), [1, 4]), ("slice_dim: 2", 2, (2, 3, 4), [2]),
     ("slice_point: 1", 1, (1, 3, 2), [1])],
)  # fmt: skip
def test_slice(options, axis, shape, points):
    check_layer(
        cut(options, "abcd"[: len(points) + 1]), {"x": shape}, lambda x: np.split(x, points, axis),
        lambda arrays, diffs: [np.concatenate(diffs, axis)], reshaped="batch" if axis else None,
    )  # fmt: skip


def test_one_blob_is_shared():
    for text, name in ((concat("", "x"), "x"), (cut("", "y"), "x")):
        bench = Bench(text, {name: (2, 3)}, get_backend("cpu"))
        assert np.shares_memory(bench.top[0].data, bench.bottom[0].data)
        assert np.shares_memory(bench.top[0].diff, bench.bottom[0].diff)


def test_concat_and_slice_errors():
    check_error(
        ParameterError, "either axis or concat_dim", concat("axis: 1 concat_dim: 1"), {"a": (2, 3), "b": (2, 3)}
    )
    match = r'bottom 1 "b" must have the shape of bottom 0 \(2, 3\) but for axis 1, got \(3, 3\)'
    check_error(ShapeError, match, concat(), {"a": (2, 3), "b": (3, 3)})
    check_error(ShapeError, r"but for axis 1, got \(2, 3, 1\)", concat(), {"a": (2, 3), "b": (2, 3, 1)})
    check_error(ShapeError, "axis 2", concat("axis: 2"), {"a": (2, 3), "b": (2, 3)})
    check_error(ParameterError, "either axis or slice_dim", cut("axis: 1 slice_dim: 1"), {"x": (2, 4)})
    check_error(ParameterError, r"once less than there are tops \(2\), got \[1, 2\]",
                cut("slice_point: 1 slice_point: 2"), {"x": (2, 4)})  # fmt: skip
    check_error(ShapeError, r"axis 1 of bottom \(2, 3\) must divide into 2 equal pieces", cut(), {"x": (2, 3)})
    for points in ("slice_point: 0", "slice_point: 4"):
        check_error(ShapeError, "must rise from above 0 to below 4", cut(points), {"x": (2, 4)})
    check_error(ShapeError, "must rise", cut("slice_point: 2 slice_point: 2", "abc"), {"x": (2, 4)})
