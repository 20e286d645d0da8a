"""SigmoidCrossEntropyLoss against its formula."""

import numpy as np
import pytest

from protocaffe.backends import get_backend
from protocaffe.errors import NetError, ShapeError
from tests.support.bench import Bench
from tests.support.check_layer import check_error, check_layer


def layer(options=""):
    return f'layer {{ type: "SigmoidCrossEntropyLoss" bottom: "x" bottom: "t" top: "loss" loss_param {{ {options} }} }}'


def formulas(ignore=None, normalization="BATCH_SIZE"):
    def counted(x, t):
        valid = np.ones(t.shape, bool) if ignore is None else t.astype(int) != ignore
        by = {"BATCH_SIZE": len(x), "FULL": x.size, "VALID": valid.sum(), "NONE": 1}[normalization]
        return valid.reshape(x.shape), max(1, by)

    def reference(x, t):
        valid, by = counted(x, t)
        t = t.reshape(x.shape)
        losses = t * np.logaddexp(0, -x) + (1 - t) * np.logaddexp(0, x)
        return np.array(losses[valid].sum() / by)

    def gradient(arrays, diffs):
        x, t = arrays
        valid, by = counted(x, t)
        return [diffs[0] * valid * (1 / (1 + np.exp(-x)) - t.reshape(x.shape)) / by, None]

    return reference, gradient


def targets(*extra):
    def draw(rng, shape):
        t = rng.uniform(0.0625, 0.9375, shape)
        for value in extra:
            t = np.where(rng.uniform(size=shape) < 0.3, value, t)
        return t.astype(np.float32).astype(np.float64)

    return draw


@pytest.mark.parametrize(
    ("options", "oracle", "extra"),
    [
        ("", {}, (0, 1)),
        ("normalization: FULL", {"normalization": "FULL"}, ()),
        ("normalization: VALID", {"normalization": "VALID"}, ()),
        ("normalization: NONE", {"normalization": "NONE"}, ()),
        ("normalize: true", {"normalization": "VALID"}, ()),
        ("normalize: false", {}, ()),
        ("normalize: true normalization: FULL", {"normalization": "FULL"}, ()),
        ("ignore_label: 2", {"ignore": 2}, (2,)),
        ("ignore_label: 0", {"ignore": 0}, (1,)),  # as in Caffe targets are cut to integers for the comparison
        ("ignore_label: -1 normalization: VALID", {"ignore": -1, "normalization": "VALID"}, (-1,)),
        ("ignore_label: 2 normalization: FULL", {"ignore": 2, "normalization": "FULL"}, (2,)),
        ("ignore_label: 2 normalize: true", {"ignore": 2, "normalization": "VALID"}, (2,)),
    ],
)
@pytest.mark.parametrize(("x", "t"), [((4, 5), (4, 5)), ((3, 2, 3), (3, 6)), ((4,), (4, 1))], ids=str)
def test_against_the_formula(x, t, options, oracle, extra):
    check_layer(layer(options), {"x": x, "t": t}, *formulas(**oracle), inputs={"t": targets(*extra)},
                large={"x": (100, 457), "t": (100, 457)})  # fmt: skip


@pytest.mark.parametrize("shape", [(1,), (0, 3), (2, 1, 2, 1, 2), (3, 5000)], ids=str)
def test_edge_shapes(shape):
    for options, oracle in ("", {}), ("ignore_label: 1 normalization: VALID", {"ignore": 1, "normalization": "VALID"}):
        check_layer(layer(options), {"x": shape, "t": shape}, *formulas(**oracle), inputs={"t": targets(1)})


@pytest.mark.parametrize("real", ["float32", "float64"])
@pytest.mark.parametrize("size", [100, 1e4, 1e30])
def test_large_scores(real, size):
    bench = Bench(layer("normalization: NONE"), {"x": (4,), "t": (4,)}, get_backend("cpu", real))
    x, t = np.array([size, -size, size, -size]), np.array([1.0, 0, 0, 1])
    np.testing.assert_allclose(bench.forward([x, t])[0], 2 * size, rtol=1e-6)
    dx = bench.backward([np.ones(())], [True, False])[0][0]
    np.testing.assert_allclose(dx, [0, 0, 1, -1], atol=1e-40)


def test_small_losses_keep_their_digits_in_float():
    x = np.array([[0.0, 0.5, 3, 9, 16, 20, -20]]).T
    for value in x:
        bench = Bench(layer(), {"x": (1,), "t": (1,)}, get_backend("cpu"))
        loss = bench.forward([value, np.array([float(value[0] >= 0)])])[0]
        np.testing.assert_allclose(loss, np.log1p(np.exp(-abs(value[0]))), rtol=1e-6)


def test_all_ignored():
    bench = Bench(layer("ignore_label: 2 normalization: VALID"), {"x": (2, 3), "t": (2, 3)}, get_backend("cpu"))
    assert bench.forward([np.ones((2, 3)), np.full((2, 3), 2)])[0] == 0
    assert not bench.backward([np.ones(())], [True, False])[0][0].any()


def test_nan_reaches_the_loss():
    bench = Bench(layer(), {"x": (2, 2), "t": (2, 2)}, get_backend("cpu"))
    assert np.isnan(bench.forward([np.array([[0, 0], [0, np.nan]]), np.ones((2, 2))])[0])


def test_errors():
    match = r'bottom "t" must hold 6 targets, one for each value of "x" \(2, 3\), in as many items \(axis 0\), got {}'
    check_error(ShapeError, match.format(r"2 \(\(2,\)\)"), layer(), {"x": (2, 3), "t": (2,)})
    check_error(ShapeError, match.format(r"6 \(\(3, 2\)\)"), layer(), {"x": (2, 3), "t": (3, 2)})
    check_error(NetError, "takes at most 1 top blob, got 2", layer().replace('"loss"', '"loss" top: "prob"'),
                {"x": (2,), "t": (2,)})  # fmt: skip
