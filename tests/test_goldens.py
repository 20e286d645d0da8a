"""Layers, nets, rules, refusals and solvers against BVLC Caffe's own output.

Fillers, upgrades, data layers, files and learning rates have their goldens in the tests of their own modules.
"""

from __future__ import annotations

import json

import numpy as np
import pytest

from protocaffe import get_solver
from protocaffe.errors import ProtocaffeError
from protocaffe.layer import layer_types
from tests.support import goldens
from tests.support.goldens import GOLDENS, close, close_params, group, of_kind, set_params

#: cases that need a layer type that is not there yet
NOT_YET: list[str] = [
    "BNLL_4d", "BNLL_inplace", "BNLL_large", "BatchReindex_basic", "BatchReindex_subset", "Clip_4d", "Clip_inplace",
    "Clip_relu6", "ContrastiveLoss_basic", "ContrastiveLoss_far", "ContrastiveLoss_legacy", "Embed_bias",
    "Embed_nobias", "Exp_base2_scale_shift", "Exp_e", "Exp_shift_inplace", "Filter_one", "Filter_two", "HDF5Output_2d",
    "HDF5Output_4d", "Im2col_3d", "Im2col_k3", "Im2col_rect_dil", "ImageData_gray", "ImageData_plain",
    "ImageData_resize_crop", "InfogainLoss_file", "InfogainLoss_matrix_bottom", "InfogainLoss_spatial_ignore",
    "LSTMUnit_allcont", "LSTMUnit_basic", "LSTM_basic", "LSTM_carry", "LSTM_expose", "LSTM_static", "Log_base10",
    "Log_base2", "Log_e", "Log_inplace", "MVN_across", "MVN_across_mean_only", "MVN_default", "MVN_mean_only",
    "MultinomialLogisticLoss_basic", "MultinomialLogisticLoss_weighted", "RNN_basic", "RNN_expose", "RNN_static",
    "SPP_ave3", "SPP_max2", "SPP_one", "Swish_beta", "Swish_default", "Threshold_default", "Threshold_half",
    "WindowData_pad_square", "WindowData_warp", "net_lrcn", "net_several_losses", "net_siamese",
]  # fmt: skip


def missing(case):
    """Whether a case needs what is not there yet."""
    unknown = goldens.layer_types_of(case) - set(layer_types())
    return bool(unknown - {"Powerr"})


def params_of(*kinds):
    return [pytest.param(case, id=case["name"]) for case in of_kind(*kinds) if case["name"] not in NOT_YET]


@pytest.fixture
def at_home(case, monkeypatch):
    """Run in the case's directory: paths in prototxts are relative to it."""
    monkeypatch.chdir(GOLDENS / (case.get("dir") or "."))
    monkeypatch.syspath_prepend(GOLDENS / "python")


def test_not_yet_is_exact():
    kinds = ("layer", "net", "rules", "reject", "solver", "data")
    assert sorted(case["name"] for case in of_kind(*kinds) if missing(case)) == NOT_YET


def tolerance_of(case, backward=False):
    if case["layer_type"] == "ContrastiveLoss" and backward:
        return goldens.CONTRASTIVE
    return goldens.EXACT if case["layer_type"] in goldens.EXACT_TYPES and not backward else goldens.LAYER


@pytest.mark.usefixtures("at_home")
@pytest.mark.parametrize("case", params_of("layer"))
def test_layer(case):
    values, net = goldens.arrays(case), goldens.build(case)
    for name in case["inputs"]:
        net.blobs[name].data[...] = values[f"bottom/{name}"]
    set_params(net, group(values, "param"))
    net.forward()
    for name, wanted in group(values, "top").items():
        exact = goldens.EXACT if name == "mask" else tolerance_of(case)
        close(net.blobs[name].data, wanted, exact, f"top {name}")
    close_params(net, group(values, "param_after"), goldens.LAYER)
    if not case["backward"]:
        return
    net.clear_param_diffs()
    junk = case["bottom_diffs"] if case["layer_type"] == "Silence" else ()
    for name in junk:
        net.blobs[name].diff[...] = 7
    net.backward(**group(values, "top_diff"))
    for name in case["bottom_diffs"]:
        close(net.blobs[name].diff, values[f"bottom_diff/{name}"], tolerance_of(case, True), f"diff of {name}")
    close_params(net, group(values, "param_diff"), tolerance_of(case, True), diff=True)
    for name, wanted in group(values, "top2").items():
        net.forward()
        close(net.blobs[name].data, wanted, goldens.LAYER, f"top {name} of a second forward")


def plain(names):
    """Names, with those of tops that the prototxt does not name made alike."""
    return ["(automatic)" if name.startswith("(automatic") else name for name in names]


def assert_structure(net, expect):
    """Names, types, connections and shapes are those of Caffe's net."""
    names = [layer.name for layer in net.layers]
    assert names == expect["layer_names"]
    assert [layer.type for layer in net.layers] == expect["layer_types"]
    assert plain(net.blobs) == plain(expect["blob_names"])
    assert dict(net.bottom_names) == expect["bottoms"]
    assert {layer: plain(tops) for layer, tops in net.top_names.items()} == {
        layer: plain(tops) for layer, tops in expect["tops"].items()
    }
    assert net.inputs == expect["inputs"]
    assert sorted(plain(net.outputs)) == sorted(plain(expect["outputs"]))
    shapes = dict(zip(plain(net.blobs), (list(blob.shape) for blob in net.blobs.values()), strict=True))
    assert shapes == dict(zip(plain(expect["blob_shapes"]), expect["blob_shapes"].values(), strict=True))
    assert {n: [list(b.shape) for b in bs] for n, bs in net.params.items()} == expect["param_shapes"]


@pytest.mark.usefixtures("at_home")
@pytest.mark.parametrize("case", params_of("net"))
def test_net(case):
    values, net = goldens.arrays(case), goldens.build(case)
    assert_structure(net, case)
    set_params(net, group(values, "param"))
    net.forward(**{name: values[f"input/{name}"] for name in case["set_inputs"]})
    blobs = dict(zip(plain(net.blobs), net.blobs.values(), strict=True))
    for name, wanted in group(values, "blob").items():
        close(blobs[name].data, wanted, goldens.LAYER, f"blob {name}")
    close(net.loss(), np.asarray(case["net_loss"]), goldens.LAYER, "loss")
    close_params(net, group(values, "param_after"), goldens.LAYER)
    if case["backward"]:
        net.clear_param_diffs()
        net.backward(**group(values, "top_diff"))
        for name, wanted in group(values, "diff").items():
            close(blobs[name].diff, wanted, goldens.LAYER, f"diff of {name}")
        close_params(net, group(values, "param_diff"), goldens.LAYER, diff=True)
    for name, wanted in group(values, "reshaped_input").items():
        net.blobs[name].reshape(wanted.shape)
        net.blobs[name].data[...] = wanted
    for k, (name, wanted) in enumerate(group(values, "reshaped_blob").items()):
        if k == 0:
            net.forward()
        close(net.blobs[name].data, wanted, goldens.LAYER, f"blob {name} after reshaping")


WEIGHTS = [(case.values[0], name) for case in params_of("net") for name in case.values[0].get("weights", ())]


@pytest.mark.usefixtures("at_home")
@pytest.mark.parametrize(("case", "file"), WEIGHTS, ids=[f"{c['name']}-{f}" for c, f in WEIGHTS])
def test_weights_of_a_net(case, file):
    net = goldens.build(case)
    net.copy_from(file)
    close_params(net, group(goldens.arrays(case), "param"), goldens.EXACT)


RULES = [(case, i) for case in of_kind("rules") for i in range(len(case["expect"]))]


@pytest.mark.parametrize(("case", "index"), RULES, ids=[f"{case['name']}-{i}" for case, i in RULES])
def test_rules(case, index):
    if case["name"] in NOT_YET:  # Power has the shapes of TanH
        case = json.loads(json.dumps(case).replace("Power", "TanH"))
    expect = case["expect"][index]
    net = goldens.build(case, expect["phase"], level=expect["level"], stages=expect["stages"])
    assert_structure(net, expect)


@pytest.mark.parametrize("case", params_of("reject"))
def test_reject(case):
    with pytest.raises(ProtocaffeError, match=r'layer "\w+"'):
        goldens.build(case)


# ------------------------------------------------------------------------------------------------------------- solvers
def loss_of(solver):
    return solver.net.blobs["loss"].data.copy()


def check_steps(solver, values, first, last):
    for k in range(first, last + 1):
        solver.step(1)
        close(loss_of(solver), values[f"loss/{k}"], goldens.SOLVER, f"loss of step {k}")
        close_params(solver.net, group(values, f"iter{k}"), goldens.SOLVER)


@pytest.mark.usefixtures("at_home")
@pytest.mark.parametrize("case", params_of("solver"))
def test_solver(case):
    values = goldens.arrays(case)
    solver = get_solver("solver.prototxt")
    set_params(solver.net, group(values, "init"))
    check_steps(solver, values, 1, 10)
    scores = group(values, "test_after_10")
    for k in range(3 if scores else 0):
        solver.test_nets[0].forward()
        for name, wanted in scores.items():
            close(solver.test_nets[0].blobs[name].data, wanted[k], goldens.SOLVER, f"test {k} after step 10: {name}")
    solver.close()


@pytest.mark.usefixtures("at_home")
@pytest.mark.parametrize("case", params_of("solver"))
def test_solver_resumes_from_caffes_state(case):
    values = goldens.arrays(case)
    solver = get_solver("solver.prototxt")
    solver.restore(case["state5"])
    assert solver.iter == 5
    close_params(solver.net, group(values, "iter5"), goldens.EXACT)
    check_steps(solver, values, 6, 10)
    solver.close()
