"""Accuracy against counting."""

from functools import partial

import numpy as np
import pytest

from protocaffe.backends import get_backend
from protocaffe.errors import DataError, NetError, ParameterError, ShapeError
from tests.support import oracles
from tests.support.bench import Bench
from tests.support.check_layer import check_error, check_layer, labels


def layer(options="", tops=("acc",)):
    blobs = "".join(f' top: "{t}"' for t in tops)
    return f'layer {{ type: "Accuracy" bottom: "x" bottom: "label"{blobs} accuracy_param {{ {options} }} }}'


@pytest.mark.parametrize("tops", [("acc",), ("acc", "each")])
@pytest.mark.parametrize(
    ("options", "x", "label", "oracle"),
    [
        ("", (9, 4), (9,), {}),
        ("top_k: 2", (9, 4), (9, 1), {"top_k": 2}),
        ("top_k: 4", (5, 4), (5,), {"top_k": 4}),
        ("ignore_label: 1", (9, 3), (9,), {"ignore": 1}),
        ("ignore_label: 255", (3, 3, 4), (3, 4), {"ignore": 255}),
        ("axis: -1", (2, 5, 3), (2, 5), {"axis": -1}),
        ("", (2, 3, 4, 2), (2, 4, 2), {}),
    ],
)
def test_against_the_oracle(tops, options, x, label, oracle):
    draw = labels(x[oracle.get("axis", 1)], *([oracle["ignore"]] if "ignore" in oracle else []))
    reference = partial(oracles.accuracy, per_class=len(tops) == 2, **oracle)
    large = {"x": (700, 50), "label": (700,)} if len(x) == 2 and label == (9,) else None
    check_layer(layer(options, tops), {"x": x, "label": label}, reference, inputs={"label": draw}, large=large)


def test_ties_count_against_the_label():
    bench = Bench(layer(), {"x": (4, 2), "label": (4,)}, get_backend("cpu"))
    x = np.array([[1, 1], [1, 1], [2, 1], [1, 2]])
    assert bench.forward([x, [0, 1, 0, 1]])[0] == 0.5


def test_nothing_to_count():
    bench = Bench(layer("ignore_label: 0", ("acc", "each")), {"x": (2, 2), "label": (2,)}, get_backend("cpu"))
    acc, each = bench.forward([np.ones((2, 2)), [0, 0]])
    assert acc == 0 and each.tolist() == [0, 0]


def test_nan_scores_are_not_right():
    bench = Bench(layer(), {"x": (1, 3), "label": (1,)}, get_backend("cpu"))
    assert bench.forward([np.full((1, 3), np.nan), [0]])[0] == 0


@pytest.mark.parametrize("bad", [3, -1])
def test_labels_out_of_range(bad):
    check_error(DataError, f"label {bad} is out of range: there are 3 classes", layer(), {"x": (2, 3), "label": (2,)},
                [np.zeros((2, 3)), [0, bad]])  # fmt: skip


def test_errors():
    shapes = {"x": (2, 3), "label": (2,)}
    check_error(ParameterError, "top_k must be 1 to the number of classes 3, got 4", layer("top_k: 4"), shapes)
    check_error(ParameterError, "top_k must be 1", layer("top_k: 0"), shapes)
    check_error(ShapeError, 'bottom "label" must hold 2 labels', layer(), {"x": (2, 3), "label": (3,)})
    check_error(ShapeError, "axis 2", layer("axis: 2"), shapes)
    check_error(NetError, "takes at least 1 top", layer(tops=()), shapes)
    check_error(NetError, "takes 2 bottom", layer().replace('bottom: "label"', ""), {"x": (2, 3)})
