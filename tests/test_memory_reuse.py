"""Nets that reuse memory against nets that keep every blob: same outputs, less memory, no stale value to be read."""

from __future__ import annotations

import gc
import logging
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocaffe import TEST, TRAIN, Layer, Net, get_solver, register
from protocaffe.backends import get_backend
from protocaffe.errors import NetError
from protocaffe.io import prototxt
from protocaffe.reuse import Span, pack
from tests.support import goldens
from tests.support.backends import assert_alike
from tests.support.nets import LABEL, LOSS, PROB, SMALL, images, make
from tests.support.split_backend import SplitBackend
from tests.test_fusion import conv, entry, ip, layer, norm, pair, relu, scale, total
from tests.test_goldens import at_home, params_of  # noqa: F401

MODELS = Path(__file__).resolve().parent.parent / "models"
STALE = r'blob "{}" of net ".*" does not keep its data: .*Call net.keep\("{}"\)'


def both(text=SMALL + PROB, **kwargs):
    """A net that keeps its blobs, and one that does not, whose memory is NaN before each pass."""
    keeps, reuses = make(text, **kwargs), make(text, reuse_memory=True, **kwargs)
    return keeps, reuses


def spoil(net):
    """Make whatever lies in the pool NaN, so that a value read before it is written shows."""
    net._forward()
    pool = net._reuse._pool
    if pool is not None:
        pool.host()[...] = np.nan


def refuses(net, name):
    with pytest.raises(NetError, match=STALE.format(name, name)):
        _ = net.blobs[name].data


# ------------------------------------------------------------------------------------------------------------ packing
@given(
    st.lists(st.tuples(st.integers(0, 9), st.integers(0, 6), st.integers(0, 4)), max_size=12), st.sampled_from([1, 4])
)
def test_packed_spans_never_meet(parts, step):
    spans = [Span(count, first, first + length) for count, first, length in parts]
    offsets, total_count = pack(spans, step)
    for i, (a, at) in enumerate(zip(spans, offsets, strict=True)):
        assert at % step == 0 and at + a.count <= total_count
        for b, other in zip(spans[:i], offsets[:i], strict=True):
            apart = a.last < b.first or b.last < a.first
            assert apart or at + a.count <= other or other + b.count <= at
    busiest = max((sum(s.count for s in spans if s.first <= t <= s.last) for t in range(12)), default=0)
    assert total_count >= busiest


def test_a_chain_needs_two_places():
    offsets, total_count = pack([Span(8, i, i + 1) for i in range(20)])
    assert total_count == 16 and set(offsets) == {0, 8}


# ---------------------------------------------------------------------------------------------------- what can be read
def test_outputs_are_those_of_a_net_that_keeps_all():
    keeps, reuses = both()
    for seed in (1, 2):
        spoil(reuses)
        got = reuses.forward(data=images(seed=seed))["prob"]
        assert_alike(got, keeps.forward(data=images(seed=seed))["prob"])
    assert_alike(reuses.blobs["data"].data, images(seed=2))


def test_what_is_not_kept_cannot_be_read_or_written():
    _, net = both()
    net.forward(data=images())
    for name in ("conv", "pool", "ip"):
        refuses(net, name)
        with pytest.raises(NetError, match=STALE.format(name, name)):
            net.blobs[name].data = 0
    assert net.blobs["conv"].shape == (4, 3, 4, 4)


def test_blobs_can_be_kept():
    keeps, net = both()
    net.forward(data=images())
    refuses(net, "conv")
    net.keep("conv", "prob")
    refuses(net, "conv")  # the pass that is over did not keep it
    net.forward()
    keeps.forward(data=images())
    assert_alike(net.blobs["conv"].data, keeps.blobs["conv"].data)
    refuses(net, "pool")
    with pytest.raises(NetError, match='no blob "convv" in net "small"; did you mean "conv"'):
        net.keep("convv")


def test_blobs_that_forward_is_asked_for_are_kept():
    keeps, net = both()
    out = net.forward(blobs=["pool", "ip"], data=images())
    want = keeps.forward(blobs=["pool", "ip"], data=images())
    for name, values in want.items():
        assert_alike(out[name], values, err_msg=name)
    assert_alike(net.blobs["pool"].data, want["pool"])
    assert_alike(net.forward_all(["ip"], data=images(8))["ip"], keeps.forward_all(["ip"], data=images(8))["ip"])


def test_a_view_taken_before_the_first_pass_stays_good():
    keeps, net = both()
    view = net.blobs["pool"].data
    net.forward(data=images())
    keeps.forward(data=images())
    assert np.shares_memory(view, net.blobs["pool"].data)  # which on a GPU brings the view up to date
    assert_alike(view, keeps.blobs["pool"].data)
    refuses(net, "conv")


def test_views_of_kept_blobs_outlive_the_net():
    _, net = both()
    view = net.forward(blobs=["pool"], data=images())["pool"]
    copy = view.copy()
    del net
    gc.collect()
    assert_alike(view, copy)


def test_parts_of_a_pass():
    keeps, net = both()
    net.forward(data=images())
    keeps.forward(data=images())
    assert_alike(net.forward(end="pool")["pool"], keeps.blobs["pool"].data)
    assert_alike(net.forward(start="ip")["prob"], keeps.blobs["prob"].data)  # pool is kept by now
    with pytest.raises(NetError, match=STALE.format("conv", "conv")):
        net.forward(start="pool")
    assert_alike(net.forward(start="conv")["prob"], keeps.blobs["prob"].data)


def test_hooks_read_what_is_there():
    net, keeps = both(SMALL + PROB)[::-1]
    seen: dict[str, np.ndarray] = {}
    refused = []

    def look(when, name):
        for blob in ("conv", "pool", "ip"):
            try:
                seen[f"{when} {name} {blob}"] = net.blobs[blob].data.copy()
            except NetError:
                refused.append(f"{when} {name} {blob}")

    net.before_forward(lambda name: look("before", name))
    net.after_forward(lambda name: look("after", name))
    spoil(net)
    net.forward(data=images())
    for name, blob in (("conv", "conv"), ("relu", "conv"), ("pool", "pool"), ("ip", "ip")):
        assert f"after {name} {blob}" in seen
    assert "before pool conv" in seen and "after pool conv" in seen and "before prob ip" in seen
    assert {"before conv conv", "after ip conv", "after prob pool", "before pool pool"} <= set(refused)
    keeps.forward(data=images())
    assert_alike(seen["after ip pool"], keeps.blobs["pool"].data)
    assert_alike(seen["before ip conv"], keeps.blobs["conv"].data)  # no layer has taken its place yet
    assert not any(np.isnan(values).any() for values in seen.values())
    refuses(net, "conv")


def test_a_hook_that_fails_leaves_the_guard():
    _, net = both()
    net.before_forward(lambda name: 1 / 0, "ip")
    with pytest.raises(ZeroDivisionError):
        net.forward(data=images())
    refuses(net, "pool")


def test_the_debug_log_works(caplog):
    lines = []
    for reuse in (False, True):
        caplog.clear()
        with caplog.at_level(logging.INFO, "protocaffe.net"):
            make(SMALL + PROB + "debug_info: true", reuse_memory=reuse).forward(data=images())
        lines.append([r.getMessage() for r in caplog.records if "[Forward]" in r.getMessage()])
    assert lines[0] == lines[1] and len(lines[0]) > 5


@register("HostDouble")
class HostDouble(Layer):
    """A layer in Python that reads blobs as its users do."""

    exact_bottoms = exact_tops = 1

    def reshape(self, bottom, top):
        top[0].reshape(bottom[0].shape)

    def forward(self, bottom, top):
        def double():
            top[0].data[...] = 2 * bottom[0].data

        self.ops.host(double, bottom, top)


@pytest.mark.parametrize("hook", [False, True])
def test_layers_in_python_read_their_blobs(hook):
    text = entry((2, 3)) + ip("a", "data", "a") + layer("HostDouble", "b", "a", "b") + ip("c", "b", "c")
    keeps, net = both(text)
    if hook:
        net.after_forward(lambda name: None)
    x = np.ones((2, 3))
    assert_alike(net.forward(data=x)["c"], keeps.forward(data=x)["c"])
    refuses(net, "b")


# --------------------------------------------------------------------------------------------------------- refusals
def test_no_backward_pass():
    net = make(SMALL + PROB + "force_backward: true", reuse_memory=True)
    net.forward(data=images())
    with pytest.raises(NetError, match='net "small" was made with reuse_memory=True and does not keep what a backward'):
        net.backward()


def test_not_for_training():
    with pytest.raises(NetError, match="reuse_memory is for nets of the TEST phase"):
        make(SMALL, TRAIN, reuse_memory=True)


# ------------------------------------------------------------------------------------------------------ the net's life
def test_inputs_can_change_their_shape():
    keeps, net = both()
    outputs = {}
    for n in (4, 2, 9, 0, 4):
        for each in (keeps, net):
            each.blobs["data"].reshape(n, 1, 6, 6)
        spoil(net)
        outputs[n] = net.forward(data=images(n))["prob"]
        assert_alike(outputs[n], keeps.forward(data=images(n))["prob"])
        refuses(net, "pool")


def test_a_blob_made_larger_by_hand_does_not_run_into_others():
    keeps, net = both()
    net.forward(data=images())
    net.blobs["pool"].reshape(100, 3, 2, 2)
    assert_alike(net.forward(data=images())["prob"], keeps.forward(data=images())["prob"])


def test_shared_weights():
    trained = make(LABEL + SMALL + LOSS, TRAIN, seed=11)
    keeps, net = both()
    for each in (keeps, net):
        each.forward(data=images())
        each.share_with(trained)
    trained.params["conv"][0].data[...] *= 2
    trained.params["ip"][0].mask = np.arange(60).reshape(5, 12) % 2
    assert_alike(net.forward(data=images())["prob"], keeps.forward(data=images())["prob"])


def test_losses_are_kept_wherever_they_go():
    text = LABEL + SMALL + LOSS + 'layer { name: "quiet" type: "Silence" bottom: "loss" }'
    keeps, net = both(text)
    for each in (keeps, net):
        each.forward(data=images(), label=[0, 1, 2, 3])
    assert net.loss() == keeps.loss() > 0


def test_split_memory():
    keeps, net = make(backend=get_backend("cpu")), make(reuse_memory=True, backend=SplitBackend())
    for seed in (1, 2):
        assert_alike(net.forward(data=images(seed=seed))["prob"], keeps.forward(data=images(seed=seed))["prob"])
    out = net.forward(blobs=["pool"])["pool"]
    assert_alike(out, keeps.blobs["pool"].data)


def test_solvers_test_nets_may_reuse_memory(tmp_path):
    net = LABEL + SMALL + LOSS
    text = f'base_lr: 0.1 lr_policy: "fixed" random_seed: 3 test_iter: 2 test_interval: 2 net_param {{ {net} }}'
    scores = []
    for reuse in (False, True):
        solver = get_solver(prototxt.parse_solver(text + f' snapshot_prefix: "{tmp_path}/s"'), reuse_memory=reuse)
        for each in (solver.net, *solver.test_nets):
            each.blobs["data"].data = images()
            each.blobs["label"].data = [0, 1, 2, 3]
        solver.step(5)
        scores.append(solver.test_scores[0]["loss"])
        assert solver.test_nets[0].reuse_memory == reuse and not solver.net.reuse_memory
        assert solver.net.blobs["conv"].data.any()
        if reuse:
            refuses(solver.test_nets[0], "ip")
        else:
            assert solver.test_nets[0].blobs["ip"].data.any()
    assert_alike(*scores)


# ------------------------------------------------------------------------------------------------------ fused chains
APART = entry((2, 3, 6, 6)) + conv("c", "data", "c") + norm("n", "c", "n") + scale("s", "n", "s") + relu("r", "s", "r")
APART += conv("d", "r", "d") + relu("e", "d", "e") + layer("Pooling", "p", "e", "p", "pooling_param { kernel_size: 2 }")


def test_chains_need_not_work_in_place_where_nobody_can_look():
    keeps, net = make(APART), make(APART, reuse_memory=True)
    assert keeps.fused_layers() == [] and net.fused_layers() == [["c", "n", "s", "r"], ["d", "e"]]
    x = np.random.default_rng(0).normal(size=(2, 3, 6, 6))
    for each in (keeps, net):
        each.params["n"][1].data[...] = each.params["n"][2].data[...] = 1
    spoil(net)
    want = keeps.forward(data=x)["p"]
    np.testing.assert_allclose(net.forward(data=x)["p"], want, rtol=1e-5, atol=1e-6)
    for blob in ("n", "s", "d"):
        out = net.forward(blobs=[blob])[blob]  # a chain that runs through a blob that is asked for is not fused
        np.testing.assert_allclose(out, keeps.blobs[blob].data, rtol=1e-5, atol=1e-6, err_msg=blob)
    assert net.fused_layers() == []


def test_hooks_see_the_blobs_that_chains_leave_out():
    net = make(APART, reuse_memory=True)
    seen = {}
    for name in ("n", "s", "r", "d", "e"):
        net.after_forward(lambda name: seen.update({name: net.blobs[name].data.copy()}), name)
    spoil(net)
    keeps = make(APART)
    for each in (keeps, net):
        each.forward(data=np.ones((2, 3, 6, 6)))
    for name, values in seen.items():
        assert_alike(values, keeps.blobs[name].data, err_msg=name)


# --------------------------------------------------------------------------------------------------------- the memory
def used(text, **kwargs):
    net = make(text, reuse_memory=kwargs.pop("reuse_memory", True), **kwargs)
    net.forward()
    return net.memory_used()["data"]


def test_memory_of_a_long_net_does_not_grow_with_it():
    def deep(layers):
        text, last = entry((4, 6, 16, 16)), "data"
        for i in range(layers):
            text += conv(f"c{i}", last, f"c{i}") + relu(f"r{i}", f"c{i}", f"r{i}")
            last = f"r{i}"
        return text

    blob = 4 * 4 * 6 * 16 * 16
    assert used(deep(12)) == used(deep(4)) == 4 * blob  # input, output and two that take turns
    assert used(deep(12), reuse_memory=False) == 25 * blob


def test_splits_and_flattened_blobs_are_one_buffer():
    text = entry((4, 6, 4, 4)) + conv("c", "data", "c") + layer("Flatten", "f", "c", "f")
    text += ip("a", "f", "a") + ip("b", "f", "b") + total("t", ["a", "b"], "t")
    keeps, net = both(text)
    x = np.random.default_rng(0).normal(size=(4, 6, 4, 4))
    assert_alike(net.forward(data=x)["t"], keeps.forward(data=x)["t"])
    slots = {name: blob.values.data for name, blob in net.blobs.items()}
    assert slots["c"] is slots["f"] is slots["f_f_0_split_0"]
    for name in ("c", "f", "f_f_0_split_1"):
        refuses(net, name)
    net.keep("f_f_0_split_1")  # and with it all that share its data
    net.forward()
    assert_alike(net.blobs["c"].data, keeps.blobs["c"].data)


def test_the_log_says_what_caffe_says(caplog):
    with caplog.at_level(logging.INFO, "protocaffe.net"):
        net = make(reuse_memory=True)
        counts = 4 * (36 + 48 + 48 + 12 + 5 + 5)
        assert f"Memory required for data: {4 * counts}" in caplog.text
        net.forward()
    assert (
        "Memory for the data of 3 blobs that are not kept: 960 bytes, shared; 1040 if each had its own" in caplog.text
    )


@pytest.mark.parametrize(("name", "share"), [("lenet", 0.78), ("resnet18_fashion_mnist", 0.31)])
def test_models_need_less(name, share):
    text = prototxt.read_net(MODELS / name / "deploy.prototxt")
    text.layer[0].input_param.shape[0].dim[0] = 2
    outputs, used_by = [], []
    for reuse in (False, True):
        net = Net(text, TEST, seed=1, reuse_memory=reuse)
        for each in net.layers:
            if each.type == "BatchNorm":
                each.blobs[1].data[...] = each.blobs[2].data[...] = 1
        net.blobs["data"].data = np.random.default_rng(0).random(net.blobs["data"].shape)
        outputs.append(net.forward()[net.outputs[0]])
        used_by.append(net.memory_used())
    np.testing.assert_allclose(*outputs, rtol=1e-5)
    keeps, reuses = used_by
    assert 0 < reuses["data"] <= share * keeps["data"] and reuses["buffers"] < keeps["buffers"]
    assert reuses["parameters"] == keeps["parameters"]


# ------------------------------------------------------------------------------------------------------- random nets
def drop(name, bottom, top):
    return layer("Dropout", name, bottom, top)


@st.composite
def graphs(draw):
    """A random graph: each layer reads one or two earlier blobs, one several times read gets a split."""
    text, blobs = entry((2, 6, 4, 4)), ["data"]
    for i in range(draw(st.integers(1, 9))):
        name, bottom = f"l{i}", draw(st.sampled_from(blobs[-3:]))
        kind = draw(st.sampled_from(["conv", "norm", "scale", "relu", "sum", "inplace", "drop"]))
        if kind == "inplace" and bottom == blobs[-1] != "data" and f'bottom: "{bottom}"' not in text:
            text += relu(name, bottom, bottom)
            continue
        build = {"conv": conv, "norm": norm, "scale": scale, "sum": total, "drop": drop}.get(kind, relu)
        text += build(name, [bottom, blobs[-1]] if kind == "sum" else bottom, name)
        blobs.append(name)
    return text, draw(st.lists(st.sampled_from(blobs), max_size=2))


@given(graphs(), st.booleans())
def test_random_graphs(graph, hooked):
    text, asked = graph
    keeps, reuses = pair(text, TEST)[0], pair(text, TEST, reuse_memory=True)[1]
    if hooked:
        reuses.before_forward(lambda name: None)
    for seed in (1, 2):
        x = np.random.default_rng(seed).normal(size=(2, 6, 4, 4))
        spoil(reuses)
        want, got = keeps.forward(asked, data=x), reuses.forward(asked, data=x)
        for name, values in want.items():
            np.testing.assert_allclose(got[name], values, rtol=1e-9, atol=1e-9, err_msg=name)
        for name in reuses.blobs:
            try:
                values = reuses.blobs[name].data
            except NetError:
                continue
            np.testing.assert_allclose(values, keeps.blobs[name].data, rtol=1e-9, atol=1e-9, err_msg=name)


@register("HostRows")
class HostRows(Layer):
    """A layer whose top has as many rows as the sum of its bottom says: another shape in the middle of a pass."""

    exact_bottoms = exact_tops = 1
    dynamic_tops = True

    def reshape(self, bottom, top):
        if not top[0].num_axes:
            top[0].reshape(1, *bottom[0].shape[1:])

    def forward(self, bottom, top):
        def rows():
            count = int(abs(bottom[0].data).sum() * 10) % 7 + 1
            top[0].reshape(count, *bottom[0].shape[1:])
            top[0].data[...] = np.resize(bottom[0].data, top[0].shape)

        self.ops.host(rows, bottom, top)


@pytest.mark.parametrize("hooked", [False, True])
def test_shapes_that_change_in_the_middle_of_a_pass(hooked):
    text = (
        entry((3, 2, 5, 6)) + conv("a", "data", "a") + norm("n", "a", "a") + scale("s", "a", "a") + relu("r", "a", "a")
    )
    text += conv("b", "a", "b") + layer("HostRows", "rows", "b", "rows") + conv("c", "rows", "c") + relu("q", "c", "c")
    text += conv("d", "c", "d") + ip("e", "d", "e") + layer("Sigmoid", "f", "a", "f")
    keeps, net = pair(text, TEST)[0], pair(text, TEST, reuse_memory=True)[1]
    if hooked:
        net.before_forward(lambda name: None)
    shapes = set()
    for seed in range(6):
        x = np.random.default_rng(seed).normal(size=(3, 2, 5, 6))
        want, got = keeps.forward(data=x), net.forward(data=x)
        shapes.add(want["e"].shape)
        for name in want:
            np.testing.assert_allclose(got[name], want[name], rtol=1e-9, atol=1e-9, err_msg=name)
    assert len(shapes) > 2


# ------------------------------------------------------------------------------------------------------ the real Caffe
@pytest.mark.usefixtures("at_home")
@pytest.mark.parametrize("case", params_of("layer"))
def test_layers_write_every_value_of_their_tops(case):
    """Memory that another blob had is not 0: no layer may count on that."""
    values, net = goldens.arrays(case), goldens.build(case)
    for wire in net._wires:
        for name in wire.tops if wire.bottoms else ():
            net.blobs[name].data[...] = np.nan
    for name in case["inputs"]:
        net.blobs[name].data[...] = values[f"bottom/{name}"]
    goldens.set_params(net, goldens.group(values, "param"))
    net.forward()
    for name, wanted in goldens.group(values, "top").items():
        goldens.close(net.blobs[name].data, wanted, goldens.LAYER, f"top {name}")


@pytest.mark.usefixtures("at_home")
@pytest.mark.parametrize("case", [p for p in params_of("net") if p.values[0]["phase"] == "TEST"])
def test_nets_of_caffe(case):
    values, net = goldens.arrays(case), goldens.build(case, reuse_memory=True)
    goldens.set_params(net, goldens.group(values, "param"))
    spoil(net)
    net.forward(**{name: values[f"input/{name}"] for name in case["set_inputs"]})
    read = 0
    for name, wanted in goldens.group(values, "blob").items():
        if name in net.outputs or name in net.inputs:
            goldens.close(net.blobs[name].data, wanted, goldens.LAYER, f"blob {name}")
            read += 1
    assert read
