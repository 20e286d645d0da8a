"""SoftmaxWithLoss and NLLLoss against their formulas, and against each other."""

from functools import partial

import numpy as np
import pytest

from protocaffe.backends import get_backend
from protocaffe.errors import DataError, NetError, ShapeError
from protocaffe.io import prototxt
from protocaffe.net import Net
from tests.support import oracles
from tests.support.bench import Bench
from tests.support.check_layer import check_error, check_layer, labels

KINDS = {"SoftmaxWithLoss": "softmax_loss", "NLLLoss": "nll_loss"}


def layer(kind, options="", axis=1, tops=("loss",)):
    blobs = "".join(f' top: "{t}"' for t in tops)
    params = f"softmax_param {{ axis: {axis} }} loss_param {{ {options} }}"
    return f'layer {{ type: "{kind}" bottom: "x" bottom: "label"{blobs} {params} }}'


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("options", "x", "label", "oracle"),
    [
        ("", (5, 4), (5,), {}),
        ("", (3, 4), (3, 1, 1, 1), {}),
        ("", (2, 3, 4, 2), (2, 4, 2), {}),
        ("", (2, 3, 4, 2), (2, 1, 4, 2), {}),
        ("", (2, 4, 3), (2, 4), {"axis": -1}),
        ("ignore_label: 1", (6, 3), (6,), {"ignore": 1}),
        ("ignore_label: 255", (2, 3, 4), (2, 4), {"ignore": 255}),
        ("ignore_label: -1 normalization: VALID", (2, 3, 4), (2, 4), {"ignore": -1}),
        ("ignore_label: 2 normalization: FULL", (2, 3, 4), (2, 4), {"ignore": 2, "normalization": "FULL"}),
        ("ignore_label: 2 normalization: BATCH_SIZE", (2, 3, 4), (2, 4), {"ignore": 2, "normalization": "BATCH_SIZE"}),
        ("ignore_label: 2 normalization: NONE", (2, 3, 4), (2, 4), {"ignore": 2, "normalization": "NONE"}),
        ("normalize: true", (2, 3, 4), (2, 4), {}),
        ("normalize: false", (2, 3, 4), (2, 4), {"normalization": "BATCH_SIZE"}),
        ("normalize: false normalization: FULL", (2, 3, 4), (2, 4), {"normalization": "FULL"}),
    ],
)
def test_against_the_oracle(kind, options, x, label, oracle):
    reference, gradient = (partial(getattr(oracles, KINDS[kind] + end), **oracle) for end in ("", "_gradient"))
    classes = x[oracle.get("axis", 1)]
    draw = labels(classes, *([oracle["ignore"]] if "ignore" in oracle else []))
    large = {"x": (600, 50), "label": (600,)} if len(x) == 2 else None
    check_layer(layer(kind, options, oracle.get("axis", 1)), {"x": x, "label": label}, reference, gradient,
                inputs={"label": draw}, large=large)  # fmt: skip


def test_probabilities_as_second_top():
    def reference(x, label):
        return oracles.softmax_loss(x, label), oracles.softmax(x)

    check_layer(layer("SoftmaxWithLoss", tops=("loss", "prob")), {"x": (4, 3), "label": (4,)}, reference,
                oracles.softmax_loss_gradient, inputs={"label": labels(3)}, passive_tops=["prob"])  # fmt: skip


def test_classes_along_axis_0():
    for kind, name in KINDS.items():
        reference, gradient = (partial(getattr(oracles, name + end), axis=0) for end in ("", "_gradient"))
        check_layer(layer(kind, axis=0), {"x": (3, 4), "label": (4,)}, reference, gradient,
                    inputs={"label": labels(3)}, reshaped={"x": (3, 6), "label": (6,)})  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_all_ignored(kind):
    bench = Bench(layer(kind, "ignore_label: 0"), {"x": (2, 3), "label": (2,)}, get_backend("cpu"))
    assert bench.forward([np.ones((2, 3)), np.zeros(2)])[0] == 0
    assert not bench.backward([np.ones(())], [True, False])[0][0].any()


def in_net(text, x, label):
    inputs = "".join(
        f'layer {{ name: "{name}" type: "Input" top: "{name}" input_param {{ shape {{ '
        f"{' '.join(f'dim: {d}' for d in values.shape)} }} }} }}"
        for name, values in (("x", x), ("label", label))
    )
    net = Net(prototxt.parse_net(f"force_backward: true {inputs} {text}"), 0, backend=get_backend("cpu", "float64"))
    net.forward(x=x, label=label)
    net.backward()
    return net


@pytest.mark.parametrize("options", ["", "ignore_label: 1", "ignore_label: 1 normalization: FULL"])
def test_log_softmax_and_nll_are_softmax_with_loss(options):
    rng = np.random.default_rng(0)
    x, label = rng.standard_normal((5, 4, 3)), rng.integers(0, 4, (5, 3))
    pair = 'layer { name: "p" type: "LogSoftmax" bottom: "x" top: "logp" }'
    pair += layer("NLLLoss", options).replace('bottom: "x"', 'name: "l" bottom: "logp"')
    one, two = in_net(pair, x, label), in_net(layer("SoftmaxWithLoss", options), x, label)
    assert one.loss() == pytest.approx(two.loss(), rel=1e-14)
    np.testing.assert_allclose(one.blobs["x"].diff, two.blobs["x"].diff, rtol=1e-12, atol=1e-16)
    if not options:
        onehot = np.moveaxis(np.eye(4)[label], -1, 1)
        np.testing.assert_allclose(one.blobs["x"].diff, (oracles.softmax(x) - onehot) / 15, rtol=1e-12, atol=1e-16)


@pytest.mark.parametrize("kind", KINDS)
def test_a_loss_makes_its_top_and_weighs_it(kind):
    x, label = np.log(oracles.softmax(np.eye(2, 3))), np.array([0, 2])
    one = in_net(layer(kind, tops=()), x, label)
    two = in_net(layer(kind).replace("loss_param", "loss_weight: 3 loss_param"), x, label)
    assert two.loss() == pytest.approx(3 * one.loss())
    np.testing.assert_allclose(two.blobs["x"].diff, 3 * one.blobs["x"].diff)


@pytest.mark.parametrize("real", ["float32", "float64"])
def test_large_scores(real):
    x, label = np.array([[1e4, 0, -1e4], [1e4, 0, -1e4], [-3e38, 3e38, 0]]), np.array([0, 2, 1])
    text = {kind: layer(kind, "normalization: NONE") for kind in KINDS}
    bench = Bench(text["SoftmaxWithLoss"], {"x": (3, 3), "label": (3,)}, get_backend("cpu", real))
    floor = -np.log(np.finfo(real).tiny)
    np.testing.assert_allclose(bench.forward([x, label])[0], floor, rtol=1e-6)
    dx = bench.backward([np.ones(())], [True, False])[0][0]
    assert dx.tolist() == [[0, 0, 0], [1, 0, -1], [0, 0, 0]]
    bench = Bench(text["NLLLoss"], {"x": (1, 3), "label": (1,)}, get_backend("cpu", real))
    assert bench.forward([np.array([[-2e4, 0, 0]]), np.array([0])])[0] == 2e4


@pytest.mark.parametrize("kind", KINDS)
def test_nan_reaches_the_loss(kind):
    bench = Bench(layer(kind), {"x": (2, 3), "label": (2,)}, get_backend("cpu"))
    assert np.isnan(bench.forward([np.array([[0, 0, 0], [0, np.nan, 0]]), np.array([0, 1])])[0])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("bad", [3, -1, 7])
def test_labels_out_of_range(kind, bad):
    match = f"label {bad} is out of range: there are 3 classes, 0 to 2"
    shapes, x = {"x": (2, 3), "label": (2,)}, np.zeros((2, 3))
    check_error(DataError, match, layer(kind), shapes, [x, [0, bad]])
    check_error(DataError, match, layer(kind, "ignore_label: 255"), shapes, [x, [bad, 255]])
    bench = Bench(layer(kind), shapes, get_backend("cpu"))
    with pytest.raises(DataError):
        bench.forward([x, [bad, 0]])
    bench.forward([x, [1, 0]])  # a good batch after a bad one is fine


@pytest.mark.parametrize("kind", KINDS)
def test_errors(kind):
    text = layer(kind)
    match = r'bottom "label" must hold 8 labels, one for each position of "x" \(2, 3, 4\) but axis 1, got 2 \(\(2,\)\)'
    check_error(ShapeError, match, text, {"x": (2, 3, 4), "label": (2,)})
    check_error(ShapeError, "axis 2", layer(kind, axis=2), {"x": (2, 3), "label": (2,)})
    check_error(NetError, "takes 2 bottom blobs, got 1", text.replace('bottom: "label"', ""), {"x": (2, 3)})
    match = f"takes at most {2 if kind == 'SoftmaxWithLoss' else 1} top"
    check_error(NetError, match, layer(kind, tops="abc"), {"x": (2, 3), "label": (2,)})
