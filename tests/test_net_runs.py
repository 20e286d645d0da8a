"""Running a net in other ways: hooks, changed shapes, views that outlive it."""

from __future__ import annotations

import gc

import numpy as np
import pytest

from protocaffe import TRAIN, Net
from protocaffe.errors import NetError, ShapeError
from protocaffe.io import prototxt
from protocaffe.layer import Layer, layer_types, register
from tests.support.nets import LABEL, LOSS, SMALL, images, make, trainable


# -------------------------------------------------------------------------------------------------------------- hooks
def test_hooks_know_their_layer_and_come_off():
    net = trainable()
    calls: list[tuple[str, str]] = []
    handles = [
        getattr(net, when)(lambda name, when=when: calls.append((when, name)), "conv")
        for when in ("before_forward", "after_forward", "before_backward", "after_backward")
    ]
    net.forward()
    net.backward()
    assert calls == [(w, "conv") for w in ("before_forward", "after_forward", "before_backward", "after_backward")]
    for handle in handles:
        handle.remove()
        handle.remove()
    net.forward()
    net.backward()
    assert len(calls) == 4


def test_hooks_of_all_layers_run_in_order():
    net = trainable()
    seen: list[str] = []
    net.before_forward(seen.append)
    net.after_backward(seen.append)
    net.forward()
    assert seen == net._layer_names
    seen.clear()
    net.backward()
    assert seen == net._layer_names[::-1]
    seen.clear()
    net.forward(start="pool", end="ip")
    assert seen == ["pool", "ip"]


def test_a_handle_removes_its_own_hook_only():
    net = make()
    calls: list[str] = []
    first, second = (net.after_forward(calls.append, "ip") for _ in range(2))
    first.remove()
    first.remove()
    net.forward()
    assert calls == ["ip"]
    second.remove()
    net.forward()
    assert calls == ["ip"]


def test_hooks_see_and_change_blobs():
    net, plain = make(), make()
    x = images()
    net.before_forward(lambda name: net.blobs["pool"].data.fill(0), "ip")
    np.testing.assert_allclose(net.forward(data=x)["prob"], 0.2, rtol=1e-6)
    assert np.abs(plain.forward(data=x)["prob"] - 0.2).max() > 1e-3


def test_hooks_of_unknown_layers():
    with pytest.raises(NetError, match='hook: no layer "covn" in net "small"; did you mean "conv"'):
        make().before_forward(print, "covn")


# ------------------------------------------------------------------------------------------------------------- shapes
def test_inputs_can_change_their_shape():
    net = make()
    x = images(9)
    want = np.array([net.forward(data=x[i : i + 1].repeat(4, 0))["prob"][0].copy() for i in range(9)])
    for n in (9, 2, 9, 4):
        net.blobs["data"].reshape(n, 1, 6, 6)
        np.testing.assert_allclose(net.forward(data=x[:n])["prob"], want[:n], rtol=1e-5)
        assert net.blobs["conv"].shape == (n, 3, 4, 4)


def test_reshape_propagates_at_once():
    net = make()
    net.blobs["data"].reshape(2, 1, 6, 6)
    assert net.blobs["prob"].shape == (4, 5)
    net.reshape()
    assert net.blobs["prob"].shape == (2, 5)


def test_training_goes_on_after_a_reshape():
    net = trainable()
    net.forward()
    net.backward()
    net.blobs["data"].reshape(2, 1, 6, 6)
    net.blobs["label"].reshape(2)
    net.clear_param_diffs()
    net.forward(data=images(2), label=[0, 1])
    net.backward()
    got = net.params["conv"][0].diff.copy()
    fresh = make((LABEL + SMALL + LOSS).replace("dim: 4", "dim: 2"), TRAIN)
    fresh.forward(data=images(2), label=[0, 1])
    fresh.backward()
    np.testing.assert_allclose(got, fresh.params["conv"][0].diff, rtol=1e-5, atol=1e-7)


def test_a_shape_that_does_not_fit_can_be_taken_back():
    net = make()
    x = images()
    want = net.forward(data=x)["prob"].copy()
    net.blobs["data"].reshape(4, 1, 8, 8)
    with pytest.raises(ShapeError, match=r'layer "ip" .InnerProduct.'):
        net.forward()
    net.blobs["data"].reshape(4, 1, 6, 6)
    np.testing.assert_array_equal(net.forward(data=x)["prob"], want)
    assert net.blobs["conv"].shape == (4, 3, 4, 4)


def test_blobs_that_python_made_larger_are_found_again():
    net, top = make(SMALL + "force_backward: true", TRAIN), np.ones((4, 5))
    net.forward(data=images())
    want = [net.blobs["ip"].data.copy(), net.backward(ip=top)["data"].copy()]
    for name in ("data", "ip"):
        blob, shape = net.blobs[name], net.blobs[name].shape
        blob.reshape(100, *shape[1:])
        assert not blob.data.any() and not blob.diff.any()
        blob.reshape(*shape)
    got = [net.forward(data=images())["ip"], net.backward(ip=top)["data"]]
    for a, b in zip(got, want, strict=True):
        np.testing.assert_array_equal(a, b)


def test_looking_at_diffs_between_the_passes_changes_nothing():
    plain, looked = trainable(), trainable()
    for net in (plain, looked):
        net.forward()
        if net is looked:
            assert not any(blob.diff.any() for name, blob in net.blobs.items() if name != "loss")
        net.backward()
    np.testing.assert_array_equal(plain.params["conv"][0].diff, looked.params["conv"][0].diff)


# -------------------------------------------------------------------------------------------------------------- views
def test_views_outlive_the_net():
    net = trainable()
    net.forward()
    net.backward()
    views = [net.blobs["pool"].data, net.blobs["pool"].diff, net.params["ip"][0].data, net.params["ip"][0].diff]
    copies = [v.copy() for v in views]
    blob = net.params["conv"][0]
    kept = blob.data.copy()
    del net
    gc.collect()
    junk = [make() for _ in range(3)]
    for view, copy in zip(views, copies, strict=True):
        np.testing.assert_array_equal(view, copy)
        view[...] = 1
    np.testing.assert_array_equal(blob.data, kept)
    assert len(junk) == 3


def test_views_are_of_the_current_values():
    net = make()
    view = net.forward(data=images())["prob"]
    before = view.copy()
    net.forward(data=images(seed=5))
    assert (view != before).any()
    assert np.shares_memory(view, net.blobs["prob"].data)


def test_what_a_layer_asks_for_ahead_runs_once_before_its_calls(monkeypatch):
    monkeypatch.setattr("protocaffe.layer._registry", dict(layer_types()))
    seen = []

    class Ahead(Layer):
        exact_bottoms = exact_tops = 1

        def reshape(self, bottom, top):
            top[0].reshape(*bottom[0].shape)

        def forward(self, bottom, top):
            self.ops.host(lambda: seen.append("call"))
            self.ops.ahead(lambda: seen.append("ahead"))

    register("AheadOfTime")(Ahead)
    text = 'layer { name: "x" type: "Input" top: "x" input_param { shape { dim: 2 } } }'
    net = Net(prototxt.parse_net(text + ' layer { name: "a" type: "AheadOfTime" bottom: "x" top: "y" }'))
    net.forward()
    net.forward(start="a")
    assert seen == ["ahead", "call"] * 2


def test_a_parameter_that_moves_within_one_memory_is_found():
    """All parameters of a net lie in one piece: sharing another one changes the place and nothing else."""
    text = 'layer { name: "in" type: "Input" top: "x" input_param { shape { dim: 2 dim: 3 } } }'
    learn = (
        'layer {{ name: "{0}" type: "InnerProduct" bottom: "x" top: "{0}" inner_product_param {{ num_output: 4 }} }}'
    )
    trained = Net(prototxt.parse_net(text + learn.format("a") + learn.format("b")), TRAIN)
    net = Net(prototxt.parse_net(text + learn.format("a")), TRAIN)
    for value, name in enumerate("ab", 1):
        trained.params[name][0].data = value
    for value, name in enumerate("ab", 1):
        net.params["a"][0].share_weights(trained.params[name][0])
        assert (net.forward(x=np.ones((2, 3)))["a"] == 3 * value).all()
