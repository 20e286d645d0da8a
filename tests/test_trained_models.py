"""Models that others trained with Caffe and its forks (tests/trained), against what the real Caffe computed."""

from __future__ import annotations

import gzip
from pathlib import Path

import h5py
import numpy as np
import pytest

import protocaffe
from protocaffe.errors import FileFormatError
from protocaffe.io import parse_net, parse_solver, read_caffemodel, read_mean
from protocaffe.pruning import sparsity_of_net
from protocaffe.resources import resource_path

FOLDER = Path(__file__).parent / "trained"


def chain(shape: tuple[int, ...], *layers: str) -> str:
    """A prototxt of layers, each reading the one before: "name Type options", and "*" in front of what is in place."""
    dims = " ".join(f"dim: {d}" for d in shape)
    out = [f'layer {{ name: "data" type: "Input" top: "data" input_param {{ shape {{ {dims} }} }} }}']
    bottom = "data"
    for layer in layers:
        name, kind, options = (layer.lstrip("*") + "  ").split(" ", 2)
        top = bottom if layer.startswith("*") else name
        out.append(f'layer {{ name: "{name}" type: "{kind}" bottom: "{bottom}" top: "{top}" {options} }}')
        bottom = top
    return "\n".join(out)


def conv(outputs: int, kernel: int, pad: int = 0) -> str:
    return f"convolution_param {{ num_output: {outputs} kernel_size: {kernel} pad: {pad} }}"


def pool(how: str, kernel: int, stride: int) -> str:
    return f"pooling_param {{ pool: {how} kernel_size: {kernel} stride: {stride} }}"


def full(outputs: int) -> str:
    return f"inner_product_param {{ num_output: {outputs} }}"


NORM = "lrn_param { local_size: 3 alpha: 5e-5 beta: 0.75 norm_region: WITHIN_CHANNEL }"
CIFAR = chain(
    (4, 3, 32, 32), f"conv1 Convolution {conv(32, 5, 2)}", f"pool1 Pooling {pool('MAX', 3, 2)}", "*relu1 ReLU",
    f"norm1 LRN {NORM}", f"conv2 Convolution {conv(32, 5, 2)}", "*relu2 ReLU", f"pool2 Pooling {pool('AVE', 3, 2)}",
    f"norm2 LRN {NORM}", f"conv3 Convolution {conv(64, 5, 2)}", "*relu3 ReLU", f"pool3 Pooling {pool('AVE', 3, 2)}",
    f"ip1 InnerProduct {full(10)}", "prob Softmax",
)  # fmt: skip
LENET = chain(
    (8, 1, 28, 28), f"conv1 Convolution {conv(20, 5)}", f"pool1 Pooling {pool('MAX', 2, 2)}",
    f"conv2 Convolution {conv(50, 5)}", f"pool2 Pooling {pool('MAX', 2, 2)}", f"ip1 InnerProduct {full(500)}",
    "*relu1 ReLU", f"ip2 InnerProduct {full(10)}", "prob Softmax",
)  # fmt: skip
HALF = chain(
    (1, 3, 16, 66), f"conv1 Convolution {conv(10, 3)}", "*relu1 ReLU",
    f"max_pooling2d_3 Pooling {pool('MAX', 2, 2)}", f"conv2 Convolution {conv(16, 3)}", "*relu2 ReLU",
    f"conv3 Convolution {conv(32, 3)}", "*relu3 ReLU", "flatten_2 Flatten", f"dense InnerProduct {full(2)}",
    "*relu4 ReLU",
)  # fmt: skip
NETS = {"cifar10_full": CIFAR, "lenet_v1": LENET, "fp16_raw_data": HALF}


@pytest.mark.parametrize("name", NETS)
def test_outputs_are_those_of_the_real_caffe(name):
    net = protocaffe.Net(parse_net(NETS[name]), protocaffe.TEST, weights=FOLDER / f"{name}.caffemodel")
    with np.load(FOLDER / f"{name}_io.npz") as stored:
        net.forward(data=stored["input"])
        for blob in set(stored.files) - {"input"}:
            scale = max(1.0, float(np.abs(stored[blob]).max()))  # probabilities to 1e-4, larger values relatively
            np.testing.assert_allclose(net.blobs[blob].data, stored[blob], atol=1e-4 * scale, err_msg=blob)


def test_hdf5_weights_are_those_in_the_file_and_of_another_run():
    """See tests/trained/README.md: the two forms hold the weights of two runs."""
    other, net = (
        protocaffe.Net(parse_net(CIFAR), protocaffe.TEST, weights=FOLDER / f"cifar10_full.caffemodel{end}")
        for end in ("", ".h5")
    )
    with h5py.File(FOLDER / "cifar10_full.caffemodel.h5") as file:
        for name, blobs in net.params.items():
            for i, blob in enumerate(blobs):
                np.testing.assert_array_equal(blob.data, file[f"data/{name}/{i}"][()])
    assert np.abs(other.params["conv1"][0].data - net.params["conv1"][0].data).max() > 1


def restored(text, state):
    """A solver that trains the net without its Softmax towards ten numbers, with ``state`` restored."""
    param = parse_solver('base_lr: 1e-5 lr_policy: "fixed" momentum: 0.9 weight_decay: 0.004')
    param.net_param.CopyFrom(parse_net(text))
    scores, prob = param.net_param.layer[-2:]
    assert prob.type == "Softmax"
    del param.net_param.layer[-1]
    rows = param.net_param.layer[0].input_param.shape[0].dim[0]
    target = 'layer {{ name: "t" type: "Input" top: "target" input_param {{ shape {{ dim: {} dim: 10 }} }} }}'
    loss = 'layer {{ name: "loss" type: "EuclideanLoss" bottom: "{}" bottom: "target" top: "loss" }}'
    param.net_param.MergeFrom(parse_net(target.format(rows) + loss.format(scores.top[0])))
    solver = protocaffe.get_solver(param)
    solver.restore(state)
    return solver


@pytest.mark.parametrize("end", ["", ".h5"])
def test_solver_states_are_restored(end, tmp_path):
    # the state names its weights by a path of its own time: they lie beside it under that name
    name = f"cifar10_full_iter_70000.caffemodel{end}"
    (tmp_path / name).write_bytes((FOLDER / f"cifar10_full.caffemodel{end}").read_bytes())
    state = tmp_path / f"cifar10_full_iter_70000.solverstate{end}"
    state.write_bytes((FOLDER / f"cifar10_full.solverstate{end}").read_bytes())
    solver = restored(CIFAR, state)
    assert solver.iter == 70000
    plain = protocaffe.Net(parse_net(CIFAR), protocaffe.TEST, weights=tmp_path / name)
    for layer, blobs in plain.params.items():
        for a, b in zip(blobs, solver.net.params[layer], strict=True):
            np.testing.assert_array_equal(a.data, b.data)
    assert all(0 < np.abs(h).max() < 1e-4 for h in solver.masked_history())
    solver.step(1)
    assert np.isfinite(solver.smoothed_loss)


def test_a_net_pruned_by_surgery_gets_its_masks_from_zeros(tmp_path):
    path = tmp_path / "sparse.caffemodel"
    path.write_bytes(gzip.decompress((FOLDER / "dns_lenet5_sparse.caffemodel.gz").read_bytes()))
    stored = {w.name: w.blobs for w in read_caffemodel(path) if w.blobs}
    assert {n: np.count_nonzero(b[0]) for n, b in stored.items()} == {
        "conv1": 72,
        "conv2": 770,
        "ip1": 2920,
        "ip2": 215,
    }
    net = protocaffe.Net(resource_path("models") / "lenet" / "deploy.prototxt", protocaffe.TEST, weights=path)
    report = sparsity_of_net(net)
    assert (report.nonzeros, report.parameters) == (3993, 431080)
    assert net.masks_from_zeros() == 430500 - (72 + 770 + 2920 + 215)
    assert sparsity_of_net(net).nonzeros == 3993


def test_the_mean_of_cifar10_is_read_and_a_corrupt_one_refused():
    mean = read_mean(FOLDER / "cifar10_mean.binaryproto")
    assert mean.shape == (3, 32, 32) and 100 < mean.mean() < 140
    with pytest.raises(FileFormatError, match=r'corrupt_mean\.binaryproto" is not a valid binaryproto'):
        read_mean(FOLDER / "corrupt_mean.binaryproto")
