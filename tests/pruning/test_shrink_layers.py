"""Shrinking, layer type by layer type: how many channels go, and that the outputs stay as they were."""

import numpy as np
import pytest

from protocaffe import Layer, Net, get_solver, register
from protocaffe.errors import NetError, WeightsError
from protocaffe.io import parse_net, parse_solver, read_caffemodel, read_net, to_text
from protocaffe.pruning import apply, edit_net, plan_shrink
from protocaffe.pruning.compare import build, largest_difference, random_inputs
from protocaffe.pruning.families import families
from protocaffe.resources import resource_path
from tests.support.shrinking import conv, data, ip, layer, masked, shrink

IMAGE = data(2, 3, 8, 8)
EXACT = 1e-11


# ----------------------------------------------------------------------------------------------------- plain chains
@pytest.mark.parametrize("bias", [True, False])
def test_convolutions(bias):
    more = "" if bias else "bias_term: false"
    net = IMAGE + conv("a", "data", 6, more=more) + conv("b", "a", 5, more=more) + conv("c", "b", 4, more=more)
    got = shrink(net, {"a": [0, 3, 5], "b": [1], "c": [2]})
    assert got.outputs == {"a": 3, "b": 4, "c": 4}
    assert got.difference < EXACT
    assert [b.shape for b in got.after.params["b"]] == [(4, 3, 3, 3), (4,)][: 1 + bias]
    assert "output of the net" in got.reasons("c")


def test_arguments_stay_as_they_are():
    param = parse_net(IMAGE + conv("a", "data", 6) + ip("b", "a", 4))
    made = masked(param, {"a": [0, 3]})
    weights = made.layer_weights()
    text, values = to_text(param), [w.blobs[0].copy() for w in weights]
    apply(plan_shrink(param, weights, backend=made.backend))
    assert to_text(param) == text
    assert all(np.array_equal(w.blobs[0], v) for w, v in zip(weights, values, strict=True))


def test_a_bias_that_is_missing_is_added_for_a_constant():
    net = IMAGE + conv("a", "data", 4) + conv("b", "a", 5, more="bias_term: false")
    got = shrink(net, {"a": [1]})
    assert got.outputs["a"] == 3 and got.difference < EXACT
    assert got.param.layer[2].convolution_param.bias_term
    assert len(got.after.params["b"]) == 2


def test_zeros_without_a_mask_count_as_pruned():
    made = masked(IMAGE + conv("a", "data", 6) + ip("b", "a", 4), {})
    weights = made.layer_weights()
    weights[0].blobs[0][[2, 4]] = 0
    plan = plan_shrink(made.param, weights, backend=made.backend)
    assert [c.outputs for c in plan.layers] == [(6, 4), (4, 4)]


def test_a_channel_that_nobody_reads_goes_too():
    made = masked(IMAGE + conv("a", "data", 6) + layer("TanH", "t", "a") + conv("b", "t", 5), {})
    weights = made.layer_weights()
    weights[1].blobs[0][:, [1, 2]] = 0
    plan = plan_shrink(made.param, weights, backend=made.backend)
    assert plan.layers[0].outputs == (6, 4) and plan.layers[0].pruned == 0
    after = build(*apply(plan), made.backend)
    assert largest_difference(build(made.param, weights, made.backend), after, random_inputs(made)) < EXACT


def test_what_only_removed_channels_read_goes_with_them():
    made = masked(IMAGE + conv("a", "data", 4) + conv("b", "a", 3) + conv("c", "b", 3), {"b": [1, 2]})
    weights = made.layer_weights()
    weights[1].blobs[0][0, [0, 3]] = 0
    weights[2].blobs[0][:, [1]] = 0
    plan = plan_shrink(made.param, weights, backend=made.backend)
    assert [c.outputs[1] for c in plan.layers] == [2, 1, 3] and plan.layers[0].pruned == 0
    after = build(*apply(plan), made.backend)
    assert largest_difference(build(made.param, weights, made.backend), after, random_inputs(made)) < EXACT


def test_a_layer_keeps_one_channel():
    got = shrink(IMAGE + conv("a", "data", 4) + layer("ReLU", "r", "a") + conv("b", "r", 5), {"a": [0, 1, 2, 3]})
    assert got.outputs["a"] == 1 and got.difference < EXACT
    assert "would have no channel left" in got.reasons("a")


# ------------------------------------------------------------------------------------- constants, padding and BatchNorm
NORM = layer("BatchNorm", "bn", "a") + layer("Scale", "sc", "bn", "scale_param { bias_term: true }")


@pytest.mark.parametrize("pad", [0, 1])
def test_a_batch_norms_shift_does_not_keep_dead_channels(pad):
    """Behind BatchNorm and Scale a pruned filter is a constant, not zero: it is not kept, and not dropped either."""
    net = IMAGE + conv("a", "data", 6, more="bias_term: false") + NORM + layer("ReLU", "r", "sc")
    net += conv("b", "r", 5, more=f"pad: {pad}")
    got = shrink(net, {"a": [0, 2, 5]}, set={("sc", 1): [0.7, 0.1, 0.5, 0.2, 0.3, 0.9], ("bn", 0): 0.0})
    assert got.outputs["a"] == (4 if pad else 3)
    assert got.difference < EXACT
    dead = got.before.forward(["r"], **random_inputs(got.before))["r"][:, [0, 2, 5]]
    assert dead.min() > 0.4 and np.ptp(dead, (0, 2, 3)).max() == 0
    assert [b.shape for b in got.after.params["bn"]] == [((4 if pad else 3),)] * 2 + [(1,)]
    if pad:
        assert "padding lets the border see fewer" in got.reasons("a")


def test_a_shift_that_the_activation_cuts_off_goes_under_padding_too():
    net = IMAGE + conv("a", "data", 6, more="bias_term: false") + NORM + layer("ReLU", "r", "sc")
    net += conv("b", "r", 5, more="pad: 1")
    got = shrink(net, {"a": [0, 2, 5]}, set={("sc", 1): -0.5, ("bn", 0): 0.0})
    assert got.outputs["a"] == 3 and got.difference < EXACT and not got.plan.stays


def test_one_constant_stands_for_all_under_padding():
    net = IMAGE + conv("a", "data", 8) + conv("b", "a", 5, more="pad: 1")
    made = shrink(net, {"a": [1, 3, 4, 6]}, set={("a", 1): np.arange(1, 9)})
    assert made.outputs["a"] == 5 and made.difference < EXACT
    assert sum(s.channels for s in made.plan.stays) == 1


def test_force_removes_it_and_says_so():
    net = IMAGE + conv("a", "data", 6) + conv("b", "a", 5, more="pad: 1")
    got = shrink(net, {"a": [1, 3]}, set={("a", 1): 1}, force=True)
    assert got.outputs["a"] == 4 and got.plan.inexact == ['layer "b" (Convolution)']
    assert got.difference > 1e-3
    outer, inner = got.before.forward(**random_inputs(got.before))["b"], got.after.blobs["b"].data
    assert np.allclose(outer[:, :, 1:-1, 1:-1], inner[:, :, 1:-1, 1:-1])


def test_masks_of_what_takes_a_constant_in_are_opened():
    net = IMAGE + conv("a", "data", 4) + conv("b", "a", 5, more="pad: 1")
    made = masked(net, {"a": [0, 1]}, set={("a", 1): [2, 1, 1, 1]})
    mask = np.ones((5, 4, 3, 3), bool)
    mask[:, 0] = False
    mask[:, 3, 0, 0] = False
    made.params["b"][0].mask = mask
    plan = plan_shrink(made.param, made.layer_weights(), backend=made.backend)
    small, weights = apply(plan)
    after = build(small, weights, made.backend)
    assert largest_difference(made, after, random_inputs(made)) < EXACT
    assert after.params["b"][0].shape == (5, 3, 3, 3)


ACTIVATIONS = {
    "ReLU": "relu_param { negative_slope: 0.3 }", "ELU": "elu_param { alpha: 0.7 }", "Sigmoid": "", "TanH": "",
    "AbsVal": "", "Power": "power_param { power: 2 scale: 0.5 shift: 0.25 }", "Dropout": "", "PReLU": "",
    "Bias": "", "Scale": "scale_param { bias_term: true }", "BatchNorm": "",
}  # fmt: skip


@pytest.mark.parametrize("in_place", [False, True])
@pytest.mark.parametrize("kind", ACTIVATIONS)
def test_activations(kind, in_place):
    in_place = in_place and kind != "AbsVal"  # which cannot
    name = "a" if in_place else "x"
    net = IMAGE + conv("a", "data", 6) + layer(kind, "x", "a", ACTIVATIONS[kind], name) + conv("b", name, 4)
    got = shrink(net, {"a": [0, 5]})
    assert got.outputs["a"] == 4 and got.difference < EXACT
    assert all(b.shape in ((4,), (1,)) for b in got.after.params.get("x", []))


def test_prelu_with_one_slope():
    net = IMAGE + conv("a", "data", 6) + layer("PReLU", "x", "a", "prelu_param { channel_shared: true }")
    got = shrink(net + conv("b", "x", 4), {"a": [0, 5]})
    assert got.outputs["a"] == 4 and got.difference < EXACT


@pytest.mark.parametrize(
    ("options", "left"),
    [
        ("pool: MAX kernel_size: 2 stride: 2", 4),
        ("pool: MAX kernel_size: 3 stride: 2 pad: 1", 4),
        ("pool: AVE kernel_size: 3 stride: 2", 4),
        ("pool: AVE kernel_size: 3 stride: 2 pad: 1", 5),  # padding counts: a constant is no constant behind it
        ("pool: AVE global_pooling: true", 4),
    ],
)
def test_pooling(options, left):
    net = (
        IMAGE
        + conv("a", "data", 6)
        + layer("ReLU", "r", "a")
        + layer("Pooling", "p", "r", f"pooling_param {{ {options} }}")
    )
    got = shrink(net + ip("b", "p", 4), {"a": [0, 5]}, set={("a", 1): [1, 1, 1, 1, 1, -1]})
    assert got.outputs["a"] == left and got.difference < EXACT


@pytest.mark.parametrize(("region", "left"), [("ACROSS_CHANNELS", 6), ("WITHIN_CHANNEL", 4)])
def test_lrn(region, left):
    net = (
        IMAGE
        + conv("a", "data", 6)
        + layer("ReLU", "r", "a")
        + layer("LRN", "n", "r", f"lrn_param {{ norm_region: {region} }}")
    )
    got = shrink(net + conv("b", "n", 4), {"a": [0, 5]}, set={("a", 1): -1})
    assert got.outputs["a"] == left and got.difference < EXACT
    assert ("divides by the channels beside it" in got.reasons("a")) == (left == 6)


# ------------------------------------------------------------------------------------------------------ inner products
@pytest.mark.parametrize("transpose", ["", "transpose: true"])
@pytest.mark.parametrize("flat", [True, False])
def test_inner_products(flat, transpose):
    net = IMAGE + conv("a", "data", 6) + layer("ReLU", "r", "a")
    net += layer("Flatten", "f", "r") if flat else ""
    net += ip("b", "f" if flat else "r", 8, transpose) + layer("TanH", "t", "b") + ip("c", "t", 3, transpose)
    got = shrink(net, {"a": [1, 2], "b": [0, 3, 7]})
    assert got.outputs == {"a": 4, "b": 5, "c": 3} and got.difference < EXACT
    assert sorted(got.after.params["b"][0].shape) == [5, 4 * 36]


def test_an_inner_product_of_a_later_axis_keeps_the_channels():
    net = IMAGE + conv("a", "data", 6) + ip("b", "a", 4, "axis: 2") + ip("c", "b", 3, "axis: 2")
    got = shrink(net, {"a": [1, 2], "b": [0]})
    assert got.outputs == {"a": 6, "b": 3, "c": 3} and got.difference < EXACT
    assert "one by one" in got.reasons("a")


def test_layers_by_channel_behind_flatten():
    net = IMAGE + conv("a", "data", 4) + layer("Flatten", "f", "a") + layer("PReLU", "p", "f")
    net += layer("Scale", "s", "p") + ip("b", "s", 5)
    got = shrink(net, {"a": [2]})
    assert got.outputs["a"] == 3 and got.difference < EXACT
    assert got.after.params["p"][0].shape == got.after.params["s"][0].shape == (108,)


# -------------------------------------------------------------------------------------------- groups and deconvolution
def test_groups_keep_equal_numbers():
    net = IMAGE + conv("a", "data", 8) + conv("b", "a", 6, more="group: 2") + conv("c", "b", 4)
    got = shrink(net, {"a": [0, 1, 5], "b": [0]})
    assert got.outputs == {"a": 6, "b": 6, "c": 4} and got.difference < EXACT
    assert got.after.params["b"][0].shape == (6, 3, 3, 3)
    assert "equal numbers of channels" in got.reasons("b")
    got = shrink(net, {"a": [0, 1, 5], "b": [0, 4]})
    assert got.outputs == {"a": 6, "b": 4, "c": 4} and got.difference < EXACT


def test_a_whole_group_goes():
    net = IMAGE + conv("a", "data", 8) + conv("b", "a", 6, more="group: 2") + conv("c", "b", 4)
    got = shrink(net, {"b": [0, 1, 2]})
    assert got.outputs == {"a": 4, "b": 3, "c": 4} and got.difference < EXACT
    assert got.param.layer[2].convolution_param.group == 1
    assert got.after.params["b"][0].shape == (3, 4, 3, 3)


@pytest.mark.parametrize("multiplier", [1, 2])
@pytest.mark.parametrize("where", ["producer", "depthwise", "both"])
def test_depthwise_goes_with_its_producer(where, multiplier):
    outputs = 6 * multiplier
    net = IMAGE + conv("a", "data", 6, 1) + layer("ReLU", "r", "a")
    net += conv("dw", "r", outputs, more="group: 6 pad: 1") + layer("ReLU", "r2", "dw") + conv("pw", "r2", 5, 1)
    whole = [c * multiplier + i for c in (1, 4) for i in range(multiplier)]
    pruned = {"producer": {"a": [1, 4]}, "depthwise": {"dw": whole}, "both": {"a": [1, 4], "dw": whole}}[where]
    got = shrink(net, pruned, set={("a", 1): -0.3})
    assert got.outputs == {"a": 4, "dw": 4 * multiplier, "pw": 5} and got.difference < EXACT
    assert got.param.layer[3].convolution_param.group == 4


def test_a_depthwise_layer_whose_channel_must_stay():
    net = (
        IMAGE
        + conv("a", "data", 6, 1)
        + conv("dw", "a", 6, more="group: 6 pad: 1")
        + layer("Eltwise", "e", ["a", "dw"])
    )
    got = shrink(net + conv("b", "e", 4), {"dw": [1, 4]}, set={("dw", 1): 0})
    assert got.outputs == {"a": 6, "dw": 6, "b": 4} and got.difference < EXACT
    assert "Eltwise" in got.reasons("dw")


@pytest.mark.parametrize("group", [1, 2])
@pytest.mark.parametrize("kernel", [1, 4])
def test_deconvolution(group, kernel):
    more = f"group: {group} stride: 1"
    net = IMAGE + conv("a", "data", 6) + layer("ReLU", "r", "a") + conv("d", "r", 8, kernel, more, kind="Deconvolution")
    got = shrink(net + conv("b", "d", 4), {"a": [0, 5], "d": [1, 6]}, set={("a", 1): -0.5})
    assert got.outputs == {"a": 4, "d": 6, "b": 4} and got.difference < EXACT
    assert got.after.params["d"][0].shape == (4, 6 // group, kernel, kernel)


def test_a_constant_before_a_deconvolution():
    net = IMAGE + conv("a", "data", 6) + conv("d", "a", 4, 3, "stride: 2", kind="Deconvolution")
    got = shrink(net, {"a": [0, 5]}, set={("a", 1): 0.5})
    assert got.outputs["a"] == 5 and got.difference < EXACT


def test_several_bottoms_of_one_convolution():
    net = IMAGE + data(2, 3, 8, 8, name="more") + conv("a", ["data", "more"], 5, top=["a1", "a2"])
    net += conv("b", ["a1", "a2"], 4, top=["b1", "b2"])
    got = shrink(net, {"a": [2]})
    assert got.outputs["a"] == 4 and got.difference < EXACT


# -------------------------------------------------------------------------------------------------- joins and branches
def test_concat_and_slice():
    net = IMAGE + conv("a", "data", 5) + conv("b", "data", 4) + layer("Concat", "cat", ["a", "b"])
    net += layer("Slice", "cut", "cat", "slice_param { slice_point: 3 slice_point: 6 }", ["s1", "s2", "s3"])
    net += conv("c", "s1", 3) + conv("d", "s2", 3) + conv("e", "s3", 3)
    got = shrink(net, {"a": [1, 3], "b": [0, 3]})
    assert (got.outputs["a"], got.outputs["b"]) == (3, 2) and got.difference < EXACT
    cut = next(x for x in got.param.layer if x.type == "Slice")
    assert list(cut.slice_param.slice_point) == [2, 3]


def test_equal_slices_become_unequal():
    net = (
        IMAGE
        + conv("a", "data", 6)
        + layer("Slice", "cut", "a", top=["s1", "s2"])
        + conv("b", "s1", 3)
        + conv("c", "s2", 3)
    )
    got = shrink(net, {"a": [0, 1, 4]})
    assert got.after.blobs["s1"].shape[1] == 1 and got.after.blobs["s2"].shape[1] == 2 and got.difference < EXACT


def test_concat_of_the_batch_couples():
    net = (
        IMAGE
        + conv("a", "data", 5)
        + conv("b", "data", 5)
        + layer("Concat", "cat", ["a", "b"], "concat_param { axis: 0 }")
    )
    got = shrink(net + conv("c", "cat", 4), {"a": [0, 1], "b": [1, 2]}, set={("a", 1): 0, ("b", 1): 0})
    assert (got.outputs["a"], got.outputs["b"]) == (4, 4) and got.difference < EXACT


RESIDUAL = IMAGE + conv("stem", "data", 6, more="pad: 1") + layer("ReLU", "rs", "stem")
for block in "12":
    source = "rs" if block == "1" else "out1"
    RESIDUAL += conv(f"in{block}", source, 5, more="pad: 1") + layer("ReLU", f"ri{block}", f"in{block}")
    RESIDUAL += conv(f"back{block}", f"ri{block}", 6, more="pad: 1")
    RESIDUAL += layer("Eltwise", f"sum{block}", [source, f"back{block}"]) + layer("ReLU", f"out{block}", f"sum{block}")
RESIDUAL += layer("Pooling", "pool", "out2", "pooling_param { pool: AVE global_pooling: true }") + ip("fc", "pool", 4)
QUIET = {(name, 1): -0.1 for name in ("stem", "in1", "in2", "back1", "back2")}


def test_a_residual_stage_loses_what_all_its_producers_have_pruned():
    got = shrink(RESIDUAL, {"stem": [0, 1, 2], "back1": [1, 2, 3], "back2": [1, 2], "in1": [4]}, set=QUIET)
    assert got.outputs == {"stem": 4, "in1": 4, "back1": 4, "in2": 5, "back2": 4, "fc": 4}
    assert got.difference < EXACT
    assert "Eltwise" in got.reasons("stem") and "Eltwise" in got.reasons("back1")


@pytest.mark.parametrize(("operation", "left"), [("SUM", 5), ("PROD", 4), ("MAX", 5)])
def test_eltwise(operation, left):
    coeff = "coeff: 2 coeff: -1" if operation == "SUM" else ""
    net = (
        IMAGE
        + conv("a", "data", 6)
        + conv("b", "data", 6)
        + layer("Eltwise", "e", ["a", "b"], f"eltwise_param {{ operation: {operation} {coeff} }}")
    )
    got = shrink(net + conv("c", "e", 4), {"a": [0, 1], "b": [1]}, set={("a", 1): 0, ("b", 1): 0.5})
    assert (got.outputs["a"], got.outputs["b"]) == (left, left) and got.difference < EXACT


def test_scale_by_a_second_bottom():
    """A channel gate: what it makes 0 goes, and the gate's neurons with it."""
    net = IMAGE + conv("a", "data", 6) + layer("Pooling", "p", "a", "pooling_param { pool: AVE global_pooling: true }")
    net += ip("g", "p", 6) + layer("Sigmoid", "s", "g") + layer("Scale", "x", ["a", "s"], "scale_param { axis: 0 }")
    got = shrink(net + conv("b", "x", 4), {"a": [2, 3]}, set={("a", 1): 0})
    assert got.outputs == {"a": 4, "g": 4, "b": 4} and got.difference < EXACT


def test_bias_by_a_second_bottom_that_cannot_shrink():
    net = IMAGE + data(6, name="shift") + conv("a", "data", 6) + layer("Bias", "x", ["a", "shift"]) + conv("b", "x", 4)
    got = shrink(net, {"a": [2]})
    assert got.outputs["a"] == 6 and "cannot be removed" in got.reasons("a")


# ----------------------------------------------------------------------------------------------------- shapes and views
@pytest.mark.parametrize(
    ("dims", "left"),
    [((0, -1), 4), ((0, 0, 36), 4), ((2, 6, 36), 4), ((0, 6, -1), 4), ((0, 2, 3, -1), 6)],
    ids=str,
)
def test_reshape(dims, left):
    shape = " ".join(f"dim: {d}" for d in dims)
    net = IMAGE + conv("a", "data", 6) + layer("Reshape", "x", "a", f"reshape_param {{ shape {{ {shape} }} }}")
    got = shrink(net + ip("b", "x", 4), {"a": [1, 2]})
    assert got.outputs["a"] == left and got.difference < EXACT
    assert ("mixes its channels" in got.reasons("a")) == (left == 6)


def test_permute_before_inner_product():
    order = "permute_param { order: 0 order: 2 order: 3 order: 1 }"
    net = (
        IMAGE + conv("a", "data", 6) + layer("Permute", "x", "a", order) + layer("Flatten", "f", "x") + ip("b", "f", 4)
    )
    got = shrink(net, {"a": [1, 2]})
    assert got.outputs["a"] == 4 and got.difference < EXACT


def test_permute_before_a_convolution_keeps():
    net = (
        IMAGE
        + conv("a", "data", 6)
        + layer("Permute", "x", "a", "permute_param { order: 0 order: 2 order: 1 }")
        + conv("b", "x", 4)
    )
    got = shrink(net, {"a": [1, 2]})
    assert got.outputs["a"] == 6 and "works along axis 1" in got.reasons("a")


def test_crop_tile_and_reduction():
    net = (
        IMAGE
        + conv("a", "data", 6)
        + data(2, 9, 4, 4, name="like")
        + layer("Crop", "x", ["a", "like"], "crop_param { offset: 1 }")
    )
    net += layer("Tile", "t", "x", "tile_param { tiles: 2 }") + layer(
        "Reduction", "s", "t", "reduction_param { axis: 2 }"
    )
    got = shrink(net + ip("b", "s", 4), {"a": [1, 2]}, set={("a", 1): [1, 1, 0, 1, 1, 1]})
    assert got.outputs["a"] == 5 and got.difference < EXACT
    assert got.after.params["b"][0].shape == (4, 10)


def test_softmax_and_argmax_keep_their_channels():
    for kind in ("Softmax", "ArgMax"):
        got = shrink(IMAGE + conv("a", "data", 6) + layer(kind, "x", "a"), {"a": [1, 2]})
        assert got.outputs["a"] == 6 and kind in got.reasons("a")


# ---------------------------------------------------------------------------------------------------- shared parameters
def shared(*names):
    return " ".join(f'param {{ name: "{name}" }}' for name in names)


def test_shared_parameters_couple():
    one = [conv("a", "data", 6, extra=shared("w", "b")), conv("b", "two", 6, extra=shared("w", "b"))]
    net = IMAGE + data(2, 3, 8, 8, name="two") + "".join(one) + conv("c", "a", 4) + conv("d", "b", 4)
    got = shrink(net, {"a": [1, 2]})
    assert (got.outputs["a"], got.outputs["b"]) == (4, 4) and got.difference < EXACT
    got = shrink(
        net.replace('"c" type', '"relu" type: "ReLU" bottom: "a" top: "a" } layer { name: "c" type'), {"a": [1, 2]}
    )
    assert (got.outputs["a"], got.outputs["b"]) == (4, 4) and got.difference < EXACT


def test_a_shared_bias_takes_no_constant_in():
    net = IMAGE + data(2, 3, 8, 8, name="two") + conv("a", "data", 6) + conv("b", "two", 6)
    net += conv("c", "a", 4, extra=shared("w", "b")) + conv("d", "b", 4, extra=shared("w", "b"))
    got = shrink(net, {"a": [1, 2], "b": [1, 2]}, set={("a", 1): 1, ("b", 1): 1})
    assert got.outputs["a"] == 6 and got.difference < EXACT
    assert "its bias is shared" in got.reasons("a")
    got = shrink(net, {"a": [1, 2], "b": [1, 2]}, set={("a", 1): 0, ("b", 1): 0})
    assert (got.outputs["a"], got.outputs["b"]) == (4, 4) and got.difference < EXACT


def test_parameters_shared_in_another_form_stay():
    net = IMAGE + conv("a", "data", 6, 1, extra='param { name: "w" share_mode: PERMISSIVE }')
    net += layer("Pooling", "p", "data", "pooling_param { pool: AVE global_pooling: true }")
    net += ip("b", "p", 6, extra='param { name: "w" share_mode: PERMISSIVE }') + ip("c", "a", 3) + ip("d", "b", 3)
    got = shrink(net, {"a": [1, 2]})
    assert (got.outputs["a"], got.outputs["b"]) == (6, 6) and "another form" in got.reasons("a")


# ---------------------------------------------------------------------------------------------- models, files, training
@pytest.mark.parametrize(
    "name", ["lenet", "mnist_cnn", "resnet18_fashion_mnist", "squeezenet", "mobilenet_v1", "googlenet"]
)
def test_models(name):
    net = read_net(resource_path("models") / name / "deploy.prototxt")
    if name not in ("lenet", "mnist_cnn", "resnet18_fashion_mnist", "googlenet"):
        net.layer[0].input_param.shape[0].dim[:] = [1, 3, 64, 64]
    weighted = [x.name for x in net.layer if x.type in ("Convolution", "InnerProduct")]
    got = shrink(net, 0.5, skip=weighted[-1:])
    assert got.difference < EXACT
    assert got.plan.removed > {"resnet18_fashion_mnist": 900}.get(name, 0.35 * sum(c.pruned for c in got.plan.layers))
    for kind in ("Input", "Pooling", "Softmax"):
        assert [x for x in got.param.layer if x.type == kind] == [x for x in net.layer if x.type == kind]


def test_unknown_layers_keep_what_they_read():
    @register("ShrinkTestTwice")
    class Twice(Layer):
        exact_bottoms = exact_tops = 1

        def reshape(self, bottom, top):
            top[0].reshape(bottom[0].shape)

        def forward(self, bottom, top):
            self.ops.launch("scale_into", bottom[0].count, 2.0, bottom[0].data_mem, top[0].data_mem)

    net = IMAGE + conv("a", "data", 6) + layer("ShrinkTestTwice", "x", "a") + conv("b", "x", 5) + conv("c", "b", 4)
    got = shrink(net, {"a": [1], "b": [1]})
    assert got.outputs == {"a": 6, "b": 4, "c": 4} and got.difference < EXACT
    assert got.plan.unknown == ['layer "x" (ShrinkTestTwice)'] and "does not know" in got.reasons("a")


TRAINED = data(4, 3, 8, 8) + data(4, name="label") + conv("a", "data", 6) + layer("ReLU", "r", "a") + conv("b", "r", 5)
TRAINED += ip("c", "b", 3) + layer("SoftmaxWithLoss", "loss", ["c", "label"])


def test_masks_go_along_and_training_goes_on(tmp_path):
    made = masked(TRAINED, {"a": [0, 3]})
    rng = np.random.default_rng(5)
    mask = rng.random((5, 6, 3, 3)) < 0.6
    mask[2] = False
    made.params["b"][0].mask = mask
    made.save(tmp_path / "masked.caffemodel")
    plan = plan_shrink(made.param, read_caffemodel(tmp_path / "masked.caffemodel"))
    small, weights = apply(plan)
    (tmp_path / "small.prototxt").write_text(to_text(small))
    build(small, weights).save(tmp_path / "small.caffemodel")
    assert plan.edits["a"].num_output == 4 and plan.edits["b"].num_output == 4

    solver = parse_solver('base_lr: 0.1 momentum: 0.9 weight_decay: 0.01 lr_policy: "fixed" random_seed: 1')
    solver.snapshot_after_train = False
    solver.net_param.CopyFrom(read_net(tmp_path / "small.prototxt"))
    run = get_solver(solver)
    run.net.copy_from(tmp_path / "small.caffemodel")
    left = mask[np.ix_([0, 1, 3, 4], [1, 2, 4, 5])]
    assert np.array_equal(run.net.params["b"][0].mask, left)
    assert run.net.params["a"][0].mask is None
    start = {name: blobs[0].data.copy() for name, blobs in run.net.params.items()}
    run.net.blobs["data"].data = rng.standard_normal((4, 3, 8, 8))
    run.net.blobs["label"].data = [0, 1, 2, 0]
    run.step(3)
    for name in "abc":
        assert not np.array_equal(run.net.params[name][0].data, start[name])
    assert np.array_equal(run.net.params["b"][0].data != 0, left)


def test_another_prototxt_of_the_same_layers_gets_the_sizes():
    deploy = parse_net(TRAINED)
    del deploy.layer[-1], deploy.layer[1]  # loss and label
    made = masked(deploy, {"a": [0, 3]})
    plan = plan_shrink(deploy, made.layer_weights(), backend=made.backend)
    train = edit_net(plan, parse_net(TRAINED))
    assert [x.convolution_param.num_output for x in train.layer if x.type == "Convolution"] == [4, 5]
    assert Net(train).params["c"][0].shape == made.params["c"][0].shape


def test_errors():
    made = masked(TRAINED, {})
    with pytest.raises(WeightsError, match='no weights for layer "b"'):
        plan_shrink(made.param, [w for w in made.layer_weights() if w.name != "b"])
    twice = parse_net(IMAGE + conv("a", "data", 6) + conv("a", "a", 6, top="b"))
    with pytest.raises(NetError, match='two layers to change are called "a"'):
        plan_shrink(twice, Net(twice).layer_weights())
    cut = layer("Slice", "x", "a", top=["one", "two"]) + layer("Slice", "x", "two", top=["three", "four"])
    with pytest.raises(NetError, match='two layers to change are called "x"'):
        shrink(IMAGE + conv("a", "data", 8) + cut, {"a": [0, 1]})


def test_layers_without_parameters_may_share_a_name():
    """Two ReLUs, and what has the name of a layer with weights or sizes."""
    net = IMAGE + conv("a", "data", 6) + layer("ReLU", "relu", "a", top="ra") + conv("b", "ra", 5)
    shape = "reshape_param { shape { dim: 0 dim: 5 dim: -1 } }"
    net += layer("ReLU", "relu", "b", top="rb") + layer("Reshape", "x", "rb", shape)
    net += layer("ReLU", "b", "x", top="rx") + layer("Sigmoid", "x", "rx", top="s") + ip("out", "s", 4)
    got = shrink(net, 0.34, skip=["out"])
    assert got.outputs == {"a": 4, "b": 4, "out": 4} and got.difference < EXACT
    assert [f.names for f in families(got.before)] == [("a",), ("b",), ("out",)]


def test_a_mask_fillers_masks_are_those_of_the_file():
    """A net with mask_filler is made with masks: the weights' own, or none, count."""
    filler = 'mask_filler { type: "constant" value: 0 }'
    net = IMAGE + conv("a", "data", 6, more=filler) + conv("b", "a", 4, more=filler)
    made = masked(net.replace(filler, ""), {"a": [1, 2]})
    plan = plan_shrink(parse_net(net), made.layer_weights(), backend=made.backend)
    assert [c.outputs for c in plan.layers] == [(6, 4), (4, 4)]
    after = build(*apply(plan), made.backend)
    assert after.params["b"][0].mask is None
    assert largest_difference(made, after, random_inputs(made)) < EXACT


def test_comparing_finds_differences():
    made = masked(IMAGE + conv("a", "data", 6) + layer("Softmax", "s", "a"), {}, set={("a", 1): [400, 0, 0, 0, 0, 0]})
    other = build(made.param, made.layer_weights(), made.backend)
    inputs = random_inputs(made)
    assert largest_difference(made, other, inputs) == 0
    other.params["a"][1].data[3] = 4  # the softmax hides it
    assert largest_difference(made, other, inputs) == pytest.approx(4 / np.abs(made.blobs["a"].data).max())
    with pytest.raises(NetError, match=r'the output "s" .* is lost or has another shape'):
        largest_difference(made, masked(IMAGE + conv("a", "data", 5) + layer("Softmax", "s", "a"), {}), inputs)
