"""BatchNorm against its formula, its running statistics against Caffe's rule."""

import numpy as np
import pytest

import protocaffe
from protocaffe.backends import get_backend
from protocaffe.errors import ParameterError, ShapeError
from protocaffe.io import parse_net, parse_solver
from tests.support.bench import Bench
from tests.support.check_layer import check_error, check_layer

SHAPES = [(4, 3, 5, 2), (6, 4), (7,), (2, 3, 2, 2, 3), (1, 2, 3, 3), (20, 1, 2)]


def layer(options=""):
    return f'layer {{ type: "BatchNorm" bottom: "x" top: "y" batch_norm_param {{ {options} }} }}'


def over(x):
    """The axes over which a channel's values lie, and the statistics' shape beside x."""
    axes = tuple(a for a in range(x.ndim) if a != 1) if x.ndim > 1 else (0,)
    return axes, (1, -1, *[1] * (x.ndim - 2)) if x.ndim > 1 else (-1,)


def from_batch(eps):
    eps = float(np.float32(eps))  # as a prototxt's field holds it

    def formula(x, *_):
        axes, _ = over(x)
        return (x - x.mean(axes, keepdims=True)) / np.sqrt(x.var(axes, keepdims=True) + eps)

    def gradient(arrays, diffs):
        x, (dy,) = arrays[0], diffs
        axes, _ = over(x)
        y = formula(x)
        mean = dy.mean(axes, keepdims=True) + y * (dy * y).mean(axes, keepdims=True)
        return [(dy - mean) / np.sqrt(x.var(axes, keepdims=True) + eps), *(np.zeros_like(a) for a in arrays[1:])]

    return formula, gradient


def from_running(eps):
    eps = float(np.float32(eps))

    def formula(x, mean, variance, factor):
        shape = over(x)[1]
        by = 1 / factor[0] if factor[0] else 0
        return (x - (mean * by).reshape(shape)) / np.sqrt((variance * by).reshape(shape) + eps)

    def gradient(arrays, diffs):
        x, _, variance, factor = arrays
        by = 1 / factor[0] if factor[0] else 0
        dx = diffs[0] / np.sqrt((variance * by).reshape(over(x)[1]) + eps)
        return [dx, *(np.zeros_like(a) for a in arrays[1:])]

    return formula, gradient


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("eps", [1e-5, 0.1])
def test_from_the_batch(shape, eps):
    formula, gradient = from_batch(eps)
    large = {"x": (24, 40, 30)} if len(shape) > 1 else {"x": (30000,)}
    check_layer(layer(f"eps: {eps}"), {"x": shape}, formula, gradient, large=large,
                tolerance={"float32": (3e-5, 1e-5), "float64": (1e-10, 1e-11)})  # fmt: skip


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize(("options", "phase"), [("", 1), ("use_global_stats: true", 0)])
def test_from_the_stored_statistics(shape, options, phase):
    channels = 1 if len(shape) == 1 else shape[1]
    params = [np.linspace(-1, 1, channels), np.linspace(0.5, 3, channels), np.array([2.0])]
    formula, gradient = from_running(1e-5)
    check_layer(layer(options), {"x": shape}, formula, gradient, params=params, phase=phase)


def test_a_file_without_statistics_counts_as_zeros():
    formula, gradient = from_running(1e-5)
    params = [np.ones(3), np.ones(3), np.zeros(1)]
    check_layer(layer(), {"x": (2, 3, 4)}, formula, gradient, params=params, phase=1)


@pytest.mark.parametrize("shape", [(5, 3, 4, 2), (6, 2), (1, 2)], ids=str)
def test_running_statistics_are_caffes(shape):
    """mean and unbiased variance are added to what is left of the sums; a single value has no unbiased variance."""
    bench = Bench(layer("moving_average_fraction: 0.9"), {"x": shape}, get_backend("cpu"))
    wanted = [np.zeros(shape[1]), np.zeros(shape[1]), np.zeros(1)]
    rng = np.random.default_rng(0)
    for _ in range(3):
        x = rng.standard_normal(shape) * 2 + 3
        bench.forward([x])
        axes = over(x)[0]
        count = x.size // shape[1]
        variance = x.var(axes) * (count / (count - 1) if count > 1 else 1)
        for blob, more in zip(wanted, (x.mean(axes), variance, 1), strict=True):
            blob *= 0.9
            blob += more
        for blob, want in zip(bench.params, wanted, strict=True):
            np.testing.assert_allclose(blob.data, want, rtol=2e-5)


def test_a_large_mean_costs_no_digits():
    """Mean 1000, deviation 1: sums of squares would lose all but one digit of the variance."""
    x = (np.random.default_rng(0).standard_normal((32, 2, 200)) + 1000).astype(np.float32)
    bench = Bench(layer(), {"x": x.shape}, get_backend("cpu"))
    (y,) = bench.forward([x])
    exact = x.astype(np.float64)
    axes = (0, 2)
    wanted = (exact - exact.mean(axes, keepdims=True)) / np.sqrt(exact.var(axes, keepdims=True) + 1e-5)
    assert np.abs(y - wanted).max() < 2e-4
    np.testing.assert_allclose(bench.params[1].data, exact.var(axes, ddof=1), rtol=1e-5)


def test_errors():
    check_error(ShapeError, r"must have 0 channels .* got shape \(\)", layer(), {"x": ()})
    for options in ("moving_average_fraction: 1.5", "eps: -1"):
        check_error(ParameterError, "fraction must be in .* and eps at least 0", layer(options), {"x": (2, 3)})
    learnt = layer().replace("batch_norm_param", "param { lr_mult: 0 } param { lr_mult: 1 } batch_norm_param")
    check_error(ParameterError, "param 1 is a statistic and cannot be learnt", learnt, {"x": (2, 3)})
    bench = Bench(layer(), {"x": (2, 3)}, get_backend("cpu"))
    with pytest.raises(ShapeError, match=r'bottom "x" must have 3 channels \(axis 1\), got shape \(2, 4\)'):
        bench.reshape({"x": (2, 4)})


# ---------------------------------------------------------------------------------------------------------- in training
NET = """
layer { name: "in" type: "Input" top: "data" top: "label" input_param { shape { dim: 8 dim: 3 dim: 4 dim: 4 } shape { dim: 8 } } }
layer { name: "conv" type: "Convolution" bottom: "data" top: "conv"
        convolution_param { num_output: 5 kernel_size: 3 weight_filler { type: "xavier" } } }
layer { name: "bn" type: "BatchNorm" bottom: "conv" top: "conv" batch_norm_param { moving_average_fraction: 0.9 } }
layer { name: "scale" type: "Scale" bottom: "conv" top: "conv" scale_param { bias_term: true } }
layer { name: "ip" type: "InnerProduct" bottom: "conv" top: "ip"
        inner_product_param { num_output: 4 weight_filler { type: "xavier" } } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip" bottom: "label" top: "loss" }
"""  # noqa: E501


def make_solver(tmp_path, rule="SGD", more=""):
    text = f'type: "{rule}" base_lr: 0.05 lr_policy: "fixed" weight_decay: 0.1 random_seed: 3 test_iter: 1 '
    text += f'test_interval: 100 test_initialization: false snapshot_prefix: "{tmp_path}/bn" {more}'
    param = parse_solver(text)
    param.net_param.CopyFrom(parse_net(NET))
    solver = protocaffe.get_solver(param)
    rng = np.random.default_rng(5)
    for net in (solver.net, *solver.test_nets):
        net.blobs["data"].data = rng.standard_normal((8, 3, 4, 4)) + 2
        net.blobs["label"].data = rng.integers(0, 4, 8)
    return solver


@pytest.mark.parametrize("rule", ["SGD", "Adam"])
def test_statistics_follow_the_data_alone_and_resume(tmp_path, rule):
    """No decay, no update; test nets see them; histories have places in a state; a resumed run is bit-identical."""
    whole = make_solver(tmp_path, rule)
    whole.step(2)
    mean, variance, factor = (b.data.copy() for b in whole.net.params["bn"])
    np.testing.assert_allclose(factor, [1.9])
    assert mean.any() and variance.all()
    test = whole.test_nets[0]
    test.forward()
    for blob, values in zip(test.params["bn"], (mean, variance, factor), strict=True):
        np.testing.assert_array_equal(blob.data, values)
    assert len(whole.masked_history()) == (1 if rule == "SGD" else 2) * 9
    _, state = whole.snapshot()
    whole.step(2)
    resumed = make_solver(tmp_path, rule, "")
    resumed.restore(state)
    resumed.step(2)
    for name, blobs in whole.net.params.items():
        for a, b in zip(blobs, resumed.net.params[name], strict=True):
            np.testing.assert_array_equal(a.data.view(np.uint32), b.data.view(np.uint32), err_msg=name)


def test_only_weights_are_prunable(tmp_path):
    net = make_solver(tmp_path).net
    assert [b.name for b in net.prunable()] == ["conv[0]", "ip[0]"]
    assert [b.statistic for b in net.params["bn"]] == [True] * 3
    assert net.params_lr[2:5] == [0, 0, 0]
