"""Old forms become today's, as in Caffe."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from protocaffe.errors import NetError
from protocaffe.io import schema, wire
from protocaffe.io.prototxt import parse_message, parse_net, parse_solver
from protocaffe.passes import upgrade_net, upgrade_solver
from protocaffe.passes.legacy import V0_TYPES, V1_TYPES

GOLDENS = Path(__file__).resolve().parents[1] / "goldens"
UPGRADES = [c for c in json.loads((GOLDENS / "cases.json").read_text())["cases"] if c["kind"] == "upgrade"]


@pytest.mark.parametrize("case", UPGRADES, ids=lambda c: c["name"])
def test_goldens(case):
    if "solver" in case:
        old = parse_message(case["solver"], "SolverParameter")
        before = old.SerializeToString()
        assert upgrade_solver(old) == parse_message(case["upgraded_solver"], "SolverParameter")
    else:
        old = parse_message(case["prototxt"], "NetParameter")
        before = old.SerializeToString()
        new = upgrade_net(old)
        assert new == parse_message(case["upgraded_prototxt"], "NetParameter")
        assert upgrade_net(new) == new
    assert old.SerializeToString() == before, "the argument has changed"


def test_every_old_type_has_a_new_one():
    assert set(V1_TYPES) == set(schema.V1LayerParameter.LayerType.keys())
    assert set(V0_TYPES.values()) <= set(V1_TYPES)


V0 = """
name: "v0" input: "data" input_dim: 1 input_dim: 3 input_dim: 8 input_dim: 8
layers { layer { name: "pad" type: "padding" pad: 2 } bottom: "data" top: "pad" }
layers {
  layer {
    name: "conv" type: "conv" num_output: 4 kernelsize: 5 stride: 2 group: 1 biasterm: false
    weight_filler { type: "gaussian" std: 0.01 } blobs_lr: 1 blobs_lr: 2 weight_decay: 1 weight_decay: 0
  }
  bottom: "pad" top: "conv"
}
layers { layer { name: "pool" type: "pool" pool: AVE kernelsize: 3 stride: 2 } bottom: "conv" top: "pool" }
layers { layer { name: "norm" type: "lrn" local_size: 3 alpha: 0.1 beta: 0.5 k: 2 } bottom: "pool" top: "norm" }
layers { layer { name: "drop" type: "dropout" dropout_ratio: 0.3 } bottom: "norm" top: "norm" }
layers { layer { name: "cat" type: "concat" concat_dim: 2 } bottom: "norm" bottom: "conv" top: "cat" }
layers { layer { name: "ip" type: "innerproduct" num_output: 2 biasterm: true } bottom: "cat" top: "ip" }
layers { layer { name: "d" type: "images" source: "l" batchsize: 2 scale: 0.5 meanfile: "m" cropsize: 3 mirror: true
  shuffle_images: true new_height: 5 new_width: 6 rand_skip: 7 } top: "i" top: "l" }
layers { layer { name: "w" type: "window_data" source: "w" batchsize: 3 det_fg_threshold: 0.6 det_bg_threshold: 0.4
  det_fg_fraction: 0.2 det_context_pad: 1 det_crop_mode: "square" } top: "w" }
layers { layer { name: "o" type: "hdf5_output" hdf5_output_param { file_name: "f" } } bottom: "w" }
"""

V0_UPGRADED = """
name: "v0"
layer { name: "input" type: "Input" top: "data" input_param { shape { dim: [1, 3, 8, 8] } } }
layer { name: "conv" type: "Convolution" bottom: "data" top: "conv" param { lr_mult: 1 decay_mult: 1 }
  param { lr_mult: 2 decay_mult: 0 } convolution_param { num_output: 4 bias_term: false pad: 2 kernel_size: 5 group: 1
  stride: 2 weight_filler { type: "gaussian" std: 0.01 } } }
layer { name: "pool" type: "Pooling" bottom: "conv" top: "pool" pooling_param { pool: AVE kernel_size: 3 stride: 2 } }
layer { name: "norm" type: "LRN" bottom: "pool" top: "norm" lrn_param { local_size: 3 alpha: 0.1 beta: 0.5 k: 2 } }
layer { name: "drop" type: "Dropout" bottom: "norm" top: "norm" dropout_param { dropout_ratio: 0.3 } }
layer { name: "cat" type: "Concat" bottom: "norm" bottom: "conv" top: "cat" concat_param { concat_dim: 2 } }
layer { name: "ip" type: "InnerProduct" bottom: "cat" top: "ip" inner_product_param { num_output: 2 bias_term: true } }
layer { name: "d" type: "ImageData" top: "i" top: "l"
  transform_param { scale: 0.5 mirror: true crop_size: 3 mean_file: "m" }
  image_data_param { source: "l" batch_size: 2 rand_skip: 7 shuffle: true new_height: 5 new_width: 6 } }
layer { name: "w" type: "WindowData" top: "w" window_data_param { source: "w" batch_size: 3 fg_threshold: 0.6
  bg_threshold: 0.4 fg_fraction: 0.2 context_pad: 1 crop_mode: "square" } }
layer { name: "o" type: "HDF5Output" bottom: "w" hdf5_output_param { file_name: "f" } }
"""


def test_v0_field_by_field():
    assert parse_net(V0) == parse_message(V0_UPGRADED, "NetParameter")


def test_v1_fields_that_stay():
    net = parse_net(
        'layers { name: "c" type: CONVOLUTION bottom: "x" top: "y" loss_weight: 2 exclude { phase: TEST }'
        " blobs { data: 1 } blobs_lr: 1 convolution_param { kernel_size: 3 } }"
    )
    layer = net.layer[0]
    assert layer.blobs[0].data[0] == 1 and layer.loss_weight[0] == 2 and layer.exclude[0].phase == 1
    assert layer.param[0].lr_mult == 1 and layer.convolution_param.kernel_size == [3]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('layer { name: "a" } layers { name: "b" }', '"layer".*"layers"'),
        ('layers { layer { name: "a" type: "konv" } }', 'unknown V0 layer type "konv"'),
        (
            'layers { layer { name: "a" type: "relu" kernelsize: 3 } }',
            'layer "a": a V0 layer of type "relu" has no "kernelsize"',
        ),
        (
            'layers { layer { name: "p" type: "padding" pad: 1 } bottom: "x" top: "p" }'
            'layers { layer { name: "r" type: "relu" } bottom: "p" top: "r" }',
            'layer "r".*padding layer "p"',
        ),
        ('layers { layer { name: "p" type: "padding" } top: "p" }', "one bottom"),
        ('input: "a" input: "b" input_shape { dim: 1 }', "2 input fields but 1 input_shape"),
        ('input: "a" input_dim: 1 input_dim: 2', "expected 4"),
    ],
)
def test_mistakes(text, said):
    with pytest.raises(NetError, match=said):
        parse_net(text)


def test_inputs_without_a_shape_are_dropped_as_in_caffe():
    net = parse_net('input: "a" layer { name: "r" bottom: "a" }')
    assert [layer.name for layer in net.layer] == ["r"] and not net.input


def test_batch_norm_with_other_than_three_params_is_left_alone():
    net = parse_net('layer { name: "b" type: "BatchNorm" param { lr_mult: 1 } param { lr_mult: 1 } }')
    assert [p.lr_mult for p in net.layer[0].param] == [1, 1]


def test_solver_types_that_differ():
    assert parse_solver('type: "Adam" solver_type: ADAM').type == "Adam"
    with pytest.raises(NetError, match="both"):
        parse_solver('type: "SGD" solver_type: ADAM')


def test_nets_inside_a_solver():
    solver = parse_solver('net_param { layers { name: "a" type: RELU } } test_net_param { layers { type: TANH } }')
    assert solver.net_param.layer[0].type == "ReLU" and solver.test_net_param[0].layer[0].type == "TanH"


SURGERY = """
layer { name: "c" type: "CConvolution" bottom: "x" top: "c"
        convolution_param { num_output: 2 kernel_size: 3 weight_filler { type: "xavier" } }
        cconvolution_param { gamma: 0.0001 power: 1 c_rate: 4 iter_stop: 10000 WEIGHTS bias_mask_filler { value: 1 } } }
layer { name: "i" type: "CInnerProduct" bottom: "c" top: "i" inner_product_param { num_output: 3 }
        cinner_product_param { weight_mask_filler { type: "constant" value: 1 } } }
layer { name: "plain" type: "CInnerProduct" bottom: "i" top: "p" inner_product_param { num_output: 3 } }
"""


def test_layers_of_dynamic_network_surgery_become_plain_ones_with_masks():
    text = SURGERY.replace("WEIGHTS", 'weight_mask_filler { type: "uniform" min: -1 max: 0 }')
    net = upgrade_net(parse_message(text, "NetParameter"))
    assert [layer.type for layer in net.layer] == ["Convolution", "InnerProduct", "InnerProduct"]
    assert net.layer[0].convolution_param.mask_filler.type == "uniform"
    assert not net.layer[1].inner_product_param.HasField("mask_filler")
    assert not any(layer.HasField("cconvolution_param") for layer in net.layer)


@pytest.mark.parametrize("filler", ["uniform", "damaged"])
def test_options_of_surgery_in_binary_files_lie_where_today_others_are(filler):
    """Field 140 is cconvolution_param there, and elu_param in today's Caffe; 141 is bias_param."""
    net = parse_message(SURGERY.replace("WEIGHTS", 'weight_mask_filler { type: "uniform" }'), "NetParameter")
    for layer, own, number in zip(net.layer, ("cconvolution_param", "cinner_product_param"), (140, 141), strict=False):
        content = getattr(layer, own).SerializeToString()
        if filler == "damaged":
            content = wire.head(5, 2) + b"\x0a\x7f"
        layer.ClearField(own)
        layer.MergeFromString(wire.head(number, len(content)) + content)
        assert layer.HasField("elu_param") == (number == 140) and layer.HasField("bias_param") == (number == 141)
    if filler == "damaged":
        with pytest.raises(NetError, match=r'layer "c" \(CConvolution\): its cconvolution_param is damaged'):
            upgrade_net(net)
        return
    net = upgrade_net(net)
    assert net.layer[0].convolution_param.mask_filler.type == "uniform"
    assert not net.layer[1].inner_product_param.HasField("mask_filler")
    fields = {f.name for layer in net.layer for f, _ in layer.ListFields()}
    assert fields == {"name", "type", "bottom", "top", "convolution_param", "inner_product_param"}


def test_a_bias_mask_of_surgery_other_than_ones_is_refused():
    text = SURGERY.replace("WEIGHTS", "").replace("bias_mask_filler { value: 1 }", "bias_mask_filler { value: 0 }")
    with pytest.raises(NetError, match=r'layer "c" \(CConvolution\): a bias_mask_filler'):
        upgrade_net(parse_message(text, "NetParameter"))
