"""Reconstruction of nets: sampled windows against a convolution of NumPy's, every kind of layer, what is left alone."""

import numpy as np
import pytest

from protocaffe import TEST, Net
from protocaffe.io import parse_net
from protocaffe.pruning import PruningArguments, apply, plan_shrink, prune_by, prune_net
from protocaffe.pruning import reconstruct as module
from protocaffe.pruning.batches import Batches
from protocaffe.pruning.compare import build
from protocaffe.pruning.distill import without_softmax
from protocaffe.pruning.reconstruct import reconstruct, samples

INPUT = 'layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 4 dim: 4 dim: 9 dim: 8 } } }\n'
FILL = 'weight_filler { type: "gaussian" std: 0.3 } bias_filler { type: "uniform" }'


def conv(name, bottom, options, top=None):
    return (
        f'layer {{ name: "{name}" type: "Convolution" bottom: "{bottom}" top: "{top or name}" '
        f"convolution_param {{ {options} {FILL} }} }}\n"
    )


def ip(name, bottom, options, shared=""):
    return (
        f'layer {{ name: "{name}" type: "InnerProduct" bottom: "{bottom}" top: "{name}" {shared} '
        f"inner_product_param {{ {options} {FILL} }} }}\n"
    )


def relu(blob):
    return f'layer {{ name: "relu_{blob}" type: "ReLU" bottom: "{blob}" top: "{blob}" }}\n'


NET = (
    INPUT
    + conv("conv1", "data", "num_output: 6 group: 2 kernel_size: 3 stride: 2 pad: 1")
    + relu("conv1")
    + conv("conv2", "conv1", "num_output: 8 kernel_h: 3 kernel_w: 2 dilation: 1 pad_h: 1 pad_w: 0")
    + relu("conv2")
    + ip("ip1", "conv2", "num_output: 12 transpose: true")
    + relu("ip1")
    + ip("ip2", "ip1", "num_output: 5 bias_term: false")
    + 'layer { name: "prob" type: "Softmax" bottom: "ip2" top: "prob" }\n'
)


def images(n=70, seed=3):
    """Smooth enough that neighbours say much about each other, as in pictures."""
    x = np.random.default_rng(seed).normal(size=(n, 4, 11, 10))
    x = sum(x[:, :, i : i + 9, j : j + 8] for i in range(3) for j in range(3)) / 3
    return x.astype(np.float32)


def pruned(text, sparsity=0.6, n=70):
    net = Net(parse_net(text), TEST, seed=1)
    dense, _ = without_softmax(net)
    prune_net(net, sparsity, "uniform")
    student, _ = without_softmax(net)
    return student, dense, Batches(net, images(n))


@pytest.mark.parametrize(
    "options",
    [
        "num_output: 6 group: 2 kernel_size: 3 stride: 2 pad: 1",
        "num_output: 4 group: 4 kernel_h: 3 kernel_w: 1 dilation: 2",
        "num_output: 3 kernel_size: 1",
        "num_output: 3 kernel_h: 4 kernel_w: 3 pad_h: 2 stride_w: 3",
    ],
)
def test_windows_times_weights_are_the_outputs(options):
    net = Net(parse_net(INPUT + conv("conv", "data", options)), TEST, seed=2)
    net.blobs["data"].data = images(4)
    net.run_forward()
    layer = net.layer_dict["conv"]
    x, y = samples(layer, net.blobs["data"].data, net.blobs["conv"].data, 40, np.random.default_rng(0))
    w = module.layer_rows(layer, layer.blobs[0].data)
    got = np.einsum("ngk,grk->ngr", x.astype(float), w.astype(float)) + layer.blobs[1].data.reshape(w.shape[:2])
    assert x.shape[0] == 40
    np.testing.assert_allclose(got, y, atol=1e-5)


def test_a_convolution_on_linearly_dependent_channels_is_exact():
    net = Net(parse_net(INPUT + conv("conv", "data", "num_output: 5 kernel_size: 3")), TEST, seed=2)
    x = images()
    x[:, 3] = x[:, 0] - 2 * x[:, 1]
    dense, _ = without_softmax(net)
    mask = np.ones(net.params["conv"][0].shape, bool)
    mask[:, 3] = False
    net.params["conv"][0].mask = mask
    batches = Batches(net, x)
    wanted = batches.outputs(dense)["conv"]
    assert np.abs(batches.outputs(net)["conv"] - wanted).max() > 0.5
    (done,) = reconstruct(net, dense, batches, ridge=1e-9)
    assert done.before > 0.01 and done.after < 1e-10
    np.testing.assert_allclose(batches.outputs(net)["conv"], wanted, atol=2e-5)  # floats
    expected = dense.params["conv"][0].data[:, 0] + dense.params["conv"][0].data[:, 3]
    np.testing.assert_allclose(net.params["conv"][0].data[:, 0], expected, atol=1e-5)


def test_every_kind_of_layer_gets_nearer_and_masks_hold():
    student, dense, batches = pruned(NET)
    masks = {name: blobs[0].mask.copy() for name, blobs in student.params.items()}
    wanted, before = batches.outputs(dense)["ip2"], batches.outputs(student)["ip2"]
    found = list(reconstruct(student, dense, batches))
    assert [r.name for r in found] == ["conv1", "conv2", "ip1", "ip2"]
    assert all(r.after < r.before and not r.kept for r in found)
    after = batches.outputs(student)["ip2"]
    assert np.square(after - wanted).sum() < 0.3 * np.square(before - wanted).sum()
    for name, (weight, *_) in student.params.items():
        assert np.array_equal(weight.mask, masks[name])
        assert not weight.data[~masks[name]].any()
        assert not np.array_equal(weight.data, dense.params[name][0].data * masks[name])


def test_the_reported_error_is_that_of_the_layer():
    student, dense, batches = pruned(NET, n=64)  # whole batches: every image counts once
    *_, last = reconstruct(student, dense, batches)
    wanted, got = batches.outputs(dense)["ip2"], batches.outputs(student)["ip2"]
    assert last.after == pytest.approx(np.square(got - wanted).sum() / (wanted.var(0) * len(wanted)).sum(), rel=1e-3)


def test_it_is_the_same_every_time():
    runs = []
    for _ in range(2):
        student, dense, batches = pruned(NET)
        found = list(reconstruct(student, dense, batches))
        runs.append((found, [b.data.copy() for b in student.learnable_params]))
    assert runs[0][0] == runs[1][0]
    assert all(np.array_equal(a, b) for a, b in zip(runs[0][1], runs[1][1], strict=True))


def test_shared_parameters_and_unpruned_layers_are_left_alone():
    names = 'param { name: "w" } param { name: "b" }'
    text = (
        INPUT
        + ip("a", "data", "num_output: 288", names)
        + ip("b", "a", "num_output: 288", names)
        + ip("c", "b", "num_output: 5")
        + ip("d", "c", "num_output: 5")
    )
    student, dense, batches = pruned(text)
    student.params["d"][0].mask = None
    before = {n: [b.data.copy() for b in blobs] for n, blobs in student.params.items()}
    found = list(reconstruct(student, dense, batches))
    assert [(r.name, bool(r.kept)) for r in found] == [("a", True), ("b", True), ("c", False)]
    assert "shares parameters" in found[0].line()
    for name in "abd":
        assert all(np.array_equal(x, y.data) for x, y in zip(before[name], student.params[name], strict=True))


def test_other_types_are_left_alone_and_say_so():
    up = conv("up", "data", "num_output: 3 kernel_size: 2").replace("Convolution", "Deconvolution")
    student, dense, batches = pruned(INPUT + up)
    before = student.params["up"][0].data.copy()
    (found,) = reconstruct(student, dense, batches)
    assert found.line() == "up: left as it is: the type Deconvolution is not reconstructed"
    assert np.array_equal(student.params["up"][0].data, before)


@pytest.mark.parametrize(("limit", "needle"), [("MAX_BYTES", "MiB (at most 0)"), ("MAX_WORK", "operations (at most")])
def test_layers_that_are_too_large_are_left_alone_and_say_so(monkeypatch, limit, needle):
    student, dense, batches = pruned(NET)
    monkeypatch.setattr(module, limit, 1)
    before = [b.data.copy() for b in student.learnable_params]
    found = list(reconstruct(student, dense, batches))
    assert len(found) == 4 and all(needle in r.kept for r in found)
    assert all(np.array_equal(a, b.data) for a, b in zip(before, student.learnable_params, strict=True))


def test_it_starts_from_the_images_where_activations_would_not_fit(monkeypatch):
    runs = []
    for limit in (module.MAX_HELD, 0, 40_000):
        monkeypatch.setattr(module, "MAX_HELD", limit)
        student, dense, batches = pruned(NET)
        runs.append(list(reconstruct(student, dense, batches)))
    assert runs[0] == runs[1] == runs[2]


RESIDUAL = (
    INPUT
    + conv("a", "data", "num_output: 8 group: 2 kernel_size: 3 pad: 1")
    + relu("a")
    + conv("b", "a", "num_output: 6 group: 2 kernel_size: 3 pad: 1")
    + conv("c", "data", "num_output: 6 kernel_size: 1")
    + 'layer { name: "sum" type: "Eltwise" bottom: "b" bottom: "c" top: "sum" }\n'
    + relu("sum")
    + ip("ip1", "sum", "num_output: 12 transpose: true")
    + relu("ip1")
    + ip("ip2", "ip1", "num_output: 5 bias_term: false")
)


def test_a_net_that_was_shrunk_is_refitted_where_only_inputs_went_too():
    net = Net(parse_net(RESIDUAL), TEST, seed=1)
    dense, _ = without_softmax(net)
    arguments = PruningArguments("l1-channels", "uniform", 0.5, exclude=("b", "c"))
    prune_by(net, arguments, with_bias=True)
    plan = plan_shrink(net.param, net.layer_weights())
    small = build(*apply(plan))
    assert set(plan.kept) == {"a", "b", "ip1", "ip2"} and len(plan.kept["b"]) == 6
    assert small.params["a"][0].shape[0] == 4 and small.params["ip1"][0].shape == (432, 6)
    batches = Batches(net, images(64))
    wanted, before = batches.outputs(dense)["ip2"], batches.outputs(small)["ip2"]
    found = list(reconstruct(small, dense, batches, kept=plan.kept))
    assert [r.name for r in found] == ["a", "b", "ip1", "ip2"] and not any(r.kept for r in found)
    assert found[0].before < 1e-9 and all(r.after < r.before for r in found[1:])
    after = batches.outputs(small)["ip2"]
    assert np.square(after - wanted).sum() < 0.3 * np.square(before - wanted).sum()
    *_, last = found
    assert last.after == pytest.approx(np.square(after - wanted).sum() / (wanted.var(0) * len(wanted)).sum(), rel=1e-3)
