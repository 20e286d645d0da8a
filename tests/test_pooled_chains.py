"""Chains with blobs between their layers: convolution, ReLU, pooling; LogSoftmax and its loss; products with ReLU."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from protocaffe import TRAIN
from protocaffe.backends import batched
from protocaffe.backends.cpu import CpuBackend
from protocaffe.patterns import PORTABLE
from protocaffe.patterns_pooled import ConvolutionReLUPooling
from tests.support.backends import has_gpu
from tests.support.generic_backend import Generic
from tests.support.nets import make
from tests.test_fusion import XAVIER, conv, entry, ip, layer, one_pass, relu, same

PAIRS = "pooling_param { kernel_size: 2 stride: 2 }"


class Wide(Generic):
    """A CPU that convolves and fuses as a GPU does."""

    patterns = (ConvolutionReLUPooling, *PORTABLE)

    def convolution(self, ops: Any, shape: Any) -> Any:
        return batched.batched_convolution(ops, shape)

    def bind_launch(self, kernel: str, n: int, args: Any, work: int | None = None, rows: bool = False) -> Any:
        call = super().bind_launch(kernel, n, args, work, rows)
        return call if (n if work is None else work) else lambda: None  # a launch over nothing is none


class Own(CpuBackend):
    """A CPU with convolutions of its own that fuses as a GPU does."""

    patterns = (ConvolutionReLUPooling, *PORTABLE)


def pooled(shape, setting, head="", before="", pool=PAIRS):
    source = "h" if head else "data"
    text = entry(shape) + head
    text += layer(
        "Convolution", "c", source, "c", f"{before} convolution_param {{ num_output: 10 {XAVIER} {setting} }}"
    )
    return text + relu("r", "c", "c") + layer("Pooling", "p", "c", "p", pool)


HEAD = layer("Sigmoid", "h", "data", "h")
FROZEN = "param { lr_mult: 0 }"
#: text, kernel of the forward pass, kernel of the weights' gradient
CASES = {
    "grey images": (pooled((5, 1, 12, 10), "kernel_size: 5"), "direct"),
    "colour images": (pooled((3, 3, 8, 10), "kernel_size: 3"), "direct"),
    "one image": (pooled((1, 1, 5, 7), "kernel_h: 4 kernel_w: 2"), "direct"),
    "more images than chunks": (pooled((37, 1, 5, 5), "kernel_size: 2"), "direct"),
    "no image": (pooled((0, 1, 8, 8), "kernel_size: 5"), "direct, nothing"),
    "grey images with a gradient": (pooled((5, 1, 12, 10), "kernel_size: 5", HEAD), "direct, wide"),
    "no bias": (pooled((5, 1, 12, 10), "kernel_size: 5 bias_term: false"), "direct"),
    "frozen bias": (pooled((5, 1, 12, 10), "kernel_size: 5", before="param { } " + FROZEN), "direct"),
    "frozen weights": (pooled((5, 1, 12, 10), "kernel_size: 5", before=FROZEN), "direct, layers"),
    "padded": (pooled((5, 1, 6, 6), "kernel_size: 3 pad: 1"), "wide"),
    "many channels": (pooled((5, 7, 6, 8), "kernel_size: 3 pad: 1", HEAD), "wide"),
    "groups": (pooled((5, 8, 6, 8), "kernel_size: 3 pad: 1 group: 2", HEAD), "wide"),
    "wide, no bias": (pooled((5, 7, 6, 8), "kernel_size: 3 pad: 1 bias_term: false", HEAD), "wide"),
    "wide, frozen weights": (pooled((5, 7, 6, 8), "kernel_size: 3 pad: 1", before=FROZEN), "wide, layers"),
    "strided": (pooled((2, 7, 8, 8), "kernel_size: 2 stride: 2"), "wide"),
    "pointwise": (pooled((2, 17, 4, 8), "kernel_size: 1", HEAD), "layers"),
}


def with_more(text):
    """The net with a layer behind, so that the chain's top has a gradient."""
    text += ip("i", "p", "i") + layer("Softmax", "q", "i", "q", "loss_weight: 1")
    return text + ("force_backward: true" if HEAD in text else "")


def names_of(net):
    """Kernels of a whole pass."""
    numbers = tuple(range(len(net.layers)))
    return {
        call.name
        for plan, parts in zip(net.plans(), (numbers, numbers[::-1]), strict=True)
        for call in plan.calls(parts)
    }


def nets(text, backends, **kwargs):
    return [
        make(text, TRAIN, fuse=fuse, backend=backend, **kwargs)
        for fuse, backend in zip((False, True), backends, strict=True)
    ]


@pytest.mark.parametrize("way", ["whole", ("whole", "steps"), ("steps", "whole")], ids=str)
@pytest.mark.parametrize("room", [1 << 26, 2000], ids=["one chunk", "several chunks"])
@pytest.mark.parametrize("name", CASES)
def test_pooled_convolutions_leave_what_their_layers_leave(name, room, way, monkeypatch):
    monkeypatch.setattr(batched, "ROOM", room)
    text, how = CASES[name]
    plain, fused = nets(with_more(text), (CpuBackend("float64"), Wide("float64")))
    assert ["c", "r", "p"] in fused.fused_layers()
    for seed in (1, 2):
        one_pass(seed, plain, "steps")
        one_pass(seed, fused, way)
    same(plain, fused)
    if plain.blobs["c"].count:
        assert 0 < np.count_nonzero(fused.blobs["c"].diff) < plain.blobs["c"].count / 4
    names = names_of(fused)
    assert ("conv_pool_direct" in names) == ("direct" in how)
    assert ("conv_pool_epilogue" in names) == (how in ("wide", "wide, layers"))
    assert ("conv_pool_direct_gradient" in names) == (how == "direct")
    assert ("conv_pool_backward" in names) == ("layers" not in how or how == "layers")


@pytest.mark.parametrize("name", ["no image", "no image, wide"])
def test_no_image_has_no_gradient_whatever_lies_in_the_scratch_memory(name):
    text = CASES["no image"][0] if name == "no image" else pooled((0, 7, 6, 8), "kernel_size: 3 pad: 1", HEAD)
    net = make(with_more(text), TRAIN, backend=Wide("float64"))
    net.forward()
    net.plans()
    net._scratch.memory((1,), 1).storage.host()[...] = 7
    net.backward()
    assert ["c", "r", "p"] in net.fused_layers()
    assert not any(blob.diff.any() for blob in net.params["c"])


@pytest.mark.parametrize("name", ["grey images", "many channels", "groups"])
def test_a_device_with_convolutions_of_its_own(name):
    text, _ = CASES[name]
    plain, fused = nets(with_more(text), (CpuBackend("float64"), Own("float64")))
    for net in (plain, fused):
        one_pass(1, net)
    same(plain, fused)


@pytest.mark.parametrize(
    "text",
    [
        pooled((2, 1, 9, 9), "kernel_size: 3", pool="pooling_param { kernel_size: 2 stride: 2 }"),  # 7 x 7
        pooled((2, 1, 8, 8), "kernel_size: 3", pool="pooling_param { kernel_size: 3 stride: 2 }"),
        pooled((2, 1, 8, 8), "kernel_size: 3", pool="pooling_param { pool: AVE kernel_size: 2 stride: 2 }"),
        pooled((2, 1, 8, 8), "kernel_size: 3").replace("negative_slope: 0", "negative_slope: 0.1"),
        with_more(pooled((2, 1, 8, 8), "kernel_size: 3") + relu("again", "p", "p")),
        entry((2, 1, 8, 8)) + conv("c", "data", "c") + relu("r", "c", "r") + layer("Pooling", "p", "r", "p", PAIRS),
    ],
    ids=["odd planes", "overlapping", "averages", "leaky", "written over", "not in place"],
)
def test_other_chains_are_left_alone(text):
    fused = make(text, TRAIN, backend=Wide("float64"))
    assert ["c", "r", "p"] not in fused.fused_layers()


def test_not_a_number_reaches_the_loss_and_ties_go_to_the_first():
    options = 'num_output: 1 kernel_size: 1 bias_term: false weight_filler { type: "constant" value: 1 }'
    text = entry((1, 1, 4, 4)) + layer("Convolution", "c", "data", "c", f"convolution_param {{ {options} }}")
    text += relu("r", "c", "c") + layer("Pooling", "p", "c", "p", PAIRS)
    results = []
    for net in nets(text, (CpuBackend("float64"), Wide("float64"))):
        x = np.full((1, 1, 4, 4), 3.0)
        x[0, 0, 0, 1] = np.nan
        x[0, 0, 2:, :2] = -1
        net.forward(data=x)
        results.append((net.blobs["p"].data.copy(), net.layers[3].index.array.copy()))
    np.testing.assert_array_equal(results[0][0], results[1][0])
    np.testing.assert_array_equal(results[0][1], results[1][1])
    assert np.isnan(results[1][0][0, 0, 0, 0]) and results[1][1][0, 0].tolist() == [[1, 2], [8, 10]]


NLL = (
    'layer { name: "label" type: "Input" top: "label" input_param { shape { dim: 6 } } }'
    + entry((6, 5))
    + ip("i", "data", "i")
)


@pytest.mark.parametrize("way", ["whole", ("whole", "steps"), ("steps", "whole")], ids=str)
@pytest.mark.parametrize("top", ["q", "i"], ids=["apart", "in place"])
@pytest.mark.parametrize("option", ["", "loss_param { ignore_label: 3 }", "loss_param { normalization: NONE }"])
def test_log_softmax_and_its_loss(top, option, way):
    text = NLL + layer("LogSoftmax", "s", "i", top)
    text += f'layer {{ name: "l" type: "NLLLoss" bottom: "{top}" bottom: "label" top: "l" {option} }}'
    results = nets(text, (CpuBackend("float64"),) * 2)
    assert results[1].fused_layers() == [["s", "l"]]
    for net, (down, up) in zip(results, (("steps", "steps"), (way, way) if way == "whole" else way), strict=True):
        net.blobs["label"].data = [0, 3, 6, 3, 1, 2]
        net.blobs["data"].data = np.random.default_rng(0).normal(size=(6, 5))
        for run, how, names in ((net.forward, down, net._layer_names), (net.backward, up, net._layer_names[::-1])):
            if how == "whole":
                run()
            else:
                for name in names:
                    run(start=name, end=name)
    same(*results)
    assert results[1].blobs["i"].diff.any() and float(results[1].blobs["l"].data) > 0


def test_a_bad_label_is_found_by_the_fused_pass():
    text = NLL + layer("LogSoftmax", "s", "i", "q")
    text += 'layer { name: "l" type: "NLLLoss" bottom: "q" bottom: "label" top: "l" }'
    net = make(text, TRAIN)
    net.blobs["label"].data = [0, 3, 7, 3, 1, 2]
    with pytest.raises(Exception, match="label 7 is out of range: there are 7 classes, 0 to 6"):
        net.forward()


@pytest.mark.parametrize("rows", [1, 5, 70])
@pytest.mark.parametrize("more", ["", "transpose: true"])
def test_products_with_a_relu_and_a_dropout_behind(rows, more):
    text = entry((rows, 11)) + layer("Sigmoid", "h", "data", "h")
    text += layer("InnerProduct", "i", "h", "i", f"inner_product_param {{ num_output: 67 {XAVIER} {more} }}")
    text += relu("r", "i", "i") + layer("Dropout", "d", "i", "i")
    results = nets(text, (CpuBackend("float64"),) * 2)
    assert results[1].fused_layers() == [["i", "r"]]
    for net, way in zip(results, ("steps", "whole"), strict=True):
        one_pass(1, net, way)
    same(*results)


@pytest.mark.skipif(not has_gpu(), reason="there is no GPU here")
@pytest.mark.parametrize("name", CASES)
def test_pooled_convolutions_on_a_gpu(name):
    from protocaffe.backends import get_backend

    plain, fused = nets(with_more(CASES[name][0]), (CpuBackend("float64"), get_backend("cuda", "float64")))
    for seed in (1, 2):
        one_pass(seed, plain, "steps")
        one_pass(seed, fused)
    same(plain, fused)
