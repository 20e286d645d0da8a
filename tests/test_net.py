"""Net's interface: made from files and messages, run whole and in part, and how far gradients reach."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from protocaffe import TEST, TRAIN, Net
from protocaffe.errors import NetError, ParseError, ShapeError
from protocaffe.io import prototxt
from tests.support.nets import LABEL, LOSS, PROB, SMALL, images, make, trainable


@pytest.fixture
def file(tmp_path) -> Path:
    path = tmp_path / "net.prototxt"
    path.write_text(SMALL + PROB)
    return path


# ------------------------------------------------------------------------------------------------------- construction
def test_from_a_file_and_from_a_message(file):
    message = prototxt.read_net(file)
    before = message.SerializeToString()
    nets = [Net(file, TEST, seed=1), Net(str(file), TEST, seed=1), Net(message, phase=TEST, seed=1)]
    assert message.SerializeToString() == before
    assert [net.name for net in nets] == ["small"] * 3
    assert [net.source for net in nets] == [str(file), str(file), "<NetParameter>"]
    for net in nets[1:]:
        np.testing.assert_array_equal(net.params["conv"][0].data, nets[0].params["conv"][0].data)


def test_pycaffes_old_order_of_arguments(file, tmp_path):
    weights = tmp_path / "w.caffemodel"
    first = Net(file, TEST, seed=3)
    first.save(weights)
    for net in (
        Net(str(file), str(weights), TEST),
        Net(file, weights, TRAIN),
        Net(str(file), TEST, weights=str(weights)),
    ):
        np.testing.assert_array_equal(net.params["ip"][0].data, first.params["ip"][0].data)
    assert Net(file, weights, TRAIN).phase == TRAIN


def test_several_files_of_weights(file, tmp_path):
    a = Net(file, TEST, seed=1)
    a.save(tmp_path / "a.caffemodel")
    only_ip = prototxt.read_net(file)
    for layer in only_ip.layer:
        layer.name = f"no_{layer.name}" if layer.name == "conv" else layer.name
    c = Net(only_ip, TEST, seed=3)
    c.save(tmp_path / "c.caffemodel")
    b = Net(file, TEST, weights=f"{tmp_path}/a.caffemodel,{tmp_path}/c.caffemodel")
    np.testing.assert_array_equal(b.params["conv"][0].data, a.params["conv"][0].data)
    np.testing.assert_array_equal(b.params["ip"][0].data, c.params["ip"][0].data)


def test_phase_level_and_stages_choose_the_layers():
    rules = {
        "train": "include { phase: TRAIN }",
        "test": "include { phase: TEST }",
        "no_test": "exclude { phase: TEST }",
        "deep": "include { min_level: 2 }",
        "shallow": "include { max_level: 1 }",
        "deploy": 'include { stage: "deploy" }',
        "not_deploy": 'include { not_stage: "deploy" }',
        "both": 'include { stage: "deploy" stage: "x" }',
    }
    text = "".join(f'layer {{ name: "{n}" type: "Input" top: "{n}" {rule} }}\n' for n, rule in rules.items())

    def chosen(*args, **kwargs):
        return set(Net(prototxt.parse_net(text), *args, **kwargs)._layer_names)

    assert chosen(TRAIN) == {"train", "no_test", "shallow", "not_deploy"}
    assert chosen(TEST, 2) == {"test", "deep", "not_deploy"}
    assert chosen(TEST, level=0, stages=["deploy"]) == {"test", "shallow", "deploy"}
    assert chosen(TEST, 0, ["deploy", "x"]) == {"test", "shallow", "deploy", "both"}
    assert chosen(TEST, stages="deploy") == chosen(TEST, stages=["deploy"])


def test_seeds():
    weights = [make(seed=s).params["conv"][0].data for s in (5, 5, 6, None, -1)]
    np.testing.assert_array_equal(weights[0], weights[1])
    for i, j in ((0, 2), (0, 3), (3, 4)):
        assert (weights[i] != weights[j]).any()


@pytest.mark.parametrize("phase", [2, -1, None])
def test_the_phase_must_be_one(file, phase):
    with pytest.raises(NetError, match="phase must be"):
        Net(file, phase)


def test_broken_files(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none\.prototxt"):
        Net(tmp_path / "none.prototxt", TEST)
    path = tmp_path / "bad.prototxt"
    path.write_text(SMALL.replace("num_output: 5", "num_outputs: 5"))
    with pytest.raises(ParseError, match=r'bad\.prototxt:9:31:.* "num_outputs"; did you mean "num_output"'):
        Net(path, TEST)


@pytest.mark.parametrize(
    "text, message",
    [
        (SMALL + PROB.replace('"ip"', '"ipp"'), 'layer "prob" .Softmax.: unknown bottom "ipp"; did you mean "ip"'),
        (SMALL + PROB.replace("Softmax", "Sofmax"), 'layer "prob": unknown layer type "Sofmax" .did you mean "Softm'),
        (SMALL + PROB.replace('top: "prob"', 'top: "conv"'), '"prob" .Softmax.: top "conv" is already the top of'),
        (SMALL + PROB.replace("top:", 'top: "x" top:'), 'layer "prob" .Softmax.: takes 1 top blob, got 2'),
        (SMALL + LABEL + LOSS.replace("top:", "loss_weight: 1 loss_weight: 1 top:"), "loss_weight must be given for"),
        (
            SMALL + PROB.replace("top:", "propagate_down: true propagate_down: true top:"),
            "propagate_down must be given",
        ),
        (SMALL.replace('top: "ip"', 'top: "ip" ' + "param {} " * 3), "has 2 parameters, but 3 param entries are given"),
    ],
)
def test_nets_that_do_not_fit_together(text, message):
    with pytest.raises(NetError, match=message):
        make(text)


# ------------------------------------------------------------------------------------------------- names and contents
def test_pycaffes_attributes():
    net = trainable()
    assert list(net.blobs) == ["label", "data", "conv", "pool", "ip", "loss"] == net._blob_names
    assert net._layer_names == ["label", "data", "conv", "relu", "pool", "ip", "loss"] == list(net.layer_dict)
    assert net.inputs == ["label", "data"] and net.outputs == ["loss"]
    assert ([net._blob_names[i] for i in net._inputs], [net._blob_names[i] for i in net._outputs]) == (
        net.inputs,
        net.outputs,
    )
    assert [layer.type for layer in net.layers][2:4] == ["Convolution", "ReLU"]
    assert net.layer_dict["conv"] is net.layers[2] and net.layers[2].blobs is net.params["conv"]
    assert list(net.params) == ["conv", "ip"] and [len(p) for p in net.params.values()] == [2, 2]
    assert net.bottom_names["loss"] == ["ip", "label"] and net.top_names["relu"] == ["conv"]
    assert net.blob_loss_weights == {name: float(name == "loss") for name in net.blobs}
    blob = net.blobs["data"]
    assert (blob.num, blob.channels, blob.height, blob.width, blob.count) == (4, 1, 6, 6, 144)
    assert net.params["ip"][1].shape == (5,)


def test_automatic_tops_are_no_outputs():
    net = make(LABEL + SMALL + LOSS.replace('top: "loss"', ""), TRAIN)
    assert net.outputs == []
    assert net.forward() == {}
    assert net.loss() == pytest.approx(np.log(5), abs=1e-5)


# ------------------------------------------------------------------------------------------------------------ forward
def test_inputs_by_name():
    net = make()
    x = images()
    out = net.forward(data=x)
    assert list(out) == ["prob"] and out["prob"].shape == (4, 5)
    np.testing.assert_allclose(out["prob"].sum(1), 1, rtol=1e-6)
    np.testing.assert_array_equal(net.blobs["data"].data, x)
    again = make()
    again.blobs["data"].data[...] = x
    np.testing.assert_array_equal(again.forward()["prob"], out["prob"])
    np.testing.assert_array_equal(again.forward(data=x.astype(np.float64).tolist())["prob"], out["prob"])


def test_other_blobs_are_returned_where_asked_for():
    net = make()
    out = net.forward(["pool", "prob"], data=images())
    assert list(out) == ["prob", "pool"]
    np.testing.assert_array_equal(out["pool"], net.blobs["pool"].data)


def test_wrong_inputs():
    net = make()
    with pytest.raises(NetError, match='forward: no input "dat" in net "small"; did you mean "data"'):
        net.forward(dat=images())
    with pytest.raises(ShapeError, match=r'input "data" must have shape \(4, 1, 6, 6\), got \(3, 1, 6, 6\)'):
        net.forward(data=images(3))
    with pytest.raises(NetError, match='forward: no layer "cnv" in net "small"; did you mean "conv"'):
        net.forward(start="cnv")
    with pytest.raises(NetError, match='no blob "pol" in net "small"; did you mean "pool"'):
        net.forward(["pol"])
    with pytest.raises(NetError, match='backward: no layer "poo"'):
        net.backward(end="poo")


def test_parts():
    net, whole = make(), make()
    x = images()
    want = whole.forward(data=x)["prob"]
    out = net.forward(data=x, end="pool")
    assert list(out) == ["pool"]
    np.testing.assert_array_equal(net.blobs["ip"].data, 0)
    np.testing.assert_array_equal(net.forward(start="ip")["prob"], want)
    net.blobs["ip"].data = 0
    np.testing.assert_allclose(net.forward(start="prob", end="prob")["prob"], 0.2, rtol=1e-6)
    net.blobs["pool"].data = 0
    np.testing.assert_array_equal(net.forward(start="ip", end="ip")["ip"], 0)


# ----------------------------------------------------------------------------------------------------------- backward
def test_gradients_of_parameters_add_up_until_cleared():
    net = trainable()
    net.forward()
    net.backward()
    once = [p.diff.copy() for ps in net.params.values() for p in ps]
    assert all(np.abs(d).sum() > 0 for d in once)
    net.backward()
    for blob, diff in zip((p for ps in net.params.values() for p in ps), once, strict=True):
        np.testing.assert_allclose(blob.diff, 2 * diff, rtol=1e-5)
    net.clear_param_diffs()
    assert all(not p.diff.any() for ps in net.params.values() for p in ps)


def test_gradient_of_a_weight_numerically(cpu64):
    net = trainable(backend=cpu64)
    net.forward()
    net.backward()
    weights = net.params["conv"][0]
    got = weights.diff[1, 0, 2, 1]
    losses = []
    for step in (1e-5, -2e-5):
        weights.data[1, 0, 2, 1] += step
        losses.append(float(net.forward()["loss"]))
    assert got == pytest.approx((losses[0] - losses[1]) / 2e-5, rel=1e-6)


def test_diffs_can_be_given_and_asked_for():
    net = make(SMALL + "force_backward: true", TRAIN)
    x, top = images(), np.random.default_rng(2).normal(size=(4, 5)).astype(np.float32)
    net.forward(data=x)
    out = net.backward(["pool"], ip=top)
    assert list(out) == ["data", "pool"]
    want = top @ net.params["ip"][0].data
    np.testing.assert_allclose(out["pool"].reshape(4, -1), want, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(net.params["ip"][1].diff, top.sum(0), rtol=1e-5, atol=1e-6)
    part = net.backward(ip=2 * top, end="ip")
    assert list(part) == ["pool"]
    np.testing.assert_allclose(part["pool"].reshape(4, -1), 2 * want, rtol=1e-4, atol=1e-6)
    before = net.blobs["pool"].diff.copy()
    net.backward(start="pool", end="pool")
    np.testing.assert_array_equal(net.blobs["pool"].diff, before)


def test_wrong_diffs():
    net = trainable()
    with pytest.raises(NetError, match='no blob "los" in net "small"; did you mean "loss"'):
        net.backward(los=1)
    with pytest.raises(ShapeError, match=r'backward: "ip" must have shape \(4, 5\), got \(5,\)'):
        net.backward(ip=np.zeros(5))


def test_force_backward_reaches_the_inputs():
    plain, forced = trainable(), trainable("force_backward: true")
    for net in (plain, forced):
        net.forward()
        net.backward()
    assert not plain.blobs["data"].diff.any()
    assert forced.blobs["data"].diff.any() and not forced.blobs["label"].diff.any()
    np.testing.assert_array_equal(plain.params["conv"][0].diff, forced.params["conv"][0].diff)


def test_propagate_down_false_stops_the_gradient():
    text = LABEL + SMALL.replace('bottom: "pool"', 'bottom: "pool" propagate_down: false') + LOSS
    net = make(text, TRAIN)
    net.forward(data=images())
    net.backward()
    assert net.params["ip"][0].diff.any()
    assert not net.params["conv"][0].diff.any() and not net.blobs["pool"].diff.any()


def test_propagate_down_true_asks_for_it():
    text = LABEL + SMALL.replace('bottom: "data"', 'bottom: "data" propagate_down: true') + LOSS
    net = make(text, TRAIN)
    net.forward(data=images())
    assert net.backward()["data"].any()


def test_lr_mult_zero_leaves_a_gradient_out():
    text = LABEL + SMALL.replace('top: "conv"\n', 'top: "conv" param { lr_mult: 0 } param { lr_mult: 0 }\n', 1)
    net = make(text + LOSS, TRAIN)
    net.forward(data=images())
    net.backward()
    assert not net.params["conv"][0].diff.any() and not net.blobs["conv"].diff.any()
    assert net.params["ip"][0].diff.any()
    assert net.params_lr == [0, 0, 1, 1]


def test_loss_weights():
    one, half = trainable(), make(LABEL + SMALL + LOSS.replace("top:", "loss_weight: 0.5 top:"), TRAIN)
    for name in one.inputs:
        half.blobs[name].data = one.blobs[name].data
    for net in (one, half):
        net.forward()
        net.backward()
    assert half.loss() == pytest.approx(one.loss() / 2)
    assert half.blobs["loss"].data == pytest.approx(one.blobs["loss"].data)
    np.testing.assert_allclose(half.params["conv"][0].diff, one.params["conv"][0].diff / 2, rtol=1e-5, atol=1e-8)


def test_any_top_can_be_a_loss():
    net = make(SMALL.replace('top: "ip"', 'top: "ip" loss_weight: 3'), TRAIN)
    net.forward(data=images())
    net.backward()
    assert net.loss() == pytest.approx(3 * net.blobs["ip"].data.sum(), rel=1e-5)
    np.testing.assert_allclose(net.params["ip"][1].diff, 12, rtol=1e-6)


def test_a_loss_that_is_read_counts_once():
    text = SMALL.replace('top: "ip"', 'top: "ip" loss_weight: 3') + PROB
    net = make(text, TRAIN)
    net.forward(data=images())
    assert net.loss() == pytest.approx(3 * net.blobs["ip"].data.sum(), rel=1e-5)
