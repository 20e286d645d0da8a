"""shrink: what is written and printed, other prototxts, images, recalibration, errors."""

from pathlib import Path

import numpy as np
import pytest

import protocaffe
from protocaffe.cli.shrink import pairs
from protocaffe.errors import ParameterError
from protocaffe.io import parse_net, read_net
from protocaffe.pruning import recalibrate
from tests.support.shrinking import prune_by_l1, prune_channels

MODEL = "models/lenet/deploy.prototxt"
OUT = ("--output-model", "small.prototxt", "--output", "small.caffemodel")


@pytest.fixture
def pruned(lenet, trained):
    """LeNet with half of its channels pruned."""
    net = protocaffe.Net(MODEL, weights=str(trained))
    prune_by_l1(net, 0.5, ["ip2"])
    net.save("pruned.caffemodel")
    return net


def test_a_smaller_net_is_written(cli, pruned):
    result = cli("shrink", "--model", MODEL, "--weights", "pruned.caffemodel", *OUT,
                 "--also", "models/lenet/train_val.prototxt=small_train.prototxt")  # fmt: skip
    assert result.code == 0, result.err
    assert (
        "parameters 431,080 -> 109,295 (3.94x fewer); multiply-accumulates an item 2,293,000 -> 646,500" in result.out
    )
    assert "removed 285 channels; of 285 pruned ones 0 stay" in result.out
    assert "500 -> 250" in result.out and "largest relative difference of the outputs" in result.out
    small = protocaffe.Net("small.prototxt", weights="small.caffemodel")
    assert small.params["ip1"][0].shape == (250, 400) and small.params["conv2"][0].mask is None
    image = np.random.default_rng(0).random((64, 1, 28, 28))
    assert np.allclose(small.forward(data=image)["prob"], pruned.forward(data=image)["prob"], atol=1e-6)
    train = protocaffe.Net("small_train.prototxt", protocaffe.TRAIN, weights="small.caffemodel")
    assert train.params["ip2"][0].shape == (10, 250)
    train.close()
    assert cli("test", "--model", "small_train.prototxt", "--weights", "small.caffemodel", "--iterations", 2).code == 0


def test_a_solver_file_alone_prunes_outputs_that_go(cli, lenet):
    solver = (lenet / "s.prototxt").read_text()
    more = "pruning_param { method: L1_CHANNELS sparsity: 0.5 scope: UNIFORM bias: true end_step: 6 frequency: 3 }"
    (lenet / "s.prototxt").write_text(f'{solver}\n{more}\nsnapshot_prefix: "net"')
    assert cli("train", "--solver", "s.prototxt").code == 0
    result = cli("shrink", "--model", MODEL, "--weights", "net_iter_10.caffemodel", *OUT)
    assert result.code == 0, result.err
    small = protocaffe.Net("small.prototxt", weights="small.caffemodel")
    assert [blobs[0].shape[0] for blobs in small.params.values()] == [10, 25, 250, 10]


def test_hdf5_in_and_out(cli, pruned):
    pruned.save("pruned.caffemodel.h5")
    for name, blobs in pruned.params.items():
        assert name == "ip2" or (blobs[0].data == 0).any()
    result = cli("shrink", "--model", MODEL, "--weights", "pruned.caffemodel.h5",
                 "--output-model", "small.prototxt", "--output", "small.caffemodel.h5")  # fmt: skip
    assert result.code == 0, result.err
    assert protocaffe.Net("small.prototxt", weights="small.caffemodel.h5").params["ip1"][0].shape == (250, 400)


def test_a_net_with_data_layers(cli, pruned):
    result = cli("shrink", "--model", "models/lenet/train_val.prototxt", "--weights", "pruned.caffemodel", *OUT)
    assert result.code == 0, result.err
    assert [x.name for x in read_net("small.prototxt").layer] == [
        x.name for x in read_net("models/lenet/train_val.prototxt").layer
    ]


NORMED = """
layer {{ name: "data" type: "Data" top: "data" top: "label" transform_param {{ scale: 0.00390625 }}
        data_param {{ source: "{source}" backend: LMDB batch_size: 20 }} }}
layer {{ name: "a" type: "Convolution" bottom: "data" top: "a" convolution_param {{ num_output: 8 kernel_size: 5
        weight_filler {{ type: "xavier" }} bias_term: false }} }}
layer {{ name: "bn" type: "BatchNorm" bottom: "a" top: "bn" }}
layer {{ name: "sc" type: "Scale" bottom: "bn" top: "bn" scale_param {{ bias_term: true }} }}
layer {{ name: "r" type: "ReLU" bottom: "bn" top: "bn" }}
layer {{ name: "b" type: "Convolution" bottom: "bn" top: "b" convolution_param {{ num_output: 4 kernel_size: 3 pad: 1
        weight_filler {{ type: "xavier" }} }} }}
layer {{ name: "c" type: "InnerProduct" bottom: "b" top: "c" inner_product_param {{ num_output: 10
        weight_filler {{ type: "xavier" }} }} }}
layer {{ name: "loss" type: "SoftmaxWithLoss" bottom: "c" bottom: "label" top: "loss" }}
"""


@pytest.fixture
def normed(lenet):
    """A net with BatchNorm; four of its filters are pruned, their shifts are above 0."""
    source = next(x for x in read_net("models/lenet/train_val.prototxt").layer).data_param.source
    with open("normed.prototxt", "w") as file:
        file.write(NORMED.format(source=source))
    net = protocaffe.Net("normed.prototxt", seed=3)
    net.params["bn"][0].data, net.params["bn"][1].data, net.params["bn"][2].data = 0.1, 1, 1
    net.params["sc"][1].data = np.linspace(0.2, 1, 8)
    prune_channels(net.layer_dict["a"], [0, 3, 5, 6])
    net.save("normed.caffemodel")
    net.close()


def test_statistics_are_estimated_anew(cli, normed):
    result = cli("shrink", "--model", "normed.prototxt", "--weights", "normed.caffemodel", *OUT,
                 "--recalibrate", "normed.prototxt", "--batches", 3)  # fmt: skip
    assert result.code == 0, result.err
    assert "BatchNorm statistics were estimated anew after that" in result.out
    assert 'stays: 1 pruned of a: layer "b" (Convolution) reads it' in result.out
    net = protocaffe.Net("small.prototxt", protocaffe.TEST, weights="small.caffemodel", seed=0)
    assert net.params["a"][0].shape == (5, 1, 5, 5)
    batches = [np.array(net.forward(["a"])["a"], np.float64) for _ in range(3)]
    mean = np.mean([x.mean((0, 2, 3)) for x in batches], 0)
    variance = np.mean([x.var((0, 2, 3), ddof=1) for x in batches], 0)
    assert np.allclose(net.params["bn"][0].data, mean, rtol=1e-4, atol=1e-6)
    assert np.allclose(net.params["bn"][1].data, variance, rtol=1e-4, atol=1e-8)
    assert net.params["bn"][2].data == 1
    net.close()


def test_recalibration_needs_batch_norm_and_batches(lenet):
    net = parse_net('layer { name: "d" type: "Input" top: "d" input_param { shape { dim: 2 } } }')
    with pytest.raises(ParameterError, match="has no BatchNorm layer"):
        recalibrate(net, [], 2)
    with pytest.raises(ParameterError, match="at least 1 batch"):
        recalibrate(net, [], 0)


def test_force_writes_what_the_check_refuses(cli, normed):
    args = ("shrink", "--model", "normed.prototxt", "--weights", "normed.caffemodel", *OUT)
    result = cli(*args, "--force")
    assert result.code == 0, result.err
    assert 'inexact (--force): layer "b" (Convolution)' in result.out
    assert protocaffe.Net("small.prototxt").params["a"][0].shape == (4, 1, 5, 5)


def test_nothing_is_written_where_the_outputs_differ(cli, pruned, monkeypatch):
    from protocaffe.pruning import compare

    monkeypatch.setattr(compare, "largest_difference", lambda one, two, inputs: 2e-5)
    args = ("shrink", "--model", MODEL, "--weights", "pruned.caffemodel", *OUT)
    result = cli(*args)
    assert result.code == 1
    assert result.err == (
        "error: shrink: largest relative difference of the outputs: 2.0e-05 on random input; at most 1e-05 is allowed "
        "(--force writes the net all the same)\n"
    )
    assert not any(Path(name).exists() for name in ("small.prototxt", "small.caffemodel"))
    assert cli(*args, "--force").code == 0


@pytest.mark.parametrize(
    ("change", "needle"),
    [
        ({"--weights": "nowhere.caffemodel"}, "nowhere.caffemodel: No such file or directory"),
        ({"--model": "models/lenet_300_100/deploy.prototxt"}, "ip1"),
        ({"--also": "models/lenet/train_val.prototxt"}, "--also must be FILE=OUTPUT"),
        ({"--recalibrate": "models/lenet/train_val.prototxt"}, "has no BatchNorm layer"),
        ({"--images": "nowhere"}, "nowhere"),
    ],
)
def test_errors_are_one_line(cli, pruned, change, needle):
    options = {"--model": MODEL, "--weights": "pruned.caffemodel"} | change
    result = cli("shrink", *(x for pair in options.items() for x in pair), *OUT)
    assert result.code == 1 and result.err.startswith("error: ") and result.err.count("\n") == 1
    assert needle in result.err


def test_pairs():
    assert pairs(("a.prototxt=b.prototxt",)) == [("a.prototxt", "b.prototxt")]
    with pytest.raises(ParameterError, match="FILE=OUTPUT"):
        pairs(("a.prototxt=",))
