"""Layers, nets, rules, refusals and solvers against BVLC Caffe's own output.

Fillers, upgrades, data layers, files and learning rates have their goldens in the tests of their own modules.
"""

from __future__ import annotations

import json

import numpy as np
import pytest

from protocaffe import get_solver
from protocaffe.errors import FileFormatError, ProtocaffeError
from protocaffe.io import prototxt
from protocaffe.layer import layer_types
from tests.support import goldens
from tests.support.goldens import CASES, GOLDENS, close, close_params, group, of_kind, set_params

#: cases that need a layer type that is not there yet, HDF5 snapshots or LEVELDB
NOT_YET: list[str] = [
    "AbsVal_2d", "AbsVal_4d", "ArgMax_axis", "ArgMax_axis_top2_val", "ArgMax_default", "ArgMax_top2_maxval", "BNLL_4d",
    "BNLL_inplace", "BNLL_large", "BatchReindex_basic", "BatchReindex_subset", "Clip_4d", "Clip_inplace", "Clip_relu6",
    "ContrastiveLoss_basic", "ContrastiveLoss_far", "ContrastiveLoss_legacy", "Crop_default", "Crop_one_offset_all",
    "Crop_spatial", "Data_leveldb_uint8", "Deconvolution_3d", "Deconvolution_dilation",
    "Deconvolution_group_bilinear_like", "Deconvolution_k3s2", "Deconvolution_rect_nobias", "ELU_alpha_inplace",
    "ELU_default", "Embed_bias", "Embed_nobias", "EuclideanLoss_4d", "EuclideanLoss_weighted", "Exp_base2_scale_shift",
    "Exp_e", "Exp_shift_inplace", "Filter_one", "Filter_two", "HDF5Output_2d", "HDF5Output_4d", "HingeLoss_l1",
    "HingeLoss_l2", "Im2col_3d", "Im2col_k3", "Im2col_rect_dil", "ImageData_gray", "ImageData_plain",
    "ImageData_resize_crop", "InfogainLoss_file", "InfogainLoss_matrix_bottom", "InfogainLoss_spatial_ignore",
    "LRN_across", "LRN_across_k", "LRN_across_wide", "LRN_within", "LRN_within5", "LSTMUnit_allcont", "LSTMUnit_basic",
    "LSTM_basic", "LSTM_carry", "LSTM_expose", "LSTM_static", "Log_base10", "Log_base2", "Log_e", "Log_inplace",
    "MVN_across", "MVN_across_mean_only", "MVN_default", "MVN_mean_only", "MemoryData_a", "MemoryData_b",
    "MultinomialLogisticLoss_basic", "MultinomialLogisticLoss_weighted", "PReLU_2d_inplace", "PReLU_channel",
    "PReLU_shared", "Parameter_2d", "Parameter_4d", "Power_default", "Power_frac", "Power_linear",
    "Power_linear_inplace", "Power_neg", "Power_square", "Python_affine", "Python_learn", "Python_pyloss", "RNN_basic",
    "RNN_expose", "RNN_static", "Reduction_asum_axis1", "Reduction_loss", "Reduction_mean_neg", "Reduction_sum_all",
    "Reduction_sumsq_axis2", "Reshape_axis", "Reshape_insert", "Reshape_neg_axis", "Reshape_zeros_m1", "SPP_ave3",
    "SPP_max2", "SPP_one", "SigmoidCrossEntropyLoss_default", "SigmoidCrossEntropyLoss_full",
    "SigmoidCrossEntropyLoss_ignore_valid", "SigmoidCrossEntropyLoss_none_weight", "Swish_beta", "Swish_default",
    "Threshold_default", "Threshold_half", "Tile_axis0", "Tile_ch", "Tile_neg", "WindowData_pad_square",
    "WindowData_warp", "net_autoencoder", "net_implicit_split", "net_lrcn", "net_mini_alexnet", "net_mini_fcn",
    "net_rules", "net_rules_state_field", "net_several_losses", "net_siamese", "net_v0_net", "net_v1_net",
    "reject_dup_top", "reject_include_exclude", "reject_reshape_two_m1", "solver_adadelta_step_h5",
    "solver_adagrad_l1_h5", "solver_adam_inv_itersize_h5", "solver_sgd_multistep_h5",
]  # fmt: skip


def missing(case):
    """Whether a case needs what is not there yet."""
    text = case.get("solver", "") + case.get("prototxt", "")
    unknown = goldens.layer_types_of(case) - set(layer_types())
    return bool(unknown - {"Powerr"}) or "snapshot_format: HDF5" in text or "LEVELDB" in text


def params_of(*kinds):
    return [pytest.param(case, id=case["name"]) for case in of_kind(*kinds) if case["name"] not in NOT_YET]


@pytest.fixture
def at_home(case, monkeypatch):
    """Run in the case's directory: paths in prototxts are relative to it."""
    monkeypatch.chdir(GOLDENS / (case.get("dir") or "."))


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
    for name, wanted in group(values, "blob").items():
        close(net.blobs[name].data, wanted, goldens.LAYER, f"blob {name}")
    close(net.loss(), np.asarray(case["net_loss"]), goldens.LAYER, "loss")
    close_params(net, group(values, "param_after"), goldens.LAYER)
    if case["backward"]:
        net.clear_param_diffs()
        net.backward(**group(values, "top_diff"))
        for name, wanted in group(values, "diff").items():
            close(net.blobs[name].diff, wanted, goldens.LAYER, f"diff of {name}")
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
    if file.endswith(".h5"):
        with pytest.raises(FileFormatError, match="HDF5 are not read"):
            net.copy_from(file)
        return
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


HDF5 = [CASES[name] for name in NOT_YET if CASES[name]["kind"] == "solver"]


@pytest.mark.usefixtures("at_home")
@pytest.mark.parametrize("case", HDF5, ids=lambda case: case["name"])
def test_solver_whose_snapshots_are_hdf5(case):
    values, param = goldens.arrays(case), prototxt.read_solver("solver.prototxt")
    param.ClearField("snapshot_format")
    solver = get_solver(param)
    set_params(solver.net, group(values, "init"))
    check_steps(solver, values, 1, 10)
    solver.close()
