"""EuclideanLoss against its formula."""

import numpy as np
import pytest

from protocaffe.backends import get_backend
from protocaffe.errors import NetError, ShapeError
from protocaffe.io import prototxt
from protocaffe.net import Net
from tests.support.check_layer import check_error, check_layer

LAYER = 'layer { name: "L" type: "EuclideanLoss" bottom: "a" bottom: "b" top: "loss" }'


def reference(a, b):
    return ((a.ravel() - b.ravel()) ** 2).sum() / (2 * max(1, len(a)))


def gradient(arrays, diffs):
    a, b = arrays
    d = diffs[0] * (a.ravel() - b.ravel()) / max(1, len(a))
    return [d.reshape(a.shape), -d.reshape(b.shape)]


@pytest.mark.parametrize(
    ("a", "b"),
    [((3, 4, 2, 2), (3, 4, 2, 2)), ((5, 4), (5, 2, 2)), ((6,), (6, 1)), ((1,), (1,)),
     ((2, 1, 2, 1, 3), (2, 6)), ((0, 3), (0, 3))],
    ids=str,
)  # fmt: skip
def test_euclidean_loss(a, b):
    check_layer(LAYER, {"a": a, "b": b}, lambda a, b: np.array(reference(a, b)), gradient,
                large={"a": (100, 457), "b": (100, 457)})  # fmt: skip


def test_more_chunks_than_one():
    check_layer(LAYER, {"a": (3, 5000), "b": (3, 5000)}, lambda a, b: np.array(reference(a, b)), gradient)


@pytest.mark.parametrize("down", [(True, True), (True, False), (False, True), (False, False)])
def test_weight_and_propagate_down_in_a_net(down):
    a, b = np.arange(6.0).reshape(2, 3), np.array([[1.0, 0, 5], [2, 2, 2]])
    text = "".join(
        f'layer {{ name: "in_{n}" type: "Input" top: "{n}" input_param {{ shape {{ dim: 2 dim: 3 }} }} }}' for n in "ab"
    )
    flags = " ".join(f"propagate_down: {str(d).lower()}" for d in down)
    text += LAYER.replace("top:", f"loss_weight: 3 {flags} top:")
    net = Net(prototxt.parse_net(text), 0, backend=get_backend("cpu", "float64"))
    net.forward(a=a, b=b)
    assert net.loss() == pytest.approx(3 * reference(a, b), rel=1e-14)
    net.backward()
    for name, sign, wanted in zip("ab", (1, -1), down, strict=True):
        np.testing.assert_allclose(net.blobs[name].diff, sign * wanted * 3 * (a - b) / 2, rtol=1e-14)


def test_errors():
    match = r'bottoms "a" and "b" must have the same number of items .* got \(2, 3\) and \({}\)'
    check_error(ShapeError, match.format("3, 2"), LAYER, {"a": (2, 3), "b": (3, 2)})
    check_error(ShapeError, match.format("2, 4"), LAYER, {"a": (2, 3), "b": (2, 4)})
    check_error(ShapeError, "same number of items", LAYER, {"a": (), "b": ()})
    check_error(NetError, "takes 2 bottom blobs, got 1", LAYER.replace('bottom: "b"', ""), {"a": (2,)})
