"""Write train_val.prototxt, deploy.prototxt and solver.prototxt of the larger nets in models/.

    python tools/make_models.py [NAME ...] [--output models]

Each net below is a function on a NetSpec, after its paper. Layers and blobs have the names by which Caffe's users know
them, so that the released caffemodels load. deploy.prototxt is what the scores need of train_val.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from protocaffe import NetSpec
from protocaffe import layers as L
from protocaffe.io.prototxt import to_text

TRAIN, TEST = {"phase": "TRAIN"}, {"phase": "TEST"}
#: learning rate and decay of weights and biases, as Caffe's examples have them
TWICE_FOR_BIASES = [{"lr_mult": 1, "decay_mult": 1}, {"lr_mult": 2, "decay_mult": 0}]
NO_DECAY = {"lr_mult": 1, "decay_mult": 0}
BGR_MEAN = [104, 117, 123]


@dataclass
class Model:
    """A net, its data and its recipe."""

    name: str
    build: Callable[[Any], str]  # adds the net to a NetSpec with data and label, returns the name of the scores' layer
    side: int
    mean: list[float] = field(default_factory=lambda: BGR_MEAN)
    scale: float = 1
    batches: tuple[int, int] = (32, 25)
    recipe: dict[str, Any] = field(default_factory=dict)
    data: dict[str, Any] | None = None  # arguments of both Data layers, where they are not ImageNet's
    sources: tuple[str, str] = ("data/ilsvrc12/ilsvrc12_train_lmdb", "data/ilsvrc12/ilsvrc12_val_lmdb")
    channels: int = 3


# ------------------------------------------------------------------------------------------------------------- pieces
def gaussian(std: float) -> dict[str, Any]:
    return {"type": "gaussian", "std": std}


def constant(value: float) -> dict[str, Any]:
    return {"type": "constant", "value": value}


XAVIER, MSRA = {"type": "xavier"}, {"type": "msra"}


def conv(n, name, bottom, num_output, kernel_size, relu="", **options):
    """A convolution, and its ReLU in place if that is given a name."""
    n[name] = L.Convolution(bottom, num_output=num_output, kernel_size=kernel_size, **options)
    return rectified(n, relu, n[name])


def fully(n, name, bottom, num_output, relu="", drop="", dropout_ratio=0.5, **options):
    """An inner product, and its ReLU and dropout in place if they are given names."""
    n[name] = L.InnerProduct(bottom, num_output=num_output, **options)
    top = rectified(n, relu, n[name])
    if drop:
        top = n[drop] = L.Dropout(top, dropout_ratio=dropout_ratio, in_place=True)
    return top


def rectified(n, name, bottom):
    if not name:
        return bottom
    n[name] = L.ReLU(bottom, in_place=True)
    return n[name]


def max_pool(n, name, bottom, kernel_size=3, stride=2, **options):
    n[name] = L.Pooling(bottom, pool="MAX", kernel_size=kernel_size, stride=stride, **options)
    return n[name]


def normalised(n, bn, scale, bottom, param=None, **batch_norm):
    """Batch normalisation and the learned scale and shift after it, both in place."""
    n[bn] = L.BatchNorm(bottom, in_place=True, **batch_norm)
    more = {"param": param} if param else {}
    n[scale] = L.Scale(n[bn], bias_term=True, filler=constant(1), bias_filler=constant(0), in_place=True, **more)
    return n[scale]


def classify(n, scores, loss="loss", accuracy="accuracy", top5="accuracy_top5"):
    """Softmax loss, and for test nets the accuracy (of five guesses too, where ``top5`` is given a name)."""
    n[loss] = L.SoftmaxWithLoss(scores, n.label)
    n[accuracy] = L.Accuracy(scores, n.label, include=TEST)
    if top5:
        n[top5] = L.Accuracy(scores, n.label, top_k=5, include=TEST)


# --------------------------------------------------------------------------------------------------------------- nets
def alexnet(n, normalise_first=True, bias=0.1):
    """Krizhevsky, Sutskever, Hinton 2012; CaffeNet pools before it normalises and starts with other biases."""

    def features(i, bottom, num_output, kernel_size, bias, **options):
        options |= {"weight_filler": gaussian(0.01), "bias_filler": constant(bias), "param": TWICE_FOR_BIASES}
        return conv(n, f"conv{i}", bottom, num_output, kernel_size, f"relu{i}", **options)

    def lrn(i, bottom):
        n[f"norm{i}"] = L.LRN(bottom, local_size=5, alpha=1e-4, beta=0.75)
        return n[f"norm{i}"]

    def shrink(i, bottom):
        if normalise_first:
            return max_pool(n, f"pool{i}", lrn(i, bottom))
        return lrn(i, max_pool(n, f"pool{i}", bottom))

    top = shrink(1, features(1, n.data, 96, 11, 0, stride=4))
    top = shrink(2, features(2, top, 256, 5, bias, pad=2, group=2))
    top = features(3, top, 384, 3, 0, pad=1)
    top = features(4, top, 384, 3, bias, pad=1, group=2)
    top = max_pool(n, "pool5", features(5, top, 256, 3, bias, pad=1, group=2))
    for i in (6, 7):
        options = {"weight_filler": gaussian(0.005), "bias_filler": constant(bias), "param": TWICE_FOR_BIASES}
        top = fully(n, f"fc{i}", top, 4096, f"relu{i}", f"drop{i}", **options)
    options = {"weight_filler": gaussian(0.01), "bias_filler": constant(0), "param": TWICE_FOR_BIASES}
    classify(n, fully(n, "fc8", top, 1000, **options))
    return "fc8"


def caffenet(n):
    return alexnet(n, normalise_first=False, bias=1)


def vgg16(n):
    """Simonyan, Zisserman 2015, configuration D."""
    options = {"weight_filler": XAVIER, "bias_filler": constant(0), "param": TWICE_FOR_BIASES}
    top = n.data
    for stage, (num_output, depth) in enumerate([(64, 2), (128, 2), (256, 3), (512, 3), (512, 3)], 1):
        for i in range(1, depth + 1):
            top = conv(n, f"conv{stage}_{i}", top, num_output, 3, f"relu{stage}_{i}", pad=1, **options)
        top = max_pool(n, f"pool{stage}", top, kernel_size=2)
    for i in (6, 7):
        top = fully(n, f"fc{i}", top, 4096, f"relu{i}", f"drop{i}", **options)
    classify(n, fully(n, "fc8", top, 1000, **options))
    return "fc8"


#: outputs of an inception module: 1x1; 3x3 reduce, 3x3; 5x5 reduce, 5x5; projection of the pooled input
INCEPTION = {
    "3a": (64, 96, 128, 16, 32, 32), "3b": (128, 128, 192, 32, 96, 64),
    "4a": (192, 96, 208, 16, 48, 64), "4b": (160, 112, 224, 24, 64, 64), "4c": (128, 128, 256, 24, 64, 64),
    "4d": (112, 144, 288, 32, 64, 64), "4e": (256, 160, 320, 32, 128, 128),
    "5a": (256, 160, 320, 32, 128, 128), "5b": (384, 192, 384, 48, 128, 128),
}  # fmt: skip


def googlenet(n):
    """Szegedy et al. 2015, with the two auxiliary classifiers."""
    options = {"weight_filler": XAVIER, "bias_filler": constant(0.2), "param": TWICE_FOR_BIASES}

    def unit(group, name, bottom, num_output, kernel_size, relu="", **more):
        relu = f"{group}/relu_{relu or name}"
        return conv(n, f"{group}/{name}", bottom, num_output, kernel_size, relu, **options, **more)

    def lrn(name, bottom):
        n[name] = L.LRN(bottom, local_size=5, alpha=1e-4, beta=0.75)
        return n[name]

    def inception(module, bottom):
        group = f"inception_{module}"
        one, reduce3, three, reduce5, five, proj = INCEPTION[module]
        parts = [unit(group, "1x1", bottom, one, 1)]
        parts += [unit(group, "3x3", unit(group, "3x3_reduce", bottom, reduce3, 1), three, 3, pad=1)]
        parts += [unit(group, "5x5", unit(group, "5x5_reduce", bottom, reduce5, 1), five, 5, pad=2)]
        pooled = max_pool(n, f"{group}/pool", bottom, stride=1, pad=1)
        parts += [unit(group, "pool_proj", pooled, proj, 1)]
        n[f"{group}/output"] = L.Concat(*parts)
        return n[f"{group}/output"]

    def head(i, bottom, loss_name, weight):
        scores = fully(n, f"loss{i}/classifier", bottom, 1000, **{**options, "bias_filler": constant(0)})
        n[f"loss{i}/loss{i}"] = L.SoftmaxWithLoss(scores, n.label, name=loss_name, loss_weight=weight)
        n[f"loss{i}/top-1"] = L.Accuracy(scores, n.label, include=TEST)
        n[f"loss{i}/top-5"] = L.Accuracy(scores, n.label, top_k=5, include=TEST)

    def auxiliary(i, bottom):
        n[f"loss{i}/ave_pool"] = L.Pooling(bottom, pool="AVE", kernel_size=5, stride=3)
        top = unit(f"loss{i}", "conv", n[f"loss{i}/ave_pool"], 128, 1)
        names = (f"loss{i}/relu_fc", f"loss{i}/drop_fc")
        head(i, fully(n, f"loss{i}/fc", top, 1024, *names, dropout_ratio=0.7, **options), f"loss{i}/loss", 0.3)

    top = max_pool(n, "pool1/3x3_s2", unit("conv1", "7x7_s2", n.data, 64, 7, "7x7", pad=3, stride=2))
    top = unit("conv2", "3x3_reduce", lrn("pool1/norm1", top), 64, 1)
    top = lrn("conv2/norm2", unit("conv2", "3x3", top, 192, 3, pad=1))
    top = max_pool(n, "pool2/3x3_s2", top)
    for module in INCEPTION:
        top = inception(module, top)
        if module in ("4a", "4d"):
            auxiliary(1 if module == "4a" else 2, top)
        if module in ("3b", "4e"):
            top = max_pool(n, f"pool{module[0]}/3x3_s2", top)
    n["pool5/7x7_s1"] = L.Pooling(top, pool="AVE", kernel_size=7, stride=1)
    n["pool5/drop_7x7_s1"] = L.Dropout(n["pool5/7x7_s1"], dropout_ratio=0.4, in_place=True)
    head(3, n["pool5/drop_7x7_s1"], "loss3/loss3", 1)
    return "loss3/classifier"


def resnet50(n):
    """He, Zhang, Ren, Sun 2016: bottleneck blocks, the stride in their first 1x1 convolution."""

    def unit(kind, name, bottom, num_output, kernel_size, relu="", **options):
        """A convolution ``kind`` + ``name``, normalised; conv1 alone has a bias, as in the released weights."""
        options |= {"weight_filler": MSRA} | ({"bias_term": False} if kind == "res" else {})
        top = conv(n, kind + name, bottom, num_output, kernel_size, **options)
        stem = name if kind == "res" else f"_{kind}{name}"
        return rectified(n, relu, normalised(n, f"bn{stem}", f"scale{stem}", top))

    top = max_pool(n, "pool1", unit("conv", "1", n.data, 64, 7, "conv1_relu", pad=3, stride=2))
    for stage, (width, depth) in enumerate([(64, 3), (128, 4), (256, 6), (512, 3)], 2):
        for i in range(depth):
            block = f"{stage}{'abcdef'[i]}"
            stride = 2 if i == 0 and stage > 2 else 1
            shortcut = unit("res", f"{block}_branch1", top, 4 * width, 1, stride=stride) if i == 0 else top
            name = f"{block}_branch2"
            top = unit("res", f"{name}a", top, width, 1, f"res{name}a_relu", stride=stride)
            top = unit("res", f"{name}b", top, width, 3, f"res{name}b_relu", pad=1)
            top = unit("res", f"{name}c", top, 4 * width, 1)
            n[f"res{block}"] = L.Eltwise(shortcut, top, operation="SUM")
            top = rectified(n, f"res{block}_relu", n[f"res{block}"])
    n.pool5 = L.Pooling(top, pool="AVE", kernel_size=7, stride=1)
    classify(n, fully(n, "fc1000", n.pool5, 1000, weight_filler=MSRA))
    return "fc1000"


def squeezenet(n):
    """Iandola et al. 2016, in its version 1.1."""

    def fire(i, bottom, squeeze, expand):
        group, relu = f"fire{i}", f"fire{i}/relu_"
        top = conv(n, f"{group}/squeeze1x1", bottom, squeeze, 1, f"{relu}squeeze1x1", weight_filler=XAVIER)
        parts = [
            conv(n, f"{group}/expand{k}x{k}", top, expand, k, f"{relu}expand{k}x{k}", pad=k // 2, weight_filler=XAVIER)
            for k in (1, 3)
        ]
        n[f"{group}/concat"] = L.Concat(*parts)
        return n[f"{group}/concat"]

    top = conv(n, "conv1", n.data, 64, 3, "relu_conv1", stride=2, weight_filler=XAVIER)
    top = max_pool(n, "pool1", top)
    for i, squeeze in enumerate([16, 16, 32, 32, 48, 48, 64, 64], 2):
        top = fire(i, top, squeeze, 4 * squeeze)
        if i in (3, 5):
            top = max_pool(n, f"pool{i}", top)
    n.drop9 = L.Dropout(top, dropout_ratio=0.5, in_place=True)
    top = conv(n, "conv10", n.drop9, 1000, 1, "relu_conv10", weight_filler=gaussian(0.01))
    n.pool10 = L.Pooling(top, pool="AVE", global_pooling=True)
    classify(n, n.pool10)
    return "pool10"


def mobilenet_v1(n):
    """Howard et al. 2017, width 1: depthwise 3x3 and pointwise 1x1 convolutions, each normalised."""

    def unit(name, relu, bottom, num_output, kernel_size, decay=1, **options):
        options |= {"bias_term": False, "weight_filler": MSRA, "param": {"lr_mult": 1, "decay_mult": decay}}
        top = conv(n, name, bottom, num_output, kernel_size, **options)
        return rectified(n, relu, normalised(n, f"{name}/bn", f"{name}/scale", top, param=[NO_DECAY] * 2))

    top, width = unit("conv1", "relu1", n.data, 32, 3, pad=1, stride=2), 32
    stages = {"2": (64, 128), "3": (128, 256), "4": (256, 512), "5": (512,) * 5 + (1024,), "6": (1024,)}
    for stage, widths in stages.items():
        for i, num_output in enumerate(widths, 1):
            name = stage if stage == "6" else f"{stage}_{i}"
            stride = 2 if num_output > width and name != "2_1" else 1
            top = unit(f"conv{name}/dw", f"relu{name}/dw", top, width, 3, 0, pad=1, group=width, stride=stride)
            top = unit(f"conv{name}/sep", f"relu{name}/sep", top, num_output, 1)
            width = num_output
    n.pool6 = L.Pooling(top, pool="AVE", global_pooling=True)
    classify(n, conv(n, "fc7", n.pool6, 1000, 1, weight_filler=MSRA, param=TWICE_FOR_BIASES))
    return "fc7"


def resnet18_fashion_mnist(n):
    """Residual blocks of two 3x3 convolutions; biases everywhere, shortcuts without normalisation."""

    def unit(name, bottom, num_output, kernel_size, **options):
        top = conv(n, f"res{name}", bottom, num_output, kernel_size, weight_filler=XAVIER, **options)
        return normalised(n, f"bn{name}", f"scale{name}", top, moving_average_fraction=0.9)

    n.conv1 = L.Convolution(n.data, num_output=64, kernel_size=7, stride=2, pad=3, weight_filler=XAVIER)
    top = rectified(n, "relu1", normalised(n, "bn1", "scale1", n.conv1, moving_average_fraction=0.9))
    top = max_pool(n, "pool1", top, pad=1, round_mode="FLOOR")
    for stage, num_output in enumerate([64, 128, 256, 512], 2):
        for i, block in enumerate(f"{stage}{letter}" for letter in "ab"):
            first = i == 0 and stage > 2
            stride = 2 if first else 1
            shortcut = top
            if first:
                shortcut = conv(n, f"res{block}_branch1", top, num_output, 1, stride=2, weight_filler=XAVIER)
            name = f"{block}_branch2"
            top = unit(f"{name}a", top, num_output, 3, stride=stride, pad=1)
            top = rectified(n, f"relu{name}a", top)
            top = unit(f"{name}b", top, num_output, 3, pad=1)
            n[f"res{block}"] = L.Eltwise(shortcut, top, operation="SUM")
            top = rectified(n, f"relu{block}", n[f"res{block}"])
    n.pool5 = L.Pooling(top, pool="AVE", global_pooling=True)
    classify(n, fully(n, "fc10", n.pool5, 10, weight_filler=XAVIER), top5="")
    return "fc10"


# ------------------------------------------------------------------------------------------------------------- models
STEPS = {"base_lr": 0.01, "lr_policy": "step", "gamma": 0.1, "stepsize": 100000, "max_iter": 450000}
SGD = {"momentum": 0.9, "weight_decay": 0.0005}
POLY = {"lr_policy": "poly", "power": 1}
PIXELS = 1 / 255
#: before the first step there are no statistics to test with
NORMALISED = {"test_initialization": "false"}

MODELS = [
    Model("alexnet", alexnet, 227, batches=(256, 50), recipe={"test_iter": 1000, **STEPS, **SGD}),
    Model("caffenet", caffenet, 227, batches=(256, 50), recipe={"test_iter": 1000, **STEPS, **SGD}),
    Model(
        "googlenet", googlenet, 224, batches=(32, 50),
        recipe={
            "test_iter": 1000, "base_lr": 0.01, "lr_policy": "poly", "power": 0.5, "max_iter": 2400000,
            "momentum": 0.9, "weight_decay": 0.0002,
        },
    ),
    Model(
        "resnet50", resnet50, 224,
        recipe={
            "test_iter": 2000, **NORMALISED, "iter_size": 8, "base_lr": 0.1, "lr_policy": "multistep", "gamma": 0.1,
            "stepvalue": [150000, 300000, 450000], "max_iter": 600000, "momentum": 0.9, "weight_decay": 0.0001,
        },
    ),
    Model(
        "vgg16", vgg16, 224, mean=[103.939, 116.779, 123.68],
        recipe={
            "test_iter": 2000, "iter_size": 8, "base_lr": 0.01, "lr_policy": "multistep", "gamma": 0.1,
            "stepvalue": [150000, 250000, 325000], "max_iter": 370000, **SGD,
        },
    ),
    Model(
        "squeezenet", squeezenet, 227,
        recipe={
            "test_iter": 2000, "iter_size": 16, "base_lr": 0.04, **POLY, "max_iter": 170000,
            "momentum": 0.9, "weight_decay": 0.0002,
        },
    ),
    Model(
        "mobilenet_v1", mobilenet_v1, 224, mean=[103.94, 116.78, 123.68], scale=0.017, batches=(64, 50),
        recipe={
            "test_iter": 1000, **NORMALISED, "iter_size": 4, "base_lr": 0.1, **POLY, "max_iter": 500000,
            "momentum": 0.9, "weight_decay": 0.00004,
        },
    ),
    Model(
        "resnet18_fashion_mnist", resnet18_fashion_mnist, 96, mean=[], scale=PIXELS, batches=(256, 100), channels=1,
        data={"resize_param": {"height": 96, "width": 96}},
        sources=("data/fashion-mnist/fashion_mnist_train_lmdb", "data/fashion-mnist/fashion_mnist_test_lmdb"),
        recipe={
            "test_iter": 100, "test_interval": 234, **NORMALISED, "base_lr": 0.05, "lr_policy": "fixed",
            "max_iter": 2344,
        },
    ),
]  # fmt: skip


# ------------------------------------------------------------------------------------------------------------ writing
def data_layer(model: Model, phase: dict[str, str]) -> Any:
    """The Data layer of one phase, as a layer of two tops."""
    train = phase is TRAIN
    transform: dict[str, Any] = {"mean_value": model.mean} if model.mean else {}
    if model.scale != 1:
        transform["scale"] = model.scale
    if model.data is None:
        transform |= {"crop_size": model.side} | ({"mirror": True} if train else {})
    else:
        transform |= model.data
    source = {"source": model.sources[not train], "batch_size": model.batches[not train], "backend": "LMDB"}
    if train and model.data is not None:
        source["shuffle"] = True
    return L.Data(ntop=2, include=phase, transform_param=transform, **source)


def train_val(model: Model) -> tuple[Any, str]:
    """The net for both phases, and the name of its scores' layer."""
    n, test = NetSpec(), NetSpec()
    n.data, n.label = data_layer(model, TRAIN)
    test.data, test.label = data_layer(model, TEST)
    scores = model.build(n)
    net = n.to_proto()
    layers = [net.layer[0], *test.to_proto().layer, *net.layer[1:]]
    return named(model, layers), scores


def deploy(model: Model) -> Any:
    """The part of the net that the scores need, on an Input, with a Softmax; nothing that only training reads."""
    net, scores = train_val(model)
    needed, layers = {scores}, []
    for layer in reversed(net.layer):
        if layer.type != "Data" and needed.intersection(layer.top):
            needed.update(layer.bottom)
            layers.append(layer)
    ends = NetSpec()
    ends.data = L.Input(shape={"dim": [1, model.channels, model.side, model.side]})
    ends.prob = L.Softmax(ends.data)
    first, last = ends.to_proto().layer
    last.bottom[:] = layers[0].top
    for layer in layers:
        layer.ClearField("param")
        for message in (layer.convolution_param, layer.inner_product_param, layer.scale_param):
            for fields in [f.name for f, _ in message.ListFields() if f.name.endswith("filler")]:
                message.ClearField(fields)
    return named(model, [first, *reversed(layers), last])


def named(model: Model, layers: list[Any]) -> Any:
    net = NetSpec().to_proto()
    net.name = model.name
    net.layer.extend(layers)
    return net


def solver(model: Model) -> str:
    """The solver file."""
    folder = f"models/{model.name}"
    settings = {
        "net": f"{folder}/train_val.prototxt",
        "test_interval": 5000,
        "type": "SGD",
        **model.recipe,
        "display": 20,
        "average_loss": 20,
        **({} if model.data else {"snapshot": 10000}),
        "snapshot_prefix": f"{folder}/{model.name}",
        "random_seed": 1,
    }
    lines = ["# Paths are relative to the folder in which protocaffe is started."]
    for key, value in settings.items():
        values = value if isinstance(value, list) else [value]
        lines += [f'{key}: "{v}"' if isinstance(v, str) and v != "false" else f"{key}: {v}" for v in values]
    return "\n".join(lines) + "\n"


def compact(text: str, width: int = 100) -> str:
    """Messages that hold only values on one line, as people write them."""

    def join(match: re.Match[str]) -> str:
        indent, name, inner = match.groups()
        line = f"{indent}{name} {{ {' '.join(inner.split())} }}\n"
        return line if len(line) <= width and name != "layer" else match.group(0)

    return re.sub(r"^( *)(\w+) \{\n((?: *\w+: [^\n]*\n)+) *\}\n", join, text, flags=re.MULTILINE)


def files(model: Model) -> dict[str, str]:
    """File name to content."""
    return {
        "train_val.prototxt": compact(to_text(train_val(model)[0])),
        "deploy.prototxt": compact(to_text(deploy(model))),
        "solver.prototxt": solver(model),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(model.name for model in MODELS))
    parser.add_argument("--output", type=Path, default=Path(__file__).resolve().parent.parent / "models")
    wanted = parser.parse_args()
    for model in MODELS:
        if not wanted.names or model.name in wanted.names:
            folder = wanted.output / model.name
            folder.mkdir(parents=True, exist_ok=True)
            for name, content in files(model).items():
                (folder / name).write_text(content)


if __name__ == "__main__":
    main()
