"""summary and the geometry behind it, against figures worked out by hand."""

import pytest

import protocaffe
from protocaffe.cli.geometry import receptive_fields
from protocaffe.cli.summary import rows
from protocaffe.io import parse_net


def fields(text, shapes):
    net = parse_net(text)
    return receptive_fields([(layer, list(layer.bottom), list(layer.top)) for layer in net.layer], shapes)


def layer(name, kind, bottom, options=""):
    bottoms = " ".join(f'bottom: "{b}"' for b in bottom.split())
    return f'layer {{ name: "{name}" type: "{kind}" {bottoms} top: "{name}" {options} }}\n'


def conv(name, bottom, options):
    return layer(name, "Convolution", bottom, f"convolution_param {{ num_output: 1 {options} }}")


DATA = layer("data", "Input", "", "input_param { shape { dim: 1 dim: 1 dim: 99 dim: 77 } }")
SHAPES = {"data": (1, 1, 99, 77)}


def test_strides_multiply_and_kernels_add_up():
    text = DATA + conv("a", "data", "kernel_size: 7 stride: 2") + conv("b", "a", "kernel_size: 3 dilation: 2")
    text += layer("p", "Pooling", "b", "pooling_param { kernel_size: 3 stride: 2 }") + conv("c", "p", "kernel_size: 3")
    found = fields(text, SHAPES)
    assert found["a"] == [7, 7]
    assert found["b"] == [15, 15]  # 7 + (5 - 1) * 2
    assert found["p"] == [19, 19]  # + (3 - 1) * 2
    assert found["c"] == [27, 27]  # + (3 - 1) * 4


def test_axes_are_kept_apart():
    text = (
        DATA + conv("a", "data", "kernel_h: 3 kernel_w: 1 stride_h: 2 stride_w: 1") + conv("b", "a", "kernel_size: 3")
    )
    assert fields(text, SHAPES)["b"] == [7, 3]


def test_branches_take_the_widest_and_whole_layers_see_everything():
    text = DATA + conv("a", "data", "kernel_size: 3") + conv("b", "data", "kernel_size: 5")
    text += layer("sum", "Eltwise", "a b") + layer("ip", "InnerProduct", "sum", "inner_product_param { num_output: 2 }")
    text += layer("g", "Pooling", "sum", "pooling_param { global_pooling: true }")
    found = fields(text, SHAPES)
    assert found["sum"] == [5, 5]
    assert found["ip"] == [99, 77]
    assert found["g"] == [99, 77]


def test_deconvolution_narrows_the_step():
    text = DATA + conv("a", "data", "kernel_size: 4 stride: 4")
    text += layer("up", "Deconvolution", "a", "convolution_param { num_output: 1 kernel_size: 4 stride: 2 }")
    text += conv("c", "up", "kernel_size: 3")
    found = fields(text, SHAPES)
    assert found["up"] == [8, 8]  # two of the windows of 4
    assert found["c"] == [12, 12]  # + (3 - 1) * 4 / 2


def test_lenet(lenet):
    net = protocaffe.Net("models/lenet/deploy.prototxt", protocaffe.TEST)
    found = {row.name: row for row in rows(net)}
    assert found["conv2"].shape == (64, 50, 8, 8)
    assert found["conv2"].field == [14, 14]
    assert {name: row.parameters for name, row in found.items() if row.parameters} == {
        "conv1": 520, "conv2": 25050, "ip1": 400500, "ip2": 5010,
    }  # fmt: skip
    assert {name: row.macs for name, row in found.items() if row.macs} == {
        "conv1": 288000, "conv2": 1600000, "ip1": 400000, "ip2": 5000,
    }  # fmt: skip


def test_the_table_shows_sparsity_once_there_are_weights(cli, lenet, trained):
    model = "models/lenet/deploy.prototxt"
    plain = cli("summary", "-model", model)
    assert plain.code == 0
    assert "431,080 parameters, 2,293,000 multiply-accumulates an item" in plain.out
    assert "sparsity" not in plain.out
    cli(
        "prune",
        "--model",
        model,
        "--weights",
        trained,
        "--sparsity",
        0.5,
        "--scope",
        "uniform",
        "--output",
        "p.caffemodel",
    )
    pruned = cli("summary", "-model", model, "-weights", "p.caffemodel")
    assert pruned.out.count("50.00%") == 5  # four layers and the total


def test_time_prints_each_layer(cli, lenet):
    result = cli("time", "-model", "models/lenet/deploy.prototxt", "-iterations=2")
    assert result.code == 0
    assert "Average Forward-Backward: " in result.err
    for name in ("conv1", "ip2", "prob"):
        assert f"{name}\tforward: " in result.err
        assert f"{name}\tbackward: " in result.err


@pytest.mark.parametrize("model", ["lenet", "lenet_300_100", "mnist_cnn"])
def test_every_model_loads_in_every_phase(lenet, model):
    deploy = protocaffe.Net(f"models/{model}/deploy.prototxt", protocaffe.TEST)
    for phase in (protocaffe.TRAIN, protocaffe.TEST):
        net = protocaffe.Net(f"models/{model}/train_val.prototxt", phase)
        shapes = {name: [b.shape for b in blobs] for name, blobs in net.params.items()}
        assert shapes == {name: [b.shape for b in blobs] for name, blobs in deploy.params.items()}
        net.close()
