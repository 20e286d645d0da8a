"""A net's parameters: surgery, files, sharing between nets and between layers."""

from __future__ import annotations

import numpy as np
import pytest

from protocaffe import TRAIN
from protocaffe.errors import NetError, WeightsError
from tests.support.nets import SMALL, images, make, trainable


# ------------------------------------------------------------------------------------------------------------ weights
def test_net_surgery():
    net = make()
    x = images()
    net.params["conv"][0].data[...] = 0
    net.params["conv"][1].data[...] = [1, 2, 3]
    net.params["ip"][0].data = 0
    net.params["ip"][1].data = np.arange(5)
    net.params["ip"][0].data.flat = np.eye(5, 12).ravel()
    out = net.forward(["pool"], data=x)
    np.testing.assert_array_equal(out["pool"][0, :, 0, 0], [1, 2, 3])
    np.testing.assert_array_equal(net.blobs["ip"].data[0], [1, 2, 3, 4, 6])


def test_weights_to_a_file_and_back(tmp_path):
    a, b = make(seed=1), make(seed=2)
    a.save(tmp_path / "w.caffemodel")
    b.copy_from(str(tmp_path / "w.caffemodel"))
    for mine, theirs in zip(a.params.values(), b.params.values(), strict=True):
        for x, y in zip(mine, theirs, strict=True):
            np.testing.assert_array_equal(x.data, y.data)
    np.testing.assert_array_equal(a.forward(data=images())["prob"], b.forward(data=images())["prob"])


def test_weights_that_do_not_fit(tmp_path):
    make().save(tmp_path / "w.caffemodel")
    wider = make(SMALL.replace("num_output: 5", "num_output: 6"))
    with pytest.raises(
        WeightsError, match=r'w\.caffemodel": layer "ip" .*parameter 0 must have shape \(6, 12\), got \(5'
    ):
        wider.copy_from(tmp_path / "w.caffemodel")
    bare = make(SMALL.replace("num_output: 3", "num_output: 3 bias_term: false"))
    with pytest.raises(WeightsError, match=r'layer "conv" .Convolution. has 1 parameters, but the file holds 2'):
        bare.copy_from(tmp_path / "w.caffemodel")


def test_nets_can_share_their_parameters():
    train, test = trainable(), make(seed=2)
    test.forward(data=images())
    test.share_with(train)
    train.params["conv"][0].data[...] = 0.25
    assert (test.params["conv"][0].data == 0.25).all()
    want = make()
    for name, blobs in train.params.items():
        for mine, its in zip(want.params[name], blobs, strict=True):
            mine.data = its.data
    np.testing.assert_array_equal(test.forward(data=images())["prob"], want.forward(data=images())["prob"])


def test_nets_that_share_parameters_have_their_own_gradients():
    a, b = trainable(), trainable(seed=1)
    b.share_with(a)
    b.forward()
    b.backward()
    assert b.params["conv"][0].diff.any() and not a.params["conv"][0].diff.any()
    a.params["conv"][0].mask = np.zeros((3, 1, 3, 3))
    assert not b.params["conv"][0].mask.any() and not b.params["conv"][0].data.any()
    b.clear_param_diffs()
    assert not b.params["conv"][0].diff.any()


def test_sharing_needs_equal_shapes():
    wider = make(SMALL.replace("num_output: 5", "num_output: 6"))
    with pytest.raises(WeightsError, match=r'layer "ip" .* cannot share those of net "small": \[\(5, 12\), \(5,\)\]'):
        wider.share_with(make())


# -------------------------------------------------------------------------------------------------- shared parameters
def twins(first: str, second: str, more: str = "") -> str:
    layer = (
        'layer {{ name: "{0}" type: "InnerProduct" bottom: "{1}" top: "{0}" param {{ {2} }} {3}'
        'inner_product_param {{ num_output: 3 bias_term: false weight_filler {{ type: "xavier" }} }} }}\n'
    )
    return (
        'layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 2 dim: 3 } } }\n'
        + layer.format("a", "data", first, "")
        + layer.format("b", "a", second, "loss_weight: 1 ")
        + more
    )


def test_layers_share_a_parameter_by_name():
    net = make(twins('name: "w" lr_mult: 2', 'name: "w"'), TRAIN)
    a, b = net.params["a"][0], net.params["b"][0]
    assert np.shares_memory(a.data, b.data) and len(net.learnable_params) == 1 and net.params_lr == [2]
    x = np.random.default_rng(0).normal(size=(2, 3)).astype(np.float32)
    net.forward(data=x)
    net.backward()
    w = a.data.astype(np.float64)
    ones = np.ones((2, 3))
    np.testing.assert_allclose(a.diff, ones.T @ (x @ w.T) + (ones @ w).T @ x, rtol=1e-4, atol=1e-5)


def test_one_lr_mult_for_a_shared_parameter():
    assert make(twins('name: "w"', 'name: "w" lr_mult: 3'), TRAIN).params_lr == [3]
    assert make(twins('name: "w" decay_mult: 0', 'name: "w" decay_mult: 0'), TRAIN).params_weight_decay == [0]
    with pytest.raises(
        NetError, match=r'layer "b" .* parameter "w" shared with layer "a" .* has lr_mult 1.0 there and 2'
    ):
        make(twins('name: "w" lr_mult: 1', 'name: "w" lr_mult: 2'), TRAIN)
    with pytest.raises(NetError, match=r"has decay_mult 1.0 there and 0.0 here"):
        make(twins('name: "w" decay_mult: 1', 'name: "w" decay_mult: 0'), TRAIN)


def test_shared_parameters_need_one_shape():
    wider = twins('name: "w"', 'name: "w"').replace("num_output: 3", "num_output: 2", 1)
    with pytest.raises(NetError, match=r"must have the shape of its owner \(2, 3\), got \(3, 2\)"):
        make(wider, TRAIN)
    loose = wider.replace('name: "w"', 'name: "w" share_mode: PERMISSIVE', 1)
    net = make(loose, TRAIN)
    assert np.shares_memory(net.params["a"][0].data, net.params["b"][0].data)
    assert net.params["b"][0].shape == (3, 2)


def test_a_file_with_none_of_the_nets_layers_is_refused(tmp_path):
    text = 'layer { name: "in" type: "Input" top: "x" input_param { shape { dim: 2 dim: 3 } } }'
    text += 'layer { name: "NAME" type: "InnerProduct" bottom: "x" top: "y" inner_product_param { num_output: 4 } }'
    for end in ("caffemodel", "caffemodel.h5"):
        path = tmp_path / f"w.{end}"
        make(text.replace("NAME", "one"), TRAIN).save(path)
        with pytest.raises(WeightsError, match=rf'w\.{end}": holds weights for none of the net\'s layers \(two\)'):
            make(text.replace("NAME", "two"), TRAIN).copy_from(path)
        make(text.split('layer { name: "NAME"')[0], TRAIN).copy_from(path)  # nothing to fill, nothing missed
