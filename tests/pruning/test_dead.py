"""What a pruned net's outputs do not depend on: what goes, that the outputs stay, and that it stays gone."""

import numpy as np
import pytest

import protocaffe
from protocaffe.backends import get_backend
from protocaffe.io import parse_net, parse_solver
from protocaffe.pruning import clear_dead, sparsity_of_net
from tests.support.shrinking import conv, data, ip, layer

IMAGE = data(2, 3, 8, 8)


def build(text, phase=protocaffe.TEST):
    net = protocaffe.Net(parse_net(text), phase, seed=4, backend=get_backend("cpu", "float64"))
    rng = np.random.default_rng(9)
    for blobs in net.params.values():
        for blob in blobs:
            blob.data = 0.2 * rng.standard_normal(blob.shape) + 0.3
    net.blobs["data"].data = rng.standard_normal(net.blobs["data"].shape)
    return net


def prune(net, name, outputs=(), inputs=()):
    mask = np.ones(net.params[name][0].shape, bool)
    mask[list(outputs)] = False
    mask[:, list(inputs)] = False
    net.params[name][0].mask = mask


def outputs(net):
    net.forward()
    return net.blobs[net.outputs[0]].data.copy()


def nonzeros(net, name):
    return [int(np.count_nonzero(blob.data)) for blob in net.params[name]]


def test_constant_channels_and_those_that_nobody_reads():
    net = build(IMAGE + conv("a", "data", 6) + layer("ReLU", "relu", "a", top="a") + ip("b", "a", 7) + ip("c", "b", 4))
    prune(net, "a", outputs=[1])  # constant: its bias
    prune(net, "b", outputs=[2, 3], inputs=range(4 * 36, 5 * 36))  # nobody reads channel 4 of a
    prune(net, "c", inputs=[5])  # nobody reads output 5 of b
    before = outputs(net)
    count = sparsity_of_net(net).nonzeros
    assert clear_dead(net) == count - sparsity_of_net(net).nonzeros
    np.testing.assert_allclose(outputs(net), before, rtol=1e-12)
    assert nonzeros(net, "a") == [4 * 27, 4] and nonzeros(net, "b") == [4 * 4 * 36, 4] and nonzeros(net, "c") == [16, 4]
    for name, place in (("a", [1, 4]), ("b", [2, 3, 5])):
        for blob in net.params[name]:
            assert not blob.mask[place].any() and not blob.data[place].any()
    assert clear_dead(net) == 0


def test_groups_scales_and_residual_sums():
    text = IMAGE + conv("a", "data", 8, more="pad: 1") + layer("BatchNorm", "bn", "a", top="n")
    text += layer("Scale", "scale", "n", "scale_param { bias_term: true }", "n") + conv(
        "b", "n", 8, more="group: 2 pad: 1"
    )
    text += 'layer { name: "sum" type: "Eltwise" bottom: "n" bottom: "b" top: "sum" }' + ip("c", "sum", 3)
    net = build(text)
    net.params["bn"][2].data = [1.0]
    net.params["bn"][1].data = np.abs(net.params["bn"][1].data)
    mask = np.ones(net.params["c"][0].shape, bool).reshape(3, 8, -1)
    mask[:, [2, 6]] = False
    net.params["c"][0].mask = mask.reshape(3, -1)
    prune(net, "b", outputs=[2, 6])
    weights = net.params["b"][0].mask.copy()
    weights[:, 2] = False  # input 2 of each of its two groups: channels 2 and 6
    net.params["b"][0].mask = weights
    before, running = outputs(net), net.params["bn"][1].data.copy()
    assert clear_dead(net) > 0
    np.testing.assert_allclose(outputs(net), before, rtol=1e-11)
    for name in ("a", "scale", "b"):
        assert not any(blob.data[[2, 6]].any() for blob in net.params[name])
    assert np.array_equal(net.params["bn"][1].data, running)


def test_a_net_in_training_too_and_nothing_comes_back():
    param = parse_solver(
        'type: "SGD" base_lr: 0.05 momentum: 0.9 weight_decay: 0.01 lr_policy: "fixed" random_seed: 1 display: 0'
    )
    head = (
        'layer { name: "data" type: "DummyData" top: "data" top: "label" include { phase: TRAIN } dummy_data_param { '
    )
    head += 'shape { dim: 4 dim: 3 dim: 8 dim: 8 } shape { dim: 4 } data_filler { type: "gaussian" } '
    text = head + "data_filler { } } }" + conv("a", "data", 6, more='weight_filler { type: "xavier" }')
    text += ip("b", "a", 4, more='weight_filler { type: "xavier" }')
    text += layer("SoftmaxWithLoss", "loss", ["b", "label"])
    param.net_param.CopyFrom(parse_net(text))
    solver = protocaffe.get_solver(param)
    solver.step(2)
    prune(solver.net, "a", outputs=[1])
    prune(solver.net, "b", inputs=range(2 * 36, 3 * 36))
    assert clear_dead(solver.net) > 0
    gone = [None if blob.mask is None else ~blob.mask for blob in solver.net.learnable_params]
    assert gone[1][[1, 2]].all()
    solver.step(3)
    for blob, dead in zip(solver.net.learnable_params, gone, strict=True):
        assert dead is None or not blob.data[dead].any()


@pytest.mark.parametrize("reader", ["no bias", "masked bias", "padding"])
def test_a_channel_whose_constant_has_nowhere_to_go_stays(reader):
    more = {"no bias": "bias_term: false", "padding": "pad: 1"}.get(reader, "")
    net = build(IMAGE + conv("a", "data", 6) + conv("b", "a", 4, more=more) + ip("c", "b", 2))
    prune(net, "a", outputs=[1])
    net.params["b"][0].mask = np.random.default_rng(1).random(net.params["b"][0].shape) > 0.7
    if reader == "masked bias":
        net.params["b"][1].mask = [True, False, True, True]
    masks = [None if blob.mask is None else blob.mask.copy() for blobs in net.params.values() for blob in blobs]
    values, before = [blob.data.copy() for blobs in net.params.values() for blob in blobs], outputs(net)
    assert clear_dead(net) == 0
    np.testing.assert_array_equal(outputs(net), before)
    for blob, mask, old in zip((b for blobs in net.params.values() for b in blobs), masks, values, strict=True):
        assert np.array_equal(blob.data, old)
        assert blob.mask is None if mask is None else np.array_equal(blob.mask, mask)


def test_nothing_masked_comes_back_and_the_count_is_of_what_became_zero():
    net = build(IMAGE + conv("a", "data", 6) + conv("b", "a", 5) + ip("c", "b", 2))
    rng = np.random.default_rng(5)
    for name in ("a", "b", "c"):
        net.params[name][0].mask = rng.random(net.params[name][0].shape) > 0.4
    prune(net, "a", outputs=[0, 3])
    old = [
        (blob.data.copy(), None if blob.mask is None else blob.mask.copy()) for b in net.params.values() for blob in b
    ]
    before = outputs(net)
    cleared = clear_dead(net)
    np.testing.assert_allclose(outputs(net), before, rtol=1e-11)
    zeroed = 0
    for blob, (value, mask) in zip((blob for b in net.params.values() for blob in b), old, strict=True):
        zeroed += int(((value != 0) & (blob.data == 0)).sum())
        assert mask is None or not blob.data[~mask].any() and not (blob.mask & ~mask).any()
    assert cleared == zeroed > 0
