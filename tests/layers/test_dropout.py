"""Dropout: what it keeps, how often, and that the draws can be repeated."""

import numpy as np
import pytest

from protocaffe.backends import get_backend
from protocaffe.errors import NetError, ParameterError
from protocaffe.io import prototxt
from protocaffe.net import Net
from tests.support.bench import Bench
from tests.support.check_layer import check_error, check_layer

TRAIN, TEST = 0, 1
N = 40_000


def layer(ratio=None, name="L"):
    options = "" if ratio is None else f"dropout_param {{ dropout_ratio: {ratio} }}"
    return f'layer {{ name: "{name}" type: "Dropout" bottom: "x" top: "y" {options} }}'


def kept(bench):
    return bench.forward([np.ones(bench.bottom[0].shape)])[0] != 0


@pytest.mark.parametrize("ratio", [0.0, 0.1, 0.5, 0.9])
@pytest.mark.parametrize("real", ["float32", "float64"])
def test_in_training(ratio, real):
    bench = Bench(layer(ratio), {"x": (200, 200)}, get_backend("cpu", real), TRAIN)
    x = np.random.default_rng(0).standard_normal((200, 200)).astype(real) + 10
    y = bench.forward([x])[0]
    keep, scale = y != 0, 1 / (1 - np.float32(ratio))
    np.testing.assert_allclose(y, np.where(keep, x * scale, 0), rtol=1e-6)
    spread = np.sqrt(ratio * (1 - ratio) / N)
    assert abs(keep.mean() - (1 - ratio)) <= 4 * spread
    for axis in (0, 1):  # no row, no column is special
        assert np.abs(keep.mean(axis=axis) - (1 - ratio)).max() <= 5.5 * spread * np.sqrt(200)
    dy = np.random.default_rng(1).standard_normal((200, 200))
    (dx,), _ = bench.backward([dy], [True])
    np.testing.assert_allclose(dx, np.where(keep, dy * scale, 0), rtol=1e-5)
    assert (bench.backward([dy], [False], junk=7)[0][0] == 7).all()


def test_the_default_ratio_is_a_half():
    assert 0.49 < kept(Bench(layer(), {"x": (N,)}, get_backend("cpu"), TRAIN)).mean() < 0.51


def test_neighbours_are_independent():
    keep = kept(Bench(layer(0.5), {"x": (N,)}, get_backend("cpu"), TRAIN)) - 0.5
    for lag in (1, 2, 3, 4, 5, 8, 64):
        assert abs((keep[lag:] * keep[:-lag]).mean()) < 4 * 0.25 / np.sqrt(N)


def test_draws_depend_on_seed_layer_and_pass_alone():
    def draw(name="L", seed=1, count=0, real="float32", shape=(N,)):
        bench = Bench(layer(0.5, name), {"x": shape}, get_backend("cpu", real), TRAIN, seed)
        bench.forward_count.array[0] = count
        return kept(bench).ravel()

    first = draw()
    assert (draw() == first).all() and (draw(real="float64") == first).all()
    assert (draw(shape=(100, 4, 100)) == first).all() and (draw(shape=(1000,)) == first[:1000]).all()
    for other in (draw("M"), draw(seed=2), draw(count=1), draw(count=2**32), draw(count=2**40 + 1)):
        assert 0.48 < (other == first).mean() < 0.52


def test_inplace_and_threads(cpu):
    x = np.random.default_rng(0).standard_normal((300, 200)).astype(np.float32)
    apart = Bench(layer(0.3), {"x": x.shape}, cpu, TRAIN)
    inplace = Bench(layer(0.3).replace('top: "y"', 'top: "x"'), {"x": x.shape}, cpu, TRAIN, inplace=True)
    wanted = apart.forward([x])[0]
    assert (inplace.forward([x])[0] == wanted).all()
    diff = apart.backward([x], [True])[0][0]
    inplace.bottom[0].diff[...] = x
    assert (inplace.backward([x], [True])[0][0] == diff).all()
    before = cpu.threads
    try:
        for cpu.threads in (1, 3):
            assert (apart.forward([x])[0] == wanted).all()
    finally:
        cpu.threads = before


def test_dropped_values_are_zero_whatever_they_were():
    bench = Bench(layer(0.5), {"x": (64,)}, get_backend("cpu"), TRAIN)
    keep = kept(bench)
    assert (bench.forward([np.full(64, np.nan)])[0][~keep] == 0).all()
    assert np.isnan(bench.forward([np.full(64, np.nan)])[0][keep]).all()


def test_when_testing_nothing_changes():
    check_layer(layer(0.7), {"x": (3, 4, 5)}, lambda x: x, lambda arrays, diffs: list(diffs), phase=TEST)


def test_another_shape():
    bench = Bench(layer(0.5), {"x": (4, 5)}, get_backend("cpu"), TRAIN)
    bench.forward()
    bench.reshape({"x": (300, 7)})
    assert 0.4 < kept(bench).mean() < 0.6


NET = """layer { name: "in" type: "Input" top: "x" input_param { shape { dim: 3000 } } }
layer { name: "a" type: "Dropout" bottom: "x" top: "a" }
layer { name: "b" type: "Dropout" bottom: "a" top: "b" }"""


def passes(net, count):
    return [net.forward(x=np.ones(3000))["b"].copy() for _ in range(count)]


def test_a_net_draws_anew_in_each_pass_and_can_go_on():
    net = Net(prototxt.parse_net(NET), TRAIN, seed=5)
    run = passes(net, 4)
    assert all((a != b).any() for i, a in enumerate(run) for b in run[:i])
    assert (net.blobs["a"].data != 0).mean() == pytest.approx(0.5, abs=0.05)
    again = Net(prototxt.parse_net(NET), TRAIN, seed=5)
    assert all((a == b).all() for a, b in zip(passes(again, 2), run, strict=False))
    resumed = Net(prototxt.parse_net(NET), TRAIN, seed=9)
    resumed.reseed(5)
    resumed.forward_count.array[0] = again.forward_count.array[0]
    assert all((a == b).all() for a, b in zip(passes(resumed, 2), run[2:], strict=True))


def test_testing_leaves_the_count_alone():
    net = Net(prototxt.parse_net(NET), TEST, seed=5)
    assert (passes(net, 2)[1] == 1).all() and net.forward_count.array[0] == 0


@pytest.mark.parametrize("ratio", [1.0, 1.5, -0.1])
def test_errors(ratio):
    match = f"dropout_ratio must be at least 0 and below 1, got {ratio}"
    check_error(ParameterError, match, layer(ratio), {"x": (2,)})
    check_error(NetError, "takes 1 bottom", 'layer { type: "Dropout" top: "y" }', {})
