"""Every folder of models/: its three files agree, and sizes and shapes are those of the papers, worked out by hand."""

import re
from functools import cache
from itertools import pairwise

import numpy as np
import pytest

import protocaffe
from protocaffe.cli.summary import rows
from protocaffe.io import parse_net, prototxt
from protocaffe.resources import in_checkout, resource_path

MODELS = resource_path("models")
NAMES = sorted(folder.name for folder in MODELS.iterdir() if (folder / "train_val.prototxt").is_file())
TRAIN, TEST = protocaffe.TRAIN, protocaffe.TEST


# ------------------------------------------------------------------------------------------------------------ helpers
def deploy_shape(name):
    first = prototxt.read_net(MODELS / name / "deploy.prototxt").layer[0]
    assert (first.type, first.top) == ("Input", ["data"])
    return tuple(first.input_param.shape[0].dim)


def with_inputs(name, batch, fillers=True):
    """train_val with an Input for its data layers; without fillers all weights are 0, which is quicker."""
    net = prototxt.read_net(MODELS / name / "train_val.prototxt")
    kept = [layer for layer in net.layer if layer.bottom or not layer.type.endswith("Data")]
    dims = " ".join(f"dim: {d}" for d in (batch, *deploy_shape(name)[1:]))
    shapes = f"shape {{ {dims} }} shape {{ dim: {batch} }}"
    inputs = parse_net(f'layer {{ name: "data" type: "Input" top: "data" top: "label" input_param {{ {shapes} }} }}')
    if not fillers:
        for layer in kept:
            for message in (layer.convolution_param, layer.inner_product_param, layer.scale_param):
                for field in ("weight_filler", "bias_filler", "filler"):
                    if field in message.DESCRIPTOR.fields_by_name:
                        message.ClearField(field)
    del net.layer[:]
    net.layer.extend([*inputs.layer, *kept])
    return net


def shapes_of(net):
    return {name: blob.shape for name, blob in net.blobs.items()}


def sizes_of(net):
    return {name: [blob.shape for blob in blobs] for name, blobs in net.params.items()}


@cache
def deploy(name):
    """Of the deploy net: blobs' shapes, parameters' shapes, rows of ``protocaffe summary``."""
    net = protocaffe.Net(str(MODELS / name / "deploy.prototxt"), TEST)
    return shapes_of(net), sizes_of(net), rows(net)


def randomised(name, seed=0):
    """The deploy net with weights of He's size and statistics that change nothing."""
    net = protocaffe.Net(str(MODELS / name / "deploy.prototxt"), TEST)
    rng = np.random.default_rng(seed)
    for layer in net.layers:
        if layer.type == "BatchNorm":
            for blob, value in zip(layer.blobs, (0, 1, 1), strict=True):
                blob.data = value
        elif layer.type in ("Convolution", "InnerProduct"):
            shape = layer.blobs[0].shape
            layer.blobs[0].data = rng.standard_normal(shape, np.float32) * np.sqrt(2 / np.prod(shape[1:]))
    return net


# ----------------------------------------------------------------------------------------------- what every model has
@pytest.mark.parametrize("name", NAMES)
def test_both_phases_and_deploy_have_the_same_parameters(name):
    shapes, sizes, _ = deploy(name)
    batch = 2
    for phase in (TRAIN, TEST):
        net = protocaffe.Net(with_inputs(name, batch, fillers=False), phase)
        of_deploy = {layer: blobs for layer, blobs in sizes_of(net).items() if layer in sizes}
        assert of_deploy == sizes
        extra = set(sizes_of(net)) - set(sizes)  # auxiliary classifiers
        assert all(layer.startswith(("loss1/", "loss2/")) for layer in extra)
        losses = [wire for layer in net.layers for wire in net.top_names[layer.name] if any(layer.loss_weights)]
        assert losses and all(net.blobs[blob].shape == () for blob in losses)
        accuracies = [layer for layer in net.layers if layer.type == "Accuracy"]
        assert bool(accuracies) == (phase == TEST)
        common = [blob for blob in shapes if blob in net.blobs and blob != "data"]
        assert len(common) >= len(shapes) - 2  # all but data and prob
        for blob in common:
            assert net.blobs[blob].shape == (batch, *shapes[blob][1:])


@pytest.mark.parametrize("name", NAMES)
def test_the_readme_gives_the_sizes(name):
    text = (MODELS / name / "README.md").read_text()
    _, _, table = deploy(name)
    learned = sum(row.parameters for row in table if row.type != "BatchNorm")
    assert f"{learned:,}" in text
    if name in STAGES:
        for figure in ("parameters", "macs", "prunable"):
            assert f"{sum(getattr(row, figure) for row in table):,}" in text, figure
    if "| parameters |" in text:
        cells = re.findall(r"\| ([\d,]+) \|$", text, re.MULTILINE)
        assert sum(int(cell.replace(",", "")) for cell in cells) == learned


@pytest.mark.parametrize("name", NAMES)
def test_the_solver_trains_this_net(name):
    solver = prototxt.read_solver(MODELS / name / "solver.prototxt")
    assert solver.net == f"models/{name}/train_val.prototxt"
    assert solver.snapshot_prefix == f"models/{name}/{name}"
    assert solver.max_iter > 0 and solver.base_lr > 0 and solver.test_iter[0] > 0
    if any(row.type == "BatchNorm" for row in deploy(name)[2]):  # without statistics a test gives NaN
        assert not solver.test_initialization


# ------------------------------------------------------------------------------------------------- sizes and MACs
def c(inputs, outputs, kernel=1, group=1, bias=True):
    """Weights and biases of a convolution or, with kernel 1, an inner product."""
    return outputs * (inputs // group) * kernel**2 + bias * outputs


def n(channels):
    """Scale and shift after a normalisation."""
    return 2 * channels


def chain(kernel, *widths):
    return sum(c(a, b, kernel) for a, b in pairwise(widths))


def alexnet_size():
    convolutions = c(3, 96, 11) + c(96, 256, 5, 2) + c(256, 384, 3) + c(384, 384, 3, 2) + c(384, 256, 3, 2)
    return convolutions + chain(1, 6 * 6 * 256, 4096, 4096, 1000)


def vgg16_size():
    widths = (3, 64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512)
    return chain(3, *widths) + chain(1, 7 * 7 * 512, 4096, 4096, 1000)


def googlenet_size():
    total, inputs = c(3, 64, 7) + c(64, 64) + c(64, 192, 3), 192
    for one, r3, three, r5, five, proj in [  # the rows of the paper's table 1
        (64, 96, 128, 16, 32, 32), (128, 128, 192, 32, 96, 64), (192, 96, 208, 16, 48, 64),
        (160, 112, 224, 24, 64, 64), (128, 128, 256, 24, 64, 64), (112, 144, 288, 32, 64, 64),
        (256, 160, 320, 32, 128, 128), (256, 160, 320, 32, 128, 128), (384, 192, 384, 48, 128, 128),
    ]:  # fmt: skip
        total += c(inputs, one) + c(inputs, r3) + c(r3, three, 3) + c(inputs, r5) + c(r5, five, 5) + c(inputs, proj)
        inputs = one + three + five + proj
    return total + c(inputs, 1000)


def resnet50_size():
    total, inputs = c(3, 64, 7) + n(64), 64
    for width, depth in ((64, 3), (128, 4), (256, 6), (512, 3)):
        for i in range(depth):
            if i == 0:
                total += c(inputs, 4 * width, bias=False) + n(4 * width)
            total += c(inputs, width, bias=False) + c(width, width, 3, bias=False) + c(width, 4 * width, bias=False)
            total += n(width) + n(width) + n(4 * width)
            inputs = 4 * width
    return total + c(2048, 1000)


def squeezenet_size():
    total, inputs = c(3, 64, 3), 64
    for s in (16, 16, 32, 32, 48, 48, 64, 64):
        total += c(inputs, s) + c(s, 4 * s) + c(s, 4 * s, 3)
        inputs = 8 * s
    return total + c(inputs, 1000)


def mobilenet_size():
    total, inputs = c(3, 32, 3, bias=False) + n(32), 32
    for outputs in (64, 128, 128, 256, 256, 512, *(512,) * 5, 1024, 1024):
        total += c(inputs, inputs, 3, group=inputs, bias=False) + n(inputs)
        total += c(inputs, outputs, bias=False) + n(outputs)
        inputs = outputs
    return total + c(1024, 1000)


def resnet18_size():
    total, inputs = c(1, 64, 7) + n(64), 64
    for width in (64, 128, 256, 512):
        total += c(inputs, width, 3) + 3 * c(width, width, 3) + 4 * n(width)
        total += c(inputs, width) if width != inputs else 0
        inputs = width
    return total + c(512, 10)


FIGURES = {  # learned parameters: by formula, and as published (released ResNet-50 has a bias of 64 in conv1)
    "alexnet": (alexnet_size(), 60_965_224),
    "caffenet": (alexnet_size(), 60_965_224),
    "googlenet": (googlenet_size(), 6_998_552),
    "lenet": (c(1, 20, 5) + c(20, 50, 5) + chain(1, 800, 500, 10), 431_080),
    "lenet_300_100": (chain(1, 784, 300, 100, 10), 266_610),
    "mnist_cnn": (c(1, 32, 5) + c(32, 64, 5) + c(64, 128, 3) + chain(1, 512, 128, 10), 192_906),
    "mobilenet_v1": (mobilenet_size(), 4_231_976),
    "resnet18_fashion_mnist": (resnet18_size(), 11_178_378),
    "resnet50": (resnet50_size(), 25_557_032 + 64),
    "squeezenet": (squeezenet_size(), 1_235_496),
    "vgg16": (vgg16_size(), 138_357_544),
}


@pytest.mark.parametrize("name", sorted(FIGURES))
def test_number_of_parameters(name):
    by_formula, published = FIGURES[name]
    _, _, table = deploy(name)
    assert sum(row.parameters for row in table if row.type != "BatchNorm") == by_formula == published


# ------------------------------------------------------------------------------------------------------------- shapes
STAGES = {
    "alexnet": {
        "conv1": (96, 55, 55), "pool1": (96, 27, 27), "conv2": (256, 27, 27), "pool2": (256, 13, 13),
        "conv5": (256, 13, 13), "pool5": (256, 6, 6), "fc6": (4096,), "fc8": (1000,),
    },
    "caffenet": {"conv1": (96, 55, 55), "norm1": (96, 27, 27), "norm2": (256, 13, 13), "pool5": (256, 6, 6)},
    "googlenet": {
        "conv1/7x7_s2": (64, 112, 112), "pool1/3x3_s2": (64, 56, 56), "conv2/norm2": (192, 56, 56),
        "pool2/3x3_s2": (192, 28, 28), "inception_3a/output": (256, 28, 28), "inception_3b/output": (480, 28, 28),
        "inception_4a/output": (512, 14, 14), "inception_4e/output": (832, 14, 14),
        "inception_5b/output": (1024, 7, 7), "pool5/7x7_s1": (1024, 1, 1), "loss3/classifier": (1000,),
    },
    "mobilenet_v1": {
        "conv1": (32, 112, 112), "conv2_1/sep": (64, 112, 112), "conv2_2/sep": (128, 56, 56),
        "conv3_2/sep": (256, 28, 28), "conv4_2/sep": (512, 14, 14), "conv5_5/sep": (512, 14, 14),
        "conv5_6/sep": (1024, 7, 7), "conv6/sep": (1024, 7, 7), "pool6": (1024, 1, 1), "fc7": (1000, 1, 1),
    },
    "resnet18_fashion_mnist": {
        "conv1": (64, 48, 48), "pool1": (64, 24, 24), "res2b": (64, 24, 24), "res3b": (128, 12, 12),
        "res4b": (256, 6, 6), "res5b": (512, 3, 3), "pool5": (512, 1, 1), "fc10": (10,),
    },
    "resnet50": {
        "conv1": (64, 112, 112), "pool1": (64, 56, 56), "res2c": (256, 56, 56), "res3a_branch2a": (128, 28, 28),
        "res3d": (512, 28, 28), "res4f": (1024, 14, 14), "res5c": (2048, 7, 7), "pool5": (2048, 1, 1),
        "fc1000": (1000,),
    },
    "squeezenet": {
        "conv1": (64, 113, 113), "pool1": (64, 56, 56), "fire3/concat": (128, 56, 56), "pool3": (128, 28, 28),
        "fire5/concat": (256, 28, 28), "pool5": (256, 14, 14), "fire9/concat": (512, 14, 14),
        "conv10": (1000, 14, 14), "pool10": (1000, 1, 1),
    },
    "vgg16": {
        "conv1_2": (64, 224, 224), "pool1": (64, 112, 112), "pool2": (128, 56, 56), "pool3": (256, 28, 28),
        "conv5_3": (512, 14, 14), "pool5": (512, 7, 7), "fc7": (4096,), "fc8": (1000,),
    },
}  # fmt: skip


@pytest.mark.parametrize("name", sorted(STAGES))
def test_stages(name):
    shapes, _, _ = deploy(name)
    assert {blob: shapes[blob][1:] for blob in STAGES[name]} == STAGES[name]


def test_resnet18_at_224():
    net = prototxt.read_net(MODELS / "resnet18_fashion_mnist" / "deploy.prototxt")
    net.layer[0].input_param.shape[0].dim[2:] = [224, 224]
    shapes = shapes_of(protocaffe.Net(net, TEST))
    assert [shapes[blob][2:] for blob in ("pool1", "res2b", "res3b", "res4b", "res5b")] == [
        (side, side) for side in (56, 56, 28, 14, 7)
    ]


# ------------------------------------------------------------------------------------------------------------ running
@pytest.mark.parametrize("name", sorted(set(STAGES) - {"alexnet", "caffenet", "vgg16"}))
def test_deploy_runs(name):
    net = randomised(name)
    scores = net.layers[-1].param.bottom[0]
    image = np.random.default_rng(1).standard_normal(deploy_shape(name), np.float32)
    first = {blob: values.copy() for blob, values in net.forward([scores], data=image).items()}
    assert first["prob"].shape[1] == (10 if name == "resnet18_fashion_mnist" else 1000)
    assert first["prob"].sum() == pytest.approx(1, abs=1e-4)
    assert np.isfinite(first[scores]).all() and first[scores].std() > 0
    second = net.forward([scores], data=image[:, :, ::-1])[scores]
    assert np.abs(second - first[scores]).max() > 0.01 * first[scores].std()


def test_resnet18_learns_a_batch():
    solver = prototxt.parse_solver('base_lr: 0.05 lr_policy: "fixed" random_seed: 1 snapshot_after_train: false')
    solver.net_param.CopyFrom(with_inputs("resnet18_fashion_mnist", 4))
    run = protocaffe.get_solver(solver)
    rng = np.random.default_rng(0)
    run.net.blobs["data"].data = rng.random(run.net.blobs["data"].shape)
    run.net.blobs["label"].data = np.arange(4)
    losses = []
    for _ in range(4):
        run.step(1)
        losses.append(run.smoothed_loss)
    assert losses[-1] < 0.5 * losses[0]


def test_googlenet_adds_its_auxiliary_losses():
    net = protocaffe.Net(with_inputs("googlenet", 1), TRAIN, seed=1)
    rng = np.random.default_rng(0)
    net.forward(data=rng.standard_normal((1, 3, 224, 224)), label=[7])
    losses = {i: float(net.blobs[f"loss{i}/loss{i}"].data) for i in (1, 2, 3)}
    assert net.loss() == pytest.approx(losses[3] + 0.3 * losses[1] + 0.3 * losses[2], rel=1e-6)
    net.backward()
    for blob in ("loss1/conv", "loss2/conv", "conv1/7x7_s2"):
        assert np.abs(net.params[blob][0].diff).max() > 0


# ---------------------------------------------------------------------------------------------------------- generator
@pytest.mark.skipif(not in_checkout(), reason="the generator lies in a checkout only")
def test_the_files_are_those_that_the_generator_writes():
    from tools.make_models import MODELS as GENERATED
    from tools.make_models import files

    assert {model.name for model in GENERATED} == set(STAGES)
    for model in GENERATED:
        for name, content in files(model).items():
            assert (MODELS / model.name / name).read_text() == content, f"{model.name}/{name}: run tools/make_models.py"
