"""prune: what is printed and written, shares of single layers, errors."""

import numpy as np
import pytest

import protocaffe
from tests.support.backends import has_gpu

MODEL = "models/lenet/deploy.prototxt"


def net(path):
    return protocaffe.Net(MODEL, protocaffe.TEST, weights=str(path))


def test_masks_are_stored_and_match_the_zeros(cli, lenet, trained):
    result = cli("prune", "--model", MODEL, "--weights", trained, "--sparsity", "0.8", "--output", "p.caffemodel")
    assert result.code == 0
    assert "sparsity 80.00%: 344,400 zeros of 430,500 prunable weights" in result.out
    assert "non-zeros 86,680 of 431,080 parameters" in result.out or "non-zeros" in result.out
    before, after = net(trained), net("p.caffemodel")
    for name, blobs in after.params.items():
        weight, bias = blobs
        assert weight.mask is not None
        assert bias.mask is None
        assert np.array_equal(weight.mask, weight.data != 0)
        assert np.array_equal(weight.data[weight.mask], before.params[name][0].data[weight.mask])
        assert np.array_equal(bias.data, before.params[name][1].data)


@pytest.mark.parametrize("command", ["prune", "summary"])
def test_the_device_may_be_named(cli, lenet, trained, command):
    args = (command, "--model", MODEL, "--weights", trained)
    if command == "prune":
        args = (*args, "--sparsity", "0.8", "--output", "p.caffemodel")
    assert cli(*args, "--cpu").code == 0
    on_gpu = cli(*args, "-gpu", "0")
    if has_gpu():
        assert on_gpu.code == 0 and on_gpu.out == cli(*args, "--cpu").out
    else:
        assert on_gpu.code == 1 and on_gpu.err.startswith("error: --gpu 0: no GPU can be used here")


def test_layers_with_shares_of_their_own(cli, lenet, trained):
    result = cli("prune", "--model", MODEL, "--weights", trained, "--sparsity", "0.9", "--scope", "uniform",
                 "--layer", "conv1=0.5", "--layer", "ip2=0", "--output", "p.caffemodel")  # fmt: skip
    assert result.code == 0
    pruned = net("p.caffemodel")
    zeros = {name: int((~blobs[0].mask).sum()) for name, blobs in pruned.params.items() if blobs[0].mask is not None}
    assert zeros["conv1"] == 250
    assert zeros.get("ip2", 0) == 0
    assert zeros["ip1"] == 360000


def test_pruning_goes_on_from_the_masks_that_are_there(cli, lenet, trained):
    cli("prune", "--model", MODEL, "--weights", trained, "--sparsity", 0.5, "--output", "half.caffemodel")
    cli("prune", "--model", MODEL, "--weights", "half.caffemodel", "--sparsity", 0.9, "--output", "more.caffemodel")
    half, more = net("half.caffemodel"), net("more.caffemodel")
    for name in half.params:
        assert not (more.params[name][0].mask & ~half.params[name][0].mask).any()


@pytest.mark.parametrize(
    ("options", "needle"),
    [
        (["--sparsity", "1.5"], "sparsity must be a share in [0, 1), got 1.5"),
        (["--sparsity", "0.9", "--layer", "conv9=0.5"], 'no prunable layer "conv9"'),
        (["--sparsity", "0.9", "--layer", "conv1"], '--layer must be NAME=SHARE such as conv1=0.5, got "conv1"'),
        (["--sparsity", "0.99", "--min-keep", "0.2"], "min_keep"),
    ],
)
def test_errors(cli, lenet, trained, options, needle):
    result = cli("prune", "--model", MODEL, "--weights", trained, "--output", "p.caffemodel", *options)
    assert result.code == 1
    assert result.err.startswith("error: ")
    assert needle in result.err
    assert not (lenet / "p.caffemodel").exists()
