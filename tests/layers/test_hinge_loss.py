"""HingeLoss against its formula."""

import numpy as np
import pytest

from protocaffe.backends import get_backend
from protocaffe.errors import DataError, NetError, ShapeError
from tests.support.bench import Bench
from tests.support.check_layer import check_error, check_layer, labels


def layer(options="", more=""):
    params = f"hinge_loss_param {{ {options} }} {more}"
    return f'layer {{ type: "HingeLoss" bottom: "x" bottom: "label" top: "loss" {params} }}'


def formulas(power):
    def signs(x, label):
        s = np.ones((len(x), x[:1].size)) if len(x) else np.ones((0, 1))
        s[np.arange(len(x)), label.ravel().astype(int)] = -1
        return s.reshape(x.shape) if len(x) else np.ones(x.shape)

    def reference(x, label):
        return np.array((np.maximum(0, 1 + signs(x, label) * x) ** power).sum() / max(1, len(x)))

    def gradient(arrays, diffs):
        s = signs(*arrays)
        h = np.maximum(0, 1 + s * arrays[0])
        return [diffs[0] * s * np.where(h > 0, power * h ** (power - 1), 0) / max(1, len(h)), None]

    return reference, gradient


@pytest.mark.parametrize(("options", "power"), [("", 1), ("norm: L1", 1), ("norm: L2", 2)])
@pytest.mark.parametrize(
    ("x", "label"),
    [((6, 5), (6,)), ((3, 2, 1, 3), (3, 1, 1, 1)), ((1, 1), (1,)), ((0, 3), (0,)), ((4, 1, 1, 2, 1), (4, 1))],
    ids=str,
)  # fmt: skip
def test_hinge_loss(x, label, options, power):
    classes = int(np.prod(x[1:]))
    check_layer(layer(options), {"x": x, "label": label}, *formulas(power), kinks=[-1, 1],
                inputs={"label": labels(classes)}, large={"x": (600, 50), "label": (600,)})  # fmt: skip


def test_loss_param_changes_nothing():
    text = layer(more="loss_param { ignore_label: 1 normalization: FULL }")
    check_layer(text, {"x": (5, 3), "label": (5,)}, *formulas(1), kinks=[-1, 1], inputs={"label": labels(3)})


def test_on_the_margin():
    bench = Bench(layer(), {"x": (1, 3), "label": (1,)}, get_backend("cpu"))
    assert bench.forward([np.array([[1.0, -1.0, -3.0]]), np.zeros(1)])[0] == 0
    assert bench.backward([np.ones(())], [True, False])[0][0].tolist() == [[0, 0, 0]]


@pytest.mark.parametrize("bad", [3, -1])
def test_labels_out_of_range(bad):
    shapes, x = {"x": (2, 3), "label": (2,)}, np.zeros((2, 3))
    check_error(DataError, f"label {bad} is out of range: there are 3 classes, 0 to 2", layer(), shapes, [x, [0, bad]])


def test_errors():
    match = r'bottom "label" must hold 2 labels, one for each item \(axis 0\) of "x" \(2, 3\), got 6 \(\(2, 3\)\)'
    check_error(ShapeError, match, layer(), {"x": (2, 3), "label": (2, 3)})
    check_error(ShapeError, "must hold 1 labels", layer(), {"x": (), "label": ()})
    check_error(NetError, "takes 2 bottom blobs, got 1", layer().replace('bottom: "label"', ""), {"x": (2, 3)})
