"""Fused chains against the layers as written: same blobs, same gradients, and never seen by who looks in between."""

from __future__ import annotations

import logging

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import protocaffe
from protocaffe import TEST, TRAIN, get_solver
from protocaffe.backends import get_backend
from protocaffe.cli.time import measure
from protocaffe.fusion import Pattern, find_chains
from protocaffe.io import prototxt
from protocaffe.patterns import PORTABLE
from protocaffe.patterns_pooled import ConvolutionReLUPooling
from tests.support.backends import assert_alike
from tests.support.nets import LABEL, LOSS, SMALL, images, make, trainable
from tests.support.split_backend import SplitBackend

INPUT = 'layer {{ name: "data" type: "Input" top: "data" input_param {{ shape {{ {} }} }} }}\n'
XAVIER = 'weight_filler { type: "xavier" } bias_filler { type: "gaussian" }'


def entry(shape) -> str:
    return INPUT.format(" ".join(f"dim: {d}" for d in shape))


def conv(name, bottom, top, more="") -> str:
    options = f"convolution_param {{ num_output: 6 kernel_size: 3 pad: 1 {XAVIER} {more} }}"
    return layer("Convolution", name, bottom, top, options)


def ip(name, bottom, top, more="") -> str:
    return layer("InnerProduct", name, bottom, top, f"inner_product_param {{ num_output: 7 {XAVIER} {more} }}")


def layer(type_name, name, bottom, top, more="") -> str:
    return f'layer {{ name: "{name}" type: "{type_name}" bottom: "{bottom}" top: "{top}" {more} }}\n'


def relu(name, bottom, top, slope=0) -> str:
    return layer("ReLU", name, bottom, top, f"relu_param {{ negative_slope: {slope} }}")


def norm(name, bottom, top, more="") -> str:
    return layer("BatchNorm", name, bottom, top, f"batch_norm_param {{ moving_average_fraction: 0.9 {more} }}")


def scale(name, bottom, top, more="bias_term: true", before="") -> str:
    fillers = 'filler { type: "gaussian" std: 1 } bias_filler { type: "gaussian" std: 0.3 }'
    return layer("Scale", name, bottom, top, f"{before} scale_param {{ {more} {fillers} }}")


def total(name, bottoms, top, more="") -> str:
    lines = " ".join(f'bottom: "{b}"' for b in bottoms)
    return f'layer {{ name: "{name}" type: "Eltwise" {lines} top: "{top}" eltwise_param {{ {more} }} }}\n'


def pair(text, phase=TRAIN, **kwargs):
    """The same net twice, in double: unfused and fused."""
    kwargs.setdefault("backend", get_backend("cpu", "float64"))
    nets = make(text, phase, fuse=False, **kwargs), make(text, phase, fuse=True, **kwargs)
    for net in nets:
        with_statistics(net)
    return nets


def with_statistics(net):
    """Statistics as training would have left them."""
    for each in net.layers:
        if each.type == "BatchNorm":
            rng = np.random.default_rng(len(each.name))
            mean, variance, factor = each.blobs
            mean.data[...], variance.data[...], factor.data[...] = rng.normal(size=mean.shape), 2 + rng.random(), 2


def spread(seed, *nets):
    """Random values in inputs, the same for all nets."""
    for name in nets[0].inputs:
        values = np.random.default_rng(seed).normal(size=nets[0].blobs[name].shape)
        for net in nets:
            net.blobs[name].data = values


def one_pass(seed, net, way="whole"):
    """Forward and backward from random top diffs, all at once or layer by layer (which fuses nothing)."""
    spread(seed, net)
    forward, backward = (way, way) if isinstance(way, str) else way
    names = net._layer_names
    if forward == "whole":
        net.forward()
    else:
        for name in names:
            net.forward(start=name, end=name)
    rng = np.random.default_rng(seed + 1)
    tops = {name: rng.normal(size=net.blobs[name].shape) for name in net.outputs}
    if backward == "whole":
        net.backward(**tops)
    elif backward == "steps":
        for name, diff in tops.items():
            net.blobs[name].diff = diff
        for name in reversed(names):
            net.backward(start=name, end=name)


def everything(net) -> dict[str, np.ndarray]:
    """Data and diff of all blobs and parameters."""
    out = {f"{name} data": blob.data.copy() for name, blob in net.blobs.items()}
    out |= {f"{name} diff": blob.diff.copy() for name, blob in net.blobs.items()}
    for name, blobs in net.params.items():
        out |= {f"{name}[{i}] data": blob.data.copy() for i, blob in enumerate(blobs)}
        out |= {f"{name}[{i}] diff": blob.diff.copy() for i, blob in enumerate(blobs)}
    return out


def same(a, b, exact=False):
    """All values of two nets agree, to rounding or bit for bit (but for the sign of zero).

    Rounding is measured by the net's largest value: the gradient of a bias before a BatchNorm is nothing else.
    """
    want, got = everything(a), everything(b)
    assert want.keys() == got.keys()
    rounding = 1e-12 if a.backend.real == np.float64 else 1e-6
    size = max(np.abs(values).max(initial=1) for values in want.values())
    for name, values in want.items():
        if exact:
            np.testing.assert_array_equal(got[name], values, err_msg=name)
        else:
            np.testing.assert_allclose(got[name], values, rtol=100 * rounding, atol=10 * rounding * size, err_msg=name)


EXACT = {
    "conv": (entry((3, 2, 5, 6)) + conv("c", "data", "c") + relu("r", "c", "c"), ["c", "r"]),
    "conv, many images": (entry((40, 8, 5, 6)) + conv("c", "data", "c") + relu("r", "c", "c"), ["c", "r"]),
    "conv without bias": (entry((2, 2, 5, 6)) + conv("c", "data", "c", "bias_term: false") + relu("r", "c", "c"),
                          ["c", "r"]),
    "conv in groups": (entry((2, 4, 5, 6)) + conv("c", "data", "c", "group: 2") + relu("r", "c", "c"), ["c", "r"]),
    "conv by im2col": (entry((2, 2, 5, 6)) + conv("c", "data", "c", "force_nd_im2col: true") + relu("r", "c", "c"),
                       ["c", "r"]),
    "conv in 3-D": (entry((2, 2, 3, 4, 5)) + conv("c", "data", "c") + relu("r", "c", "c"), ["c", "r"]),
    "no image": (entry((0, 2, 5, 6)) + conv("c", "data", "c") + relu("r", "c", "c"), ["c", "r"]),
    "inner product": (entry((5, 11)) + ip("i", "data", "i") + relu("r", "i", "i"), ["i", "r"]),
    "inner product, transposed": (entry((5, 11)) + ip("i", "data", "i", "transpose: true") + relu("r", "i", "i"),
                                  ["i", "r"]),
}  # fmt: skip


@pytest.mark.parametrize("phase", [TRAIN, TEST], ids=["train", "test"])
@pytest.mark.parametrize("name", EXACT)
def test_chains_that_do_the_same_arithmetic_are_bit_identical(name, phase):
    text, chain = EXACT[name]
    plain, fused = pair(text + "force_backward: true", phase, backend=get_backend("cpu"))
    assert fused.fused_layers() == [chain] and plain.fused_layers() == []
    for net in (plain, fused):
        one_pass(3, net)
    same(plain, fused, exact=True)
    assert "c" not in fused.blobs or not fused.blobs["c"].count or (fused.blobs["c"].data == 0).any()


def normed(more="", top="c", tail=None, head=None, shape=(6, 4, 5, 6)):
    """Convolution, then BatchNorm to ``top`` (c: in place), then what follows in place."""
    tail = scale("s", top, top) + relu("r", top, top) if tail is None else tail
    return entry(shape) + (conv("c", "data", "c") if head is None else head) + norm("n", "c", top, more) + tail


GLOBAL = "use_global_stats: true"
FROZEN = "param { lr_mult: 0 } param { lr_mult: 0 }"
CLOSE = {
    "norm, scale, relu": (normed(), ["n", "s", "r"]),
    "norm not in place": (normed(top="n"), ["n", "s", "r"]),
    "norm and scale": (normed(tail=scale("s", "c", "c")), ["n", "s"]),
    "norm not in place and scale": (normed(top="n", tail=scale("s", "n", "n")), ["n", "s"]),
    "norm and relu": (normed(tail=relu("r", "c", "c")), ["n", "r"]),
    "norm not in place and relu": (normed(top="n", tail=relu("r", "n", "n")), ["n", "r"]),
    "scale without bias": (normed(tail=scale("s", "c", "c", "") + relu("r", "c", "c")), ["n", "s", "r"]),
    "leaky": (normed(tail=scale("s", "c", "c") + relu("r", "c", "c", 0.2)), ["n", "s", "r"]),
    "leaky, not in place": (normed(top="n", tail=scale("s", "n", "n") + relu("r", "n", "n", 0.2)), ["n", "s", "r"]),
    "stored statistics": (normed(GLOBAL), ["n", "s", "r"]),
    "stored statistics, not in place": (normed(GLOBAL, "n"), ["n", "s", "r"]),
    "stored statistics, no scale": (normed(GLOBAL, tail=relu("r", "c", "c")), ["n", "r"]),
    "stored statistics, no relu": (normed(GLOBAL, "n", tail=scale("s", "n", "n")), ["n", "s"]),
    "after an inner product": (normed(shape=(9, 11), head=ip("c", "data", "c")), ["n", "s", "r"]),
    "one image": (normed(shape=(1, 4, 5, 6)), ["n", "s", "r"]),
    "no image": (normed(shape=(0, 4, 5, 6)), ["n", "s", "r"]),
    "more images than chunks": (normed(shape=(37, 1, 3, 4)), ["n", "s", "r"]),
    "one axis": (
        entry((30,)) + layer("Sigmoid", "c", "data", "c") + norm("n", "c", "c") + relu("r", "c", "c"), ["n", "r"]
    ),
    "sum": (
        entry((3, 2, 5, 6)) + conv("a", "data", "a") + conv("b", "data", "b") + total("t", "ab", "t")
        + relu("r", "t", "t"), ["t", "r"],
    ),
    "sum with coefficients, leaky": (
        entry((3, 2, 5, 6)) + conv("a", "data", "a") + conv("b", "data", "b")
        + total("t", "ab", "t", "coeff: 2 coeff: -0.5") + relu("r", "t", "t", 0.3), ["t", "r"],
    ),
}  # fmt: skip
CLOSE["sum with two readers"] = (CLOSE["sum"][0] + conv("d", "t", "d") + conv("e", "t", "e"), ["t", "r", "t_r_0_split"])
CLOSE["sum with coefficients, leaky, with two readers"] = (
    CLOSE["sum with coefficients, leaky"][0] + conv("d", "t", "d") + conv("e", "t", "e"),
    ["t", "r", "t_r_0_split"],
)
CLOSE["sum with three readers"] = (
    CLOSE["sum"][0] + conv("d", "t", "d") + conv("e", "t", "e") + conv("f", "t", "f"),
    ["t", "r"],
)
LRN = "lrn_param { local_size: 3 alpha: 0.5 k: 2 }"
CLOSE["normalised across channels"] = (
    entry((3, 2, 5, 6)) + conv("c", "data", "c") + relu("r", "c", "c") + layer("LRN", "l", "c", "l", LRN),
    ["c", "r", "l"],
)
CLOSE["normalised across channels, another power"] = (
    entry((3, 2, 5, 6))
    + conv("c", "data", "c")
    + relu("r", "c", "c")
    + layer("LRN", "l", "c", "l", LRN.replace("k: 2", "beta: 0.6")),
    ["c", "r", "l"],
)
CLOSE["normalised within channels"] = (
    entry((3, 2, 5, 6))
    + conv("c", "data", "c")
    + relu("r", "c", "c")
    + layer("LRN", "l", "c", "l", LRN.replace("k: 2", "norm_region: WITHIN_CHANNEL")),
    ["c", "r"],
)
#: those of which the convolution is a part where the statistics are the batch's
WITH_CONVOLUTION = {
    "norm, scale, relu", "norm and scale", "norm and relu", "scale without bias", "leaky", "one image", "no image",
    "more images than chunks",
}  # fmt: skip
FREEZING = {
    "gain and shift": (FROZEN, "", False),
    "gain": ("param { lr_mult: 0 }", "", False),
    "shift": ("param { lr_mult: 1 } param { lr_mult: 0 }", "", True),
    "gain and shift, stored statistics": (FROZEN, GLOBAL, False),
    "gain, stored statistics": ("param { lr_mult: 0 }", GLOBAL, False),
    "shift, stored statistics": ("param { lr_mult: 1 } param { lr_mult: 0 }", GLOBAL, True),
}


@pytest.mark.parametrize("way", ["whole", ("whole", "steps"), ("steps", "whole")], ids=str)
@pytest.mark.parametrize("phase", [TRAIN, TEST], ids=["train", "test"])
@pytest.mark.parametrize("name", CLOSE)
def test_chains_agree_to_rounding(name, phase, way):
    text, chain = CLOSE[name]
    chain = ["c", *chain] if name in WITH_CONVOLUTION and phase == TRAIN else chain
    plain, fused = pair(text + "force_backward: true", phase)
    assert fused.fused_layers() == [chain] and plain.fused_layers() == []
    for seed in (1, 2):
        one_pass(seed, plain, "steps")
        one_pass(seed, fused, way)
    same(plain, fused)


FOLDED = {
    "norm, scale, relu": (normed(), ["c", "n", "s", "r"]),
    "norm and scale": (normed(tail=scale("s", "c", "c")), ["c", "n", "s"]),
    "norm and relu": (normed(tail=relu("r", "c", "c")), ["c", "n", "r"]),
    "scale without bias": (normed(tail=scale("s", "c", "c", "") + relu("r", "c", "c")), ["c", "n", "s", "r"]),
    "no bias": (normed(head=conv("c", "data", "c", "bias_term: false")), ["c", "n", "s", "r"]),
    "groups": (normed(head=conv("c", "data", "c", "group: 2")), ["c", "n", "s", "r"]),
    "by im2col": (normed(head=conv("c", "data", "c", "force_nd_im2col: true")), ["c", "n", "s", "r"]),
    "larger weights": (normed(shape=(1, 4, 5, 6)), ["n", "s", "r"]),
    "leaky": (normed(tail=scale("s", "c", "c") + relu("r", "c", "c", 0.2)), ["c", "n", "s"]),
    "statistics of the batch": (normed("use_global_stats: false"), ["n", "s", "r"]),
}


@pytest.mark.parametrize("name", FOLDED)
def test_norms_go_into_the_weights_where_no_backward_pass_can_come(name):
    text, chain = FOLDED[name]
    plain, fused = pair(text, TEST)
    assert fused.fused_layers() == [chain]
    for seed in (1, 2):
        for net in (plain, fused):
            spread(seed, net)
            net.forward()
            net.params["c"][0].data[...] *= 2  # weights may change between passes
        same(plain, fused)
    np.testing.assert_array_equal(fused.params["c"][0].data, plain.params["c"][0].data)


@pytest.mark.parametrize("way", ["whole", ("whole", "steps"), ("steps", "whole")], ids=str)
@pytest.mark.parametrize("name", FREEZING)
def test_frozen_parameters(name, way):
    freeze, stats, learns = FREEZING[name]
    tail = scale("s", "c", "c", before=freeze) + relu("r", "c", "c") + ip("out", "c", "out")
    text = normed(stats, tail=tail) + layer("Softmax", "p", "out", "p", "loss_weight: 1")
    plain, fused = pair(text)
    assert fused.fused_layers() == [["n", "s", "r"] if stats else ["c", "n", "s", "r"]]
    for seed in (1, 2):
        one_pass(seed, plain, "steps")
        one_pass(seed, fused, way)
    same(plain, fused)
    assert fused.params["c"][0].diff.any() and fused.params["s"][0].diff.any() == learns


@pytest.mark.parametrize("way", ["whole", ("whole", "steps")], ids=str)
def test_a_norm_of_data_has_no_gradient_but_its_scale_has(way):
    tail = norm("n", "data", "n") + scale("s", "n", "n") + relu("r", "n", "n") + ip("out", "n", "out")
    plain, fused = pair(entry((6, 4, 5, 6)) + tail + layer("Softmax", "p", "out", "p", "loss_weight: 1"))
    assert fused.fused_layers() == [["n", "s", "r"]]
    for net, how in ((plain, "steps"), (fused, way)):
        one_pass(1, net, how)
    same(plain, fused)
    assert fused.params["s"][0].diff.any()


def test_fusion_switched_off_between_the_passes():
    plain, fused = pair(normed() + "force_backward: true")
    for net in (plain, fused):
        one_pass(1, net, ("whole", "none"))
        net.fuse = False
        net.backward(c=np.random.default_rng(1).normal(size=net.blobs["c"].shape))
    same(plain, fused)
    assert fused.params["s"][0].diff.any()


def test_hooks_that_come_between_the_passes():
    plain, fused = pair(normed() + "force_backward: true")
    for net in (plain, fused):
        one_pass(1, net, ("whole", "none"))
        net.before_backward(lambda name: None)
        net.backward(c=np.random.default_rng(1).normal(size=net.blobs["c"].shape))
    same(plain, fused)


@pytest.mark.parametrize("name", ["norm, scale, relu", "norm not in place", "stored statistics", "sum"])
def test_threads_do_not_change_results(name):
    text = CLOSE[name][0].replace("dim: 5 dim: 6", "dim: 50 dim: 61") + "force_backward: true"
    backend = get_backend("cpu")
    found, threads = [], backend.threads
    try:
        for backend.threads in (1, 3, 4):
            net = make(text, TRAIN)
            one_pass(1, net)
            found.append(everything(net))
    finally:
        backend.threads = threads
    for other in found[1:]:
        for key, values in found[0].items():
            np.testing.assert_array_equal(other[key], values, err_msg=key)


def test_gradients_of_a_fused_chain_are_those_of_differences(cpu64):
    net = make(normed(top="n", shape=(3, 2, 4, 3)) + "force_backward: true", TRAIN, backend=cpu64)
    rng = np.random.default_rng(0)
    top, x = rng.normal(size=net.blobs["n"].shape), rng.normal(size=(3, 2, 4, 3))
    assert net.fused_layers() == [["n", "s", "r"]]

    def loss():
        net.forward(data=x)
        return float((net.blobs["n"].data * top).sum())

    loss()
    net.clear_param_diffs()
    net.backward(n=top)
    for values, gradient in (
        (x, net.blobs["data"].diff.copy()), *((b.data, b.diff.copy()) for b in (*net.params["s"], *net.params["c"]))
    ):  # fmt: skip
        numeric = np.zeros(values.size)
        for i in range(min(values.size, 40)):
            kept = values.flat[i]
            both = []
            for step in (1e-6, -1e-6):
                values.flat[i] = kept + step
                both.append(loss())
            values.flat[i] = kept
            numeric[i] = (both[0] - both[1]) / 2e-6
        n = min(values.size, 40)
        np.testing.assert_allclose(gradient.ravel()[:n], numeric[:n], rtol=1e-4, atol=1e-5)


def test_the_mask_made_again_is_that_of_the_output():
    head = layer("Sigmoid", "c", "data", "c")
    net = make(normed(head=head, shape=(8, 4, 40, 40)) + "force_backward: true", 0)
    assert net.fused_layers() == [["n", "s", "r"]]
    spread(3, net)
    net.forward()
    z = net.layer_dict["n"]._buffers["normalised"].array
    net.params["s"][1].data[...] = -net.params["s"][0].data * z[0, :, 7, 7]  # so that values are 0 but for rounding
    net.forward()
    y = net.blobs["c"].data.copy()
    net.backward(c=np.ones(y.shape))
    alive = (y > 0).sum((0, 2, 3))
    np.testing.assert_array_equal(net.params["s"][1].diff, alive)


NOT_FUSED = {
    "scale over other axes": norm("n", "data", "n") + scale("s", "n", "n", "axis: 0"),
    "scale with all axes": norm("n", "data", "n") + scale("s", "n", "n", "num_axes: -1"),
    "product": conv("a", "data", "a")
    + conv("b", "data", "b")
    + total("t", "ab", "t", "operation: PROD")
    + relu("r", "t", "t"),
    "sum of three": conv("a", "data", "a")
    + conv("b", "data", "b")
    + conv("d", "data", "d")
    + total("t", "abd", "t")
    + relu("r", "t", "t"),
    "not in place": conv("c", "data", "c") + relu("r", "c", "r"),
    "with a slope": conv("c", "data", "c") + relu("r", "c", "c", 0.1),
    "two readers": conv("c", "data", "c") + relu("r", "c", "r") + relu("s", "c", "s"),
    "no bias to add": layer("Flatten", "f", "data", "f") + ip("i", "f", "i", "bias_term: false") + relu("r", "i", "i"),
    "something in between": conv("c", "data", "c") + layer("Sigmoid", "s", "c", "c") + relu("r", "c", "c"),
}


@pytest.mark.parametrize("name", NOT_FUSED)
def test_what_is_not_fused(name):
    plain, net = pair(entry((2, 2, 5, 6)) + NOT_FUSED[name] + "force_backward: true")
    assert net.fused_layers() == []
    for each in (plain, net):
        one_pass(3, each)
    same(plain, net, exact=True)


# ------------------------------------------------------------------------------------------ who looks in between
def longest(net):
    """The chain that the small net's device makes of its first layers."""
    return ["conv", "relu", "pool"][: 3 if ConvolutionReLUPooling in net.backend.patterns else 2]


def test_slices_run_the_layers_as_written():
    net, plain = make(), make(fuse=False)
    x = images()
    for each in (net, plain):
        each.forward(data=x)
    np.testing.assert_array_equal(net.forward(end="conv")["conv"], plain.forward(end="conv")["conv"])
    assert (net.blobs["conv"].data < 0).any()
    net.forward(start="relu", end="relu")
    assert (net.blobs["conv"].data >= 0).all() and (net.blobs["conv"].data > 0).any()


def test_hooks_see_every_layer():
    net = trainable()
    assert longest(net) in net.fused_layers()
    lowest = {}
    net.after_forward(lambda name: lowest.update({name: net.blobs["conv"].data.min()}), "conv")
    handle = net.after_forward(lambda name: lowest.update({name: net.blobs["conv"].data.min()}), "relu")
    net.forward()
    assert lowest["conv"] < 0 == lowest["relu"]
    handle.remove()


def test_the_debug_log_is_that_of_the_layers(caplog):
    lines = []
    for fuse in (False, True):
        caplog.clear()
        with caplog.at_level(logging.INFO, "protocaffe.net"):
            net = trainable("debug_info: true", fuse=fuse)
            net.forward()
            net.backward()
        lines.append([record.getMessage() for record in caplog.records])
    assert lines[0] == lines[1] and any("Layer conv, top blob conv" in line for line in lines[0])


@pytest.mark.parametrize("way", [("whole", "steps"), ("steps", "whole")], ids=str)
@pytest.mark.parametrize("name", EXACT)
def test_passes_may_be_fused_one_way_only(name, way):
    plain, mixed = pair(EXACT[name][0] + "force_backward: true")
    one_pass(5, plain, "steps")
    one_pass(5, mixed, way)
    same(plain, mixed)


def test_fusion_can_be_switched_while_a_net_lives():
    net = trainable()
    assert net.fuse and net.fused_layers()
    net.forward()
    want = net.blobs["ip"].data.copy()
    net.fuse = False
    assert net.fused_layers() == []
    net.forward()
    assert_alike(net.blobs["ip"].data, want)
    assert "relu_forward" in [call.name for call in net._forward().calls(range(len(net.layers)))]


def test_calls_of_a_layer_are_its_own():
    net = trainable()
    assert net.layer_calls() == trainable(fuse=False).layer_calls()
    ran = [call.name for call in net._forward().calls(range(len(net.layers)))]
    assert "relu_forward" not in ran and ["relu_forward"] in net.layer_calls()


# -------------------------------------------------------------------------------------------------------- the life
def test_reshaped_inputs_fuse_anew():
    plain, fused = make(fuse=False), make()
    for n in (4, 2, 7, 0, 4):
        for net in (plain, fused):
            net.blobs["data"].reshape(n, 1, 6, 6)
        same_out = [net.forward(data=images(n))["prob"].copy() for net in (plain, fused)]
        assert_alike(*same_out)
        assert fused.fused_layers() == [longest(fused)]


def test_shared_and_masked_weights_are_read_where_they_lie():
    plain, fused = (trainable(fuse=fuse) for fuse in (False, True))
    tests = [make(fuse=fuse) for fuse in (False, True)]
    for net, test in zip((plain, fused), tests, strict=True):
        test.forward(data=images())
        test.share_with(net)
        net.params["conv"][0].mask = np.arange(27).reshape(3, 1, 3, 3) % 2
        net.params["conv"][1].data[...] = 0.1
    out = [net.forward(data=images())["prob"].copy() for net in tests]
    assert_alike(*out)
    for net in (plain, fused):
        net.forward()
        net.backward()
    same(plain, fused, exact=ConvolutionReLUPooling not in fused.backend.patterns)
    assert not fused.params["conv"][0].diff[fused.params["conv"][0].mask == 0].any()


SOLVER = 'base_lr: 0.05 momentum: 0.9 lr_policy: "fixed" random_seed: 3 snapshot_prefix: "{}/s" net_param {{ {} }}'
NORMED = SMALL.replace('layer { name: "relu" type: "ReLU" bottom: "conv" top: "conv" }', "").replace(
    'layer { name: "pool"', norm("n", "conv", "conv") + scale("s", "conv", "conv") + relu("r", "conv", "conv") +
    'layer { name: "pool"'
)  # fmt: skip


def solver_of(folder, fuse=True, net=SMALL, real="float32"):
    text = SOLVER.format(folder, LABEL + net + LOSS)
    solver = get_solver(prototxt.parse_solver(text), backend=get_backend("cpu", real))
    solver.net.fuse = fuse
    solver.net.blobs["data"].data = images()
    solver.net.blobs["label"].data = [0, 1, 2, 3]
    return solver


@pytest.mark.parametrize("net", [SMALL, NORMED], ids=["relu", "norm, scale, relu"])
def test_resumed_training_goes_on_bit_for_bit(tmp_path, net):
    through, first, second = (solver_of(tmp_path, net=net) for _ in range(3))
    through.step(6)
    first.step(3)
    first.snapshot()
    second.restore(tmp_path / "s_iter_3.solverstate")
    second.step(3)
    assert through.net.fused_layers()
    same(through.net, second.net, exact=True)


@pytest.mark.parametrize("net", [SMALL, NORMED], ids=["relu", "norm, scale, relu"])
def test_training_is_the_same_to_rounding(tmp_path, net):
    plain, fused = (solver_of(tmp_path, fuse, net, "float64") for fuse in (False, True))
    for solver in (plain, fused):
        solver.net.params["conv"][0].mask = np.arange(27).reshape(3, 1, 3, 3) % 4
        solver.step(5)
    same(plain.net, fused.net)
    assert fused.net.fused_layers() and not plain.net.fused_layers()
    assert not fused.net.params["conv"][0].data[fused.net.params["conv"][0].mask == 0].any()


def test_times_of_layers_are_those_of_the_layers():
    plain, fused = pair(normed() + "force_backward: true")
    for net in (plain, fused):
        spread(1, net)
        assert list(measure(net, 1).forward) == ["data", "c", "n", "s", "r"]
        one_pass(1, net)
    assert fused.fused_layers() == [["c", "n", "s", "r"]]
    np.testing.assert_allclose(fused.blobs["c"].data, plain.blobs["c"].data, rtol=1e-10)
    np.testing.assert_allclose(fused.blobs["data"].diff, plain.blobs["data"].diff, rtol=1e-8, atol=1e-12)


def test_devices_with_memory_of_their_own():
    net = trainable(backend=SplitBackend())
    plain = trainable(fuse=False, backend=get_backend("cpu"))
    for each in (net, plain):
        each.forward()
        each.backward()
    same(plain, net)


def test_a_backend_brings_its_own_patterns():
    class Nothing(Pattern):
        types = ("Convolution", "ReLU", "Pooling")

        def fits(self):
            seen.append([layer.name for layer in self.layers])
            return False

    seen = []
    backend = get_backend("cpu")
    backend.patterns = (Nothing, *PORTABLE)
    try:
        net = make(backend=backend)
        assert net.fused_layers() == [["conv", "relu"]]
    finally:
        del backend.patterns
    assert seen == []  # its last layer does not work in place
    hidden = find_chains(net._wires, net.blobs, (Nothing, *PORTABLE), lambda name: True)
    assert seen == [["conv", "relu", "pool"]] and [chain.layers for chain in hidden] == [(1, 2)]


# ----------------------------------------------------------------------------------------------------- random nets
@st.composite
def nets(draw):
    """A chain of layers with random types, in place or not, on a small image.

    Nothing works in place behind a ReLU or Sigmoid, whose gradients read the output: Caffe's would be wrong there too.
    """
    shape = (draw(st.integers(1, 3)), draw(st.integers(1, 4)), draw(st.integers(3, 5)), draw(st.integers(3, 5)))
    text, last, before = entry(shape), "data", "data"
    for i in range(draw(st.integers(1, 6))):
        kind = draw(st.sampled_from(KINDS))
        name, can_stay = f"l{i}", kind != "conv" and before in ("conv", "norm", "scale")
        top = last if can_stay and draw(st.booleans()) else name
        text += BUILD[kind](name, last, top)
        last, before = top, kind
    if draw(st.booleans()):
        text += conv("left", last, "left") + conv("right", last, "right") + total("sum", ["left", "right"], "sum")
        last = "sum"
        text += draw(st.sampled_from(["", relu("sr", "sum", "sum"), norm("sn", "sum", "sum")]))
    return text + ip("out", last, "out") + draw(st.sampled_from(["", relu("end", "out", "out")]))


BUILD = {
    "conv": lambda name, bottom, top: conv(name, bottom, top),
    "relu": lambda name, bottom, top: relu(name, bottom, top),
    "leaky": lambda name, bottom, top: relu(name, bottom, top, 0.1),
    "sigmoid": lambda name, bottom, top: layer("Sigmoid", name, bottom, top),
    "norm": lambda name, bottom, top: norm(name, bottom, top),
    "scale": lambda name, bottom, top: scale(name, bottom, top),
    "block": lambda name, bottom, top: (
        norm(f"{name}n", bottom, top) + scale(f"{name}s", top, top) + relu(f"{name}r", top, top)
    ),
    "outer": lambda name, bottom, top: (
        norm(f"{name}n", bottom, top, GLOBAL) + scale(f"{name}s", top, top) + relu(f"{name}r", top, top)
    ),
}
KINDS = ["conv", "relu", "relu", "leaky", "sigmoid", "norm", "norm", "scale", "scale", "block", "block", "outer"]


@given(nets(), st.sampled_from([TRAIN, TEST]), st.integers(0, 5))
def test_random_nets(text, phase, seed):
    plain, fused = pair(text + "force_backward: true", phase)
    for net in (plain, fused):
        for step in range(2):
            one_pass(seed + step, net)
    same(plain, fused)


def test_a_chain_whose_top_is_written_over_is_left_to_its_layers():
    """ReLU's own backward pass reads the sign of what lies in its blob: fused and unfused must agree on it."""
    text = """
    layer { name: "in" type: "Input" top: "x" top: "t" input_param { shape { dim: 8 dim: 5 } shape { dim: 8 dim: 4 } } }
    layer { name: "ip" type: "InnerProduct" bottom: "x" top: "y"
            inner_product_param { num_output: 4 weight_filler { type: "xavier" } } }
    layer { name: "bn" type: "BatchNorm" bottom: "y" top: "y" }
    layer { name: "scale" type: "Scale" bottom: "y" top: "y" scale_param { bias_term: true } }
    layer { name: "relu" type: "ReLU" bottom: "y" top: "y" }
    layer { name: "shift" type: "Bias" bottom: "y" top: "y" bias_param { filler { value: -0.5 } } }
    layer { name: "loss" type: "EuclideanLoss" bottom: "y" bottom: "t" top: "loss" }
    """
    rng = np.random.default_rng(0)
    x, t = rng.standard_normal((8, 5)), rng.standard_normal((8, 4))
    gradients = []
    for fuse in (True, False):
        net = protocaffe.Net(prototxt.parse_net(text), TRAIN, seed=1, fuse=fuse)
        net.forward(x=x, t=t)
        net.clear_param_diffs()
        net.backward()
        gradients.append(net.params["scale"][1].diff.copy())
    np.testing.assert_allclose(gradients[0], gradients[1], rtol=1e-5)
