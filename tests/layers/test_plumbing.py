"""Split, Flatten and Silence: layers that compute little."""

import numpy as np
import pytest

from protocaffe.backends import get_backend
from protocaffe.errors import NetError, ParameterError, ShapeError
from tests.support.bench import Bench
from tests.support.check_layer import check_error, check_layer


@pytest.mark.parametrize("tops", ["a", "ab", "abcde"])
def test_split(tops):
    text = f'layer {{ type: "Split" bottom: "x" {" ".join(f"top: {t!r}" for t in tops)} }}'
    check_layer(text, {"x": (2, 3, 4)}, lambda x: [x] * len(tops), lambda arrays, diffs: [sum(diffs)],
                large={"x": (40, 30, 30)})  # fmt: skip


def test_split_copies_nothing():
    bench = Bench('layer { type: "Split" bottom: "x" top: "a" top: "b" }', {"x": (2,)}, get_backend("cpu"))
    assert all(np.shares_memory(t.data, bench.bottom[0].data) for t in bench.top)
    assert not np.shares_memory(bench.top[0].diff, bench.top[1].diff)
    check_error(NetError, "takes at least 1 top", 'layer { type: "Split" bottom: "x" }', {"x": (2,)})


def flatten(options=""):
    return f'layer {{ type: "Flatten" bottom: "x" top: "y" flatten_param {{ {options} }} }}'


@pytest.mark.parametrize(
    ("options", "shape"),
    [("", (-1, 60)), ("axis: 0", (-1,)), ("axis: 2", (-1, 3, 20)), ("axis: 1 end_axis: 2", (-1, 12, 5)),
     ("axis: -2 end_axis: -1", (-1, 3, 20)), ("axis: 1 end_axis: 1", (-1, 3, 4, 5))],
)  # fmt: skip
def test_flatten(options, shape):
    check_layer(flatten(options), {"x": (2, 3, 4, 5)}, lambda x: x.reshape(shape),
                lambda arrays, diffs: [diffs[0].reshape(arrays[0].shape)])  # fmt: skip


def test_flatten_copies_nothing():
    bench = Bench(flatten(), {"x": (2, 3, 4)}, get_backend("cpu"))
    assert np.shares_memory(bench.top[0].data, bench.bottom[0].data)
    assert np.shares_memory(bench.top[0].diff, bench.bottom[0].diff)


@pytest.mark.parametrize(
    ("error", "match", "options"),
    [
        (ShapeError, "axis 3", "axis: 3"),
        (ShapeError, "axis -4", "end_axis: -4"),
        (ParameterError, "end_axis 1 lies before axis 2", "axis: 2 end_axis: 1"),
    ],
)
def test_flatten_errors(error, match, options):
    check_error(error, match, flatten(options), {"x": (2, 3, 4)})


def test_silence():
    text = 'layer { type: "Silence" bottom: "x" bottom: "z" }'
    check_layer(text, {"x": (2, 3), "z": (4,)}, lambda x, z: (), lambda arrays, diffs: [0 * a for a in arrays])
    check_error(NetError, "takes at least 1 bottom", 'layer { type: "Silence" }', {})
    check_error(NetError, "takes 0 top blobs, got 1", 'layer { type: "Silence" bottom: "x" top: "y" }', {"x": (2,)})
