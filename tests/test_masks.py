"""The invariants of masks: what is pruned stays +0, whatever the rule, the file or the run does."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import protocaffe
from protocaffe.errors import FileFormatError, ShapeError, WeightsError
from protocaffe.io import prototxt
from protocaffe.io.caffemodel import LayerWeights, read_caffemodel, write_caffemodel
from protocaffe.io.solverstate import read_solverstate

NET = """
name: "masked"
layer { name: "in" type: "Input" top: "data" top: "label"
        input_param { shape { dim: 6 dim: 2 dim: 7 dim: 7 } shape { dim: 6 } } }
layer { name: "conv" type: "Convolution" bottom: "data" top: "conv"
        convolution_param { num_output: 4 kernel_size: 3 group: 2 weight_filler { type: "xavier" } } }
layer { name: "free" type: "Convolution" bottom: "conv" top: "free"
        convolution_param { num_output: 4 kernel_size: 1 bias_term: false weight_filler { type: "xavier" } } }
layer { name: "turned" type: "InnerProduct" bottom: "free" top: "turned"
        inner_product_param { num_output: 9 transpose: true weight_filler { type: "xavier" } } }
layer { name: "act" type: "TanH" bottom: "turned" top: "turned" }
layer { name: "one" type: "InnerProduct" bottom: "turned" top: "one" param { name: "w" } param { name: "b" }
        inner_product_param { num_output: 9 weight_filler { type: "xavier" } } }
layer { name: "two" type: "InnerProduct" bottom: "one" top: "two" param { name: "w" } param { name: "b" }
        inner_product_param { num_output: 9 weight_filler { type: "xavier" } } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "two" bottom: "label" top: "loss" }
"""

RULES = {
    "SGD": "base_lr: 0.1 momentum: 0.9",
    "Nesterov": "base_lr: 0.1 momentum: 0.9",
    "AdaGrad": "base_lr: 0.05",
    "RMSProp": "base_lr: 0.01 rms_decay: 0.9",
    "AdaDelta": "base_lr: 1 momentum: 0.9 delta: 1e-6",
    "Adam": "base_lr: 0.01 momentum: 0.9",
}


def make_solver(rule: str = "SGD", more: str = "", net: str = NET):
    text = f'type: "{rule}" {RULES[rule]} lr_policy: "fixed" weight_decay: 0.01 random_seed: 3 {more}'
    param = prototxt.parse_solver(text)
    param.net_param.CopyFrom(prototxt.parse_net(net))
    solver = protocaffe.get_solver(param)
    rng = np.random.default_rng(5)
    solver.net.blobs["data"].data = rng.standard_normal((6, 2, 7, 7))
    solver.net.blobs["label"].data = rng.integers(0, 9, 6)
    return solver


def prune(net, share: float = 0.6, seed: int = 0) -> None:
    rng = np.random.default_rng(seed)
    for blob in net.prunable():
        blob.mask = rng.random(blob.shape) > share


def assert_pruned_are_zero(net) -> None:
    """Every pruned weight is +0, bit for bit, and there are some."""
    pruned = 0
    for blob in net.prunable():
        values = blob.data[~blob.mask]
        pruned += values.size
        assert not values.view(np.uint32).any(), blob.name
    assert pruned > 50


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("more", ["", "iter_size: 2 clip_gradients: 0.5", 'regularization_type: "L1"'])
def test_pruned_weights_stay_zero_and_the_others_learn(rule, more):
    solver = make_solver(rule, more)
    solver.step(5)  # momentum and history are there before anything is pruned
    prune(solver.net)
    assert_pruned_are_zero(solver.net)
    before = [b.data.copy() for b in solver.net.prunable()]
    for _ in range(4):
        solver.step(1)
        assert_pruned_are_zero(solver.net)
    for blob, old in zip(solver.net.prunable(), before, strict=True):
        assert np.count_nonzero(blob.data != old) > 0.9 * np.count_nonzero(blob.mask), blob.name


@pytest.mark.parametrize("rule", RULES)
def test_a_masked_net_learns_like_a_net_without_those_weights(rule):
    """Oracle: the same rule where the pruned inputs of an inner product are cut off by zeros in the data."""
    net = """
    layer { name: "in" type: "Input" top: "data" top: "label"
            input_param { shape { dim: 6 dim: 2 dim: 7 dim: 7 } shape { dim: 6 } } }
    layer { name: "ip" type: "InnerProduct" bottom: "data" top: "ip"
            inner_product_param { num_output: 9 weight_filler { type: "xavier" } } }
    layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip" bottom: "label" top: "loss" }
    """
    masked, cut = make_solver(rule, net=net), make_solver(rule, net=net)
    keep = np.ones((9, 98))
    keep[:, ::3] = 0
    masked.net.params["ip"][0].mask = keep
    cut.net.params["ip"][0].data[:, ::3] = 0
    cut.net.blobs["data"].data.reshape(6, 98)[:, ::3] = 0
    masked.step(6)
    cut.step(6)
    for a, b in zip(masked.net.params["ip"], cut.net.params["ip"], strict=True):
        np.testing.assert_allclose(a.data, b.data, rtol=1e-5, atol=1e-6)


def test_clipping_measures_the_gradient_without_pruned_weights():
    """A huge gradient on a pruned weight must not scale the others down."""
    results = []
    for spike in (0.0, 1e6):
        solver = make_solver("SGD", "clip_gradients: 0.5")
        prune(solver.net)
        blob = solver.net.params["turned"][0]

        def add(blob=blob, spike=spike):
            blob.diff[~blob.mask] = spike

        solver.add_callback(lambda: None, add)
        solver.step(1)
        results.append(blob.data.copy())
    np.testing.assert_array_equal(*results)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -1.0])
def test_a_mask_clears_nan_infinity_and_the_sign_of_zero(bad):
    solver = make_solver()
    blob = solver.net.params["turned"][0]
    blob.data[0] = bad
    keep = np.ones(blob.shape)
    keep[0] = 0
    blob.mask = keep
    assert not blob.data[0].view(np.uint32).any()
    blob.diff[...] = bad
    solver._bind_update()
    solver._hyper.array[...] = (0.1, 0.9, 0.999, 1e-8, 0.01, 1, 1, -1)
    solver.backend.replay(solver._update)
    assert not blob.data[0].view(np.uint32).any()


def test_a_test_pass_changes_nothing():
    solver = make_solver("Adam")
    prune(solver.net)
    solver.step(3)
    test = protocaffe.Net(prototxt.parse_net(NET), protocaffe.TEST)
    test.share_with(solver.net)
    arena = solver.net.arena
    before = [arena.master.host().copy(), arena.mask.host().copy(), *(h.array.copy() for h in solver.history)]
    test.forward()
    after = [arena.master.host(), arena.mask.host(), *(h.array for h in solver.history)]
    for a, b in zip(before, after, strict=True):
        np.testing.assert_array_equal(a.view(np.uint8), b.view(np.uint8))


def test_only_declared_weights_are_prunable_whatever_their_shape():
    net = protocaffe.Net(prototxt.parse_net(NET))
    flags = {f"{name}[{i}]": b.prunable for name, blobs in net.params.items() for i, b in enumerate(blobs)}
    assert flags == {
        "conv[0]": True, "conv[1]": False, "free[0]": True, "turned[0]": True, "turned[1]": False,
        "one[0]": True, "one[1]": False, "two[0]": True, "two[1]": False,
    }  # fmt: skip
    assert len(net.prunable()) == 4  # the shared one once


def test_a_bias_stored_with_four_axes_is_not_pruned(tmp_path):
    net = protocaffe.Net(prototxt.parse_net(NET))
    weights = net.layer_weights()
    for layer in weights:
        for i, values in enumerate(layer.blobs):
            if values.ndim == 1:
                layer.blobs[i] = np.zeros((1, 1, 1, values.size), np.float32)  # old files; zeros, as if pruned
            elif values.ndim == 2:
                layer.blobs[i] = values.reshape(1, 1, *values.shape)
    write_caffemodel(tmp_path / "old.caffemodel", prototxt.parse_net(NET), weights)
    net.copy_from(tmp_path / "old.caffemodel")
    net.params["turned"][0].data[0, 0] = 0
    assert net.masks_from_zeros() == 1
    assert [b.mask is not None for b in net.params["turned"]] == [True, False]
    assert net.params["conv"][1].mask is None


def test_shared_parameters_share_their_mask():
    solver = make_solver()
    keep = np.random.default_rng(0).random((9, 9)) > 0.5
    solver.net.params["two"][0].mask = keep
    np.testing.assert_array_equal(solver.net.params["one"][0].mask, keep)
    solver.step(2)
    assert not solver.net.params["one"][0].data[~keep].any()


def test_mask_is_none_readonly_and_of_the_right_shape():
    net = protocaffe.Net(prototxt.parse_net(NET))
    blob = net.params["conv"][0]
    assert blob.mask is None
    with pytest.raises(ShapeError, match=r'"conv\[0\]": a mask must have its shape \(4, 1, 3, 3\), got \(3, 3\)'):
        blob.mask = np.ones((3, 3))
    blob.mask = np.ones(blob.shape)
    with pytest.raises(ValueError, match="read-only"):
        blob.mask[0] = False
    blob.mask = None
    assert blob.mask is None


def test_drop_masks_frees_the_weights():
    solver = make_solver()
    prune(solver.net)
    solver.step(2)
    keep = solver.net.params["turned"][0].mask.copy()
    solver.net.drop_masks()
    solver.step(2)
    assert all(b.mask is None for b in solver.net.prunable())
    assert np.count_nonzero(solver.net.params["turned"][0].data[~keep]) > 0


def test_masks_from_zeros_leaves_dense_parameters_without_one():
    net = protocaffe.Net(prototxt.parse_net(NET), seed=1)
    net.params["free"][0].data[:2] = -0.0
    assert net.masks_from_zeros() == 8
    assert net.params["conv"][0].mask is None
    assert not net.params["free"][0].data[:2].view(np.uint32).any()
    assert net.masks_from_zeros() == 8  # again: nothing more, nothing lost


def test_masks_from_zeros_adds_to_a_mask_that_is_there():
    net = protocaffe.Net(prototxt.parse_net(NET), seed=1)
    blob = net.params["free"][0]
    keep = np.ones(blob.shape)
    keep[0] = 0
    blob.mask = keep
    blob.data[1] = 0
    blob.data[0] = 5  # written over the mask: still pruned
    assert net.masks_from_zeros() == 4
    np.testing.assert_array_equal(blob.mask[:, :, 0, 0].all(axis=1), [False, False, True, True])
    assert not blob.data[:2].view(np.uint32).any()


def test_a_net_whose_mask_comes_from_a_filler_trains_under_it():
    text = NET.replace(
        "num_output: 9 transpose: true",
        'num_output: 9 transpose: true mask_filler { type: "gaussian" sparse: 40 std: 1 }',
    )
    solver = make_solver("RMSProp", net=text)
    blob = solver.net.params["turned"][0]
    keep, before = blob.mask.copy(), blob.data.copy()
    assert 0 < keep.mean() < 1
    solver.step(3)
    np.testing.assert_array_equal(blob.mask, keep)
    assert not blob.data[~keep].view(np.uint32).any()
    assert np.count_nonzero(blob.data[keep] != before[keep]) > 0.9 * keep.sum()


def test_what_was_written_over_a_mask_does_not_reach_a_file(tmp_path):
    solver = make_solver()
    prune(solver.net)
    for blob in solver.net.prunable():
        blob.data[...] = 3
    solver.net.save(tmp_path / "net.caffemodel")
    stored = {w.name: w for w in read_caffemodel(tmp_path / "net.caffemodel")}
    for name in ("conv", "free", "turned", "one"):
        values, keep = stored[name].blobs[0], solver.net.params[name][0].mask
        assert not values[~keep].view(np.uint32).any()
        assert (values[keep] == 3).all()


def test_a_snapshot_taken_right_after_pruning_holds_masked_histories(tmp_path):
    solver = make_solver("Adam", f'snapshot_prefix: "{tmp_path}/net"')
    solver.step(3)
    prune(solver.net)
    state = read_solverstate(solver.snapshot()[1])
    blobs = [*solver.net.arena.blobs, *solver.net.arena.blobs]
    assert len(state.history) == len(blobs)
    for values, blob in zip(state.history, blobs, strict=True):
        if blob.mask is not None:
            assert not values.reshape(blob.shape)[~blob.mask].any()
            assert values.reshape(blob.shape)[blob.mask].any()


def test_mask_filler_makes_a_fixed_random_sparse_net():
    text = NET.replace(
        "num_output: 9 transpose: true",
        'num_output: 9 transpose: true mask_filler { type: "uniform" min: -0.5 max: 0 }',
    ).replace("num_output: 4 kernel_size: 3", 'num_output: 4 kernel_size: 3 mask_filler { type: "gaussian" sparse: 2 }')
    nets = [protocaffe.Net(prototxt.parse_net(text), protocaffe.TRAIN, seed=s) for s in (1, 1, 2)]
    masks = [net.params["conv"][0].mask for net in nets]
    np.testing.assert_array_equal(masks[0], masks[1])
    assert (masks[0] != masks[2]).any()
    assert 0 < masks[0].mean() < 1
    assert not nets[0].params["conv"][0].data[~masks[0]].any()
    assert nets[0].params["free"][0].mask is None


def test_files_keep_masks_and_weights_are_zero_in_them(tmp_path):
    solver = make_solver("RMSProp")
    prune(solver.net)
    solver.step(2)
    path = tmp_path / "net.caffemodel"
    solver.net.save(path)
    stored = {w.name: w for w in read_caffemodel(path)}
    for name, blobs in solver.net.params.items():
        for blob, values, keep in zip(blobs, stored[name].blobs, stored[name].masks, strict=True):
            np.testing.assert_array_equal(values.view(np.uint32), blob.data.view(np.uint32))
            assert (keep is None) == (blob.mask is None)
            if keep is not None:
                np.testing.assert_array_equal(keep, blob.mask)
                assert not values[~keep].view(np.uint32).any()
    fresh = make_solver("RMSProp")
    fresh.net.copy_from(path)  # a file with masks always trains masked
    fresh.step(2)
    assert_pruned_are_zero(fresh.net)
    for a, b in zip(fresh.net.prunable(), solver.net.prunable(), strict=True):
        np.testing.assert_array_equal(a.mask, b.mask)


def test_loading_a_plain_file_into_a_masked_net_keeps_its_masks(tmp_path):
    net = protocaffe.Net(prototxt.parse_net(NET), seed=1)
    net.save(tmp_path / "plain.caffemodel")
    prune(net)
    masks = [b.mask.copy() for b in net.prunable()]
    net.copy_from(tmp_path / "plain.caffemodel")
    assert_pruned_are_zero(net)
    for blob, keep in zip(net.prunable(), masks, strict=True):
        np.testing.assert_array_equal(blob.mask, keep)
        assert blob.data[keep].all()


def test_restoring_a_dense_snapshot_takes_masks_off(tmp_path):
    solver = make_solver("SGD", f'snapshot_prefix: "{tmp_path}/dense"')
    solver.step(1)
    _, state = solver.snapshot()
    prune(solver.net)
    solver.restore(state)
    assert all(b.mask is None for b in solver.net.prunable())
    assert all(b.data.all() for b in solver.net.prunable())


def test_a_snapshot_whose_weights_are_damaged_leaves_the_masks_alone(tmp_path):
    solver = make_solver("SGD", f'snapshot_prefix: "{tmp_path}/s"')
    solver.step(1)
    model, state = solver.snapshot()
    prune(solver.net)
    masks = [b.mask.copy() for b in solver.net.prunable()]
    content = Path(model).read_bytes()
    Path(model).write_bytes(content[: len(content) // 2])
    with pytest.raises(FileFormatError):
        solver.restore(state)
    for blob, mask in zip(solver.net.prunable(), masks, strict=True):
        np.testing.assert_array_equal(blob.mask, mask)


def test_gradients_of_pruned_weights_are_zero_before_the_update():
    """Callbacks, snapshots of diffs and updates written in Python see the masked gradient."""
    solver = make_solver("SGD", "iter_size: 2")
    prune(solver.net)
    seen = []
    solver.add_callback(lambda: None, lambda: seen.extend(np.abs(b.diff[~b.mask]).max() for b in solver.net.prunable()))
    solver.step(2)
    assert seen and not any(seen)
    assert all(np.abs(b.diff[b.mask]).max() > 0 for b in solver.net.prunable())


def test_weights_that_do_not_fit_change_nothing(tmp_path):
    net = protocaffe.Net(prototxt.parse_net(NET), seed=1)
    before = net.arena.master.host().copy()
    weights = protocaffe.Net(prototxt.parse_net(NET), seed=2).layer_weights()
    weights[-1].blobs[0] = weights[-1].blobs[0][:3]
    weights[-1].masks[0] = None
    with pytest.raises(
        WeightsError, match=r'layer "two" \(InnerProduct\): parameter 0 must have shape \(9, 9\), got \(3, 9\)'
    ):
        net.copy_weights(weights, "w.caffemodel")
    np.testing.assert_array_equal(net.arena.master.host(), before)


def test_zeros_without_masks_are_warned_of_by_name(tmp_path, caplog):
    net = protocaffe.Net(prototxt.parse_net(NET), seed=1)
    for share, ask, warned in (
        (0.25, "", False),
        (0.4, "", True),
        (0.4, "masks_from_zeros", False),
        (0.4, "drop_masks", False),
    ):
        weights = net.layer_weights()
        rng = np.random.default_rng(0)
        zeroed = [
            LayerWeights(
                w.name, w.type, [np.where(rng.random(b.shape) < share, 0, b) if b.ndim > 1 else b for b in w.blobs]
            )
            for w in weights
        ]
        write_caffemodel(tmp_path / "z.caffemodel", prototxt.parse_net(NET), zeroed)
        caplog.clear()
        solver = make_solver()
        solver.net.copy_from(tmp_path / "z.caffemodel")
        if ask:
            getattr(solver.net, ask)()
        solver.step(2)
        assert caplog.text.count("--mask-from-zeros") <= 1
        assert ("--mask-from-zeros" in caplog.text) == warned


def test_surgery_masks_are_read(tmp_path):
    """CInnerProduct: blobs 2 and 3 are float masks of weight and bias."""
    text = NET.replace('name: "turned" type: "InnerProduct"', 'name: "turned" type: "CInnerProduct"')
    net = protocaffe.Net(prototxt.parse_net(NET), seed=1)
    weights = net.layer_weights()
    keep = np.random.default_rng(0).random((100, 9)) > 0.5
    bias_keep = np.arange(9) % 2 == 0
    for w in weights:
        if w.name == "turned":
            w.blobs = [np.ones((100, 9)), np.ones(9), keep.astype(np.float32), bias_keep.astype(np.float32)]
            w.masks, w.diffs = [None] * 4, [None] * 4
    write_caffemodel(tmp_path / "dns.caffemodel", prototxt.parse_message(text, "NetParameter"), weights)
    net.copy_from(tmp_path / "dns.caffemodel")
    np.testing.assert_array_equal(net.params["turned"][0].mask, keep)
    np.testing.assert_array_equal(net.params["turned"][1].mask, bias_keep)
    np.testing.assert_array_equal(net.params["turned"][0].data, keep)
