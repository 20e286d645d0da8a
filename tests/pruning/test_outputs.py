"""Whole outputs: scores, choice, masks, what goes with a channel, and which layers are left alone."""

import numpy as np
import pytest

import protocaffe
from protocaffe.errors import ParameterError
from protocaffe.io import parse_net, parse_solver
from protocaffe.layout import WeightLayout
from protocaffe.pruning import (
    PruningArguments,
    Weights,
    channel_masks,
    choose_channels,
    net_scores,
    prunable_weights,
    prune_by,
)  # fmt: skip
from protocaffe.pruning.following import output_layers
from protocaffe.pruning.outputs import l1_channels
from tests.support import pruning_nets as nets


def test_rows_of_a_grouped_deconvolution():
    values = np.arange(4 * 3 * 2).reshape(4, 3, 2)  # two groups of two inputs and three outputs, kernel 2
    layout = WeightLayout((4, 3, 2), 1, 2)
    assert layout.outputs == 6
    rows = layout.rows(values)
    assert rows[1].tolist() == [2, 3, 8, 9]
    assert rows[4].tolist() == [14, 15, 20, 21]
    assert np.array_equal(layout.values(rows, values.shape), values)


def test_layers_declare_where_their_outputs_lie():
    net = nets.make(
        nets.DATA + nets.BODY + 'layer { name: "up" type: "Deconvolution" bottom: "data" top: "up" '
        "convolution_param { num_output: 6 kernel_size: 2 group: 2 } }" + nets.LOSS
    )
    layouts = {w.name: w.layout for w in prunable_weights(net)}
    assert layouts == {
        "conv": ((6, 2, 3, 3), 0, 1), "turned": ((54, 8), 1, 1), "one": ((8, 8), 0, 1), "out": ((3, 8), 0, 1),
        "up": ((4, 3, 2, 2), 1, 2),
    }  # fmt: skip
    assert layouts["up"].outputs == 6


def test_l1_is_the_mean_magnitude_of_an_outputs_weights():
    net = nets.make()
    scores, _ = net_scores(net, "l1-channels")
    p = nets.parameters(net)
    np.testing.assert_allclose(scores[0], np.abs(p["conv"][0]).mean((1, 2, 3)), rtol=1e-6)
    np.testing.assert_allclose(scores[1], np.abs(p["turned"][0]).mean(0), rtol=1e-6)
    np.testing.assert_allclose(scores[2], np.abs(p["one"][0]).mean(1), rtol=1e-6)


def test_scale_is_gamma_of_the_scale_behind_and_the_mean_where_weights_are_shared():
    net = nets.make()
    scores, _ = net_scores(net, "scale-channels", exclude=["out"])
    p = nets.parameters(net)
    np.testing.assert_allclose(scores[0], np.abs(p["scale"][0]))
    np.testing.assert_allclose(scores[1], np.abs(p["scale_turned"][0]))
    np.testing.assert_allclose(scores[2], (np.abs(p["scale_one"][0]) + np.abs(p["scale_two"][0])) / 2)
    with pytest.raises(ParameterError, match=r'layer "out" \(InnerProduct\) has no Scale'):
        net_scores(net, "scale-channels")


def scale_between(kind):
    """A convolution whose Scale does not belong to its channels alone."""
    conv = f'layer {{ name: "c" type: "Convolution" bottom: "data" top: "c" convolution_param {{ num_output: 3 kernel_size: 1 {nets.FILL} }} }}\n'  # noqa: E501
    between = {
        "relu": 'layer { name: "r" type: "ReLU" bottom: "c" top: "c" } layer { name: "s" type: "Scale" bottom: "c" top: "c" }',  # noqa: E501
        "axis": 'layer { name: "s" type: "Scale" bottom: "c" top: "c" scale_param { axis: 2 } }',
        "all": 'layer { name: "s" type: "Scale" bottom: "c" top: "c" scale_param { axis: 0 num_axes: -1 } }',
        "two_readers": 'layer { name: "s" type: "Scale" bottom: "c" top: "s" } layer { name: "q" type: "Power" bottom: "c" top: "q" }',  # noqa: E501
    }[kind]
    return nets.make(nets.DATA + conv + between)


@pytest.mark.parametrize("kind", ["relu", "axis", "all", "two_readers"])
def test_a_scale_that_is_not_the_channels_own_is_not_taken(kind):
    with pytest.raises(ParameterError, match=r'layer "c" .Convolution. has no Scale'):
        net_scores(scale_between(kind), "scale-channels")


def test_channels_with_the_lowest_scores_go_whole():
    weights = [Weights("a", np.ones((4, 3), np.float32)), Weights("b", np.ones((5, 2), np.float32), None,
               WeightLayout((5, 2), 1))]  # fmt: skip
    kept = choose_channels(weights, [np.array([3, 1, 2, 4.0]), np.array([0.5, 5])], 0.5, min_keep=1)
    assert [k.tolist() for k in kept] == [[True, False, False, True], [False, True]]
    a, b = channel_masks(weights, kept)
    assert a.tolist() == [[True] * 3, [False] * 3, [False] * 3, [True] * 3]
    assert b.tolist() == [[False, True]] * 5


def test_masks_that_are_there_stay_and_dead_channels_count():
    mask = np.ones((4, 3), bool)
    mask[3] = False
    mask[0, 1] = False
    w = [Weights("a", np.ones((4, 3), np.float32), mask)]
    scores = [np.array([3, 1, 2, 9.0])]  # the dead one scores highest
    assert choose_channels(w, scores, 0.25)[0].tolist() == [True, True, True, False]
    kept = choose_channels(w, scores, 0.5)
    assert kept[0].tolist() == [True, False, True, False]
    assert channel_masks(w, kept)[0].tolist() == [[True, False, True], [False] * 3, [True] * 3, [False] * 3]


@pytest.mark.parametrize("scope", ["global", "uniform", "erk"])
def test_no_layer_loses_its_last_channel(scope):
    weights = [Weights(n, np.ones((c, 7), np.float32)) for n, c in (("a", 4), ("b", 30), ("c", 9))]
    scores = [np.full(w.values.shape[0], float(i)) for i, w in enumerate(weights)]
    for kept in choose_channels(weights, scores, 0.97, scope):
        assert kept.any()
    assert [int(k.sum()) for k in choose_channels(weights, scores, 0.9, "uniform")] == [1, 3, 1]


def test_l1_ties_go_in_order():
    w = [Weights("a", np.ones((6, 2), np.float32))]
    assert choose_channels(w, l1_channels(w), 0.5)[0].tolist() == [False] * 3 + [True] * 3


@pytest.mark.parametrize(
    ("tail", "held"),
    [
        ("", ["out"]),
        ('layer { name: "prob" type: "Softmax" bottom: "out" top: "prob" }', ["out"]),
        (nets.LOSS, ["out"]),
        ('layer { name: "quiet" type: "Silence" bottom: "out" }', []),
        # an output that is taken off in the middle, past a Split
        ('layer { name: "side" type: "Power" bottom: "turned" top: "side" }', ["turned", "out"]),
        # a residual addition of two layers that only a ReLU parts from the output
        ('layer { name: "sum" type: "Eltwise" bottom: "two" bottom: "one" top: "sum" }'
         'layer { name: "relu3" type: "ReLU" bottom: "sum" top: "sum" }', ["one", "out"]),
    ],
)  # fmt: skip
def test_layers_whose_outputs_are_the_nets(tail, held):
    assert output_layers(nets.make(nets.DATA + nets.BODY + tail)) == held


def test_outputs_of_the_net_are_left_alone_unless_asked_for():
    net = nets.make()
    result = prune_by(net, PruningArguments("l1-channels", "uniform", 0.5))
    assert result.held == ("out",)
    assert net.params["out"][0].mask is None
    assert result.channels == {"conv": (3, 6), "turned": (4, 8), "one": (4, 8)}
    net = nets.make()
    result = prune_by(net, PruningArguments("l1-channels", "uniform", 0.5, {"out": 0.34}))
    assert result.held == () and result.channels["out"] == (1, 3)
    with pytest.raises(ParameterError, match="nothing can be pruned: conv, turned, one, out are excluded or"):
        prune_by(nets.make(), PruningArguments("l1-channels", sparsity=0.5, exclude=("conv", "turned", "one")))


def outputs_of(net, name):
    """The layer's top right behind its Scale."""
    seen = []
    handle = net.after_forward(lambda _: seen.append(net.blobs[net.top_names[name][0]].data.copy()), name)
    net.run_forward()
    handle.remove()
    return seen[0]


@pytest.mark.parametrize("method", ["l1-channels", "scale-channels", "taylor-channels"])
def test_a_shift_keeps_a_pruned_channel_alive_unless_the_bias_goes_too(method):
    arguments = PruningArguments(method, "uniform", 0.5)
    for with_bias in (False, True):
        net = nets.make()
        prune_by(net, arguments, nets.make(), 1, with_bias=with_bias)
        dead = ~net.params["conv"][0].mask.any(axis=(1, 2, 3))
        assert dead.sum() == 3
        y = outputs_of(net, "scale")
        shift = net.params["scale"][1].data[dead]
        np.testing.assert_allclose(y[:, dead], np.broadcast_to(shift[:, None, None], y[:, dead].shape), atol=1e-5)
        assert y[:, dead].any() != with_bias
        assert y[:, ~dead].any(axis=(0, 2, 3)).all()
        dead = ~net.params["turned"][0].mask.any(axis=0)
        assert outputs_of(net, "scale_turned")[:, dead].any() != with_bias
        masks = [net.params[n][i].mask for n, i in (("conv", 1), ("scale", 0), ("scale_one", 1), ("one", 1))]
        assert all((m is not None) == with_bias for m in masks)


def test_pruned_channels_and_their_biases_stay_zero_in_training_and_files(tmp_path):
    param = parse_solver(
        'base_lr: 0.05 momentum: 0.9 weight_decay: 0.1 lr_policy: "fixed" random_seed: 3 snapshot_after_train: false'
    )
    param.net_param.CopyFrom(parse_net(nets.NET))
    solver = protocaffe.get_solver(param)
    solver.step(5)  # momentum is there when the masks come
    prune_by(solver.net, PruningArguments("l1-channels", "uniform", 0.5), with_bias=True)
    masks = {f"{n}[{i}]": b.mask.copy() for n, bs in solver.net.params.items() for i, b in enumerate(bs)
             if b.mask is not None}  # fmt: skip
    assert {"conv[0]", "conv[1]", "scale[0]", "scale[1]", "two[1]"} <= set(masks)
    solver.step(5)
    for name in ("a.caffemodel", "a.caffemodel.h5"):
        solver.net.save(tmp_path / name)
        again = protocaffe.Net(parse_net(nets.NET), protocaffe.TEST, weights=str(tmp_path / name))
        for net in (solver.net, again):
            for key, mask in masks.items():
                layer, index = key[:-1].split("[")
                blob = net.params[layer][int(index)]
                assert np.array_equal(blob.mask, mask)
                assert not blob.data[~mask].any() and not np.signbit(blob.data[~mask]).any()
                assert blob.data[mask].all()


def test_a_bias_that_another_layer_needs_whole_is_refused_before_anything_changes():
    named = nets.BODY.replace('bottom: "two" top: "out"', 'bottom: "two" top: "out" param { } param { name: "x" }')
    named = named.replace("num_output: 3", "num_output: 8").replace(
        'name: "turned" type', 'name: "turned" param { } param { name: "x" } type'
    )
    net = nets.make(nets.DATA + named)
    with pytest.raises(
        ParameterError, match=r'parameter "turned\[1\]" of layer "turned" .*also belongs to layer "out"'
    ):
        prune_by(net, PruningArguments("l1-channels", sparsity=0.5), with_bias=True)
    assert all(w.mask is None for w in prunable_weights(net))


def test_what_does_not_go_together():
    with pytest.raises(ParameterError, match="n:m is for single weights"):
        prune_by(nets.make(), PruningArguments("l1-channels", n=2, m=4))
    with pytest.raises(ParameterError, match="biases go with whole outputs, magnitude prunes single weights"):
        prune_by(nets.make(), PruningArguments(sparsity=0.5), with_bias=True)
    with pytest.raises(ParameterError, match=r'method must be one of magnitude, .*got "best"'):
        prune_by(nets.make(), PruningArguments("best", sparsity=0.5))


def test_a_grouped_deconvolution_loses_outputs_of_its_groups():
    """Its weights lie as (inputs, outputs of a group, kernel): output 4 of 6 is the second of the second group."""
    net = nets.make(
        'layer { name: "x" type: "DummyData" top: "x" dummy_data_param { shape { dim: 2 dim: 4 dim: 3 dim: 3 }'
        ' data_filler { type: "gaussian" std: 1 } } }\n'
        'layer { name: "up" type: "Deconvolution" bottom: "x" top: "up"'
        f" convolution_param {{ num_output: 6 kernel_size: 2 group: 2 {nets.FILL} }} }}\n"
        f'layer {{ name: "ip" type: "InnerProduct" bottom: "up" top: "ip" inner_product_param {{ num_output: 2 {nets.FILL} }} }}'  # noqa: E501
    )
    weight = net.params["up"][0]
    weight.data[2:, 1] *= 1e-3
    result = prune_by(net, PruningArguments("l1-channels", sparsity=1 / 6), with_bias=True)
    assert result.channels == {"up": (5, 6)}
    assert np.argwhere(~weight.mask.any(axis=(2, 3))).tolist() == [[2, 1], [3, 1]]
    net.run_forward()
    top = net.blobs["up"].data
    assert [bool(top[:, i].any()) for i in range(6)] == [True] * 4 + [False, True]
