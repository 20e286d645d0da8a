"""compress and decompress: files that other commands read, what is printed, errors in one line."""

import numpy as np
import pytest

import protocaffe
from protocaffe.io import read_net

MODEL = "models/lenet/train_val.prototxt"


def test_prune_quantise_test_and_finetune(cli, lenet, trained):
    result = cli("compress", "--model", MODEL, "--weights", trained, "--sparsity", "0.95", "--bits", "4",
                 "--bits", "conv1=6", "--output", "a.pcz")  # fmt: skip
    assert result.code == 0, result.err
    assert "sparsity 95.00%: 408,975 zeros of 430,500 prunable weights" in result.out
    size = (lenet / "a.pcz").stat().st_size
    assert f"wrote a.pcz: {size:,} bytes" in result.out
    assert size < 25_000
    net = protocaffe.Net(MODEL, protocaffe.TEST, weights="a.pcz")
    assert 17 < len(np.unique(net.params["conv1"][0].data)) <= 65
    assert len(np.unique(net.params["ip1"][0].data)) <= 17
    assert net.params["ip1"][0].mask is not None

    tested = cli("test", "--model", "a.pcz", "--weights", "a.pcz", "--iterations", "1")
    assert tested.code == 0, tested.err
    assert "accuracy = " in tested.out
    tuned = cli(
        "finetune", "--solver", "s.prototxt", "--weights", "a.pcz", "--iterations", "2", "--output", "t.caffemodel"
    )
    assert tuned.code == 0, tuned.err
    assert "4 code books are tuned" in tuned.out
    after = protocaffe.Net(MODEL, protocaffe.TEST, weights="t.caffemodel")
    assert len(np.unique(after.params["ip1"][0].data)) <= 17
    assert not np.array_equal(after.params["ip1"][0].data, net.params["ip1"][0].data)
    assert np.array_equal(after.params["ip1"][0].mask, net.params["ip1"][0].mask)


def test_a_compressed_model_is_a_net_with_its_weights_and_can_be_shrunk(cli, lenet, trained):
    args = ("--model", "models/lenet/deploy.prototxt", "--weights", trained)
    pruned = cli("prune", *args, "--method", "l1-channels", "--scope", "uniform", "--sparsity", "0.5", "--bias",
                 "--output", "p.caffemodel")  # fmt: skip
    assert pruned.code == 0, pruned.err
    made = cli("compress", "--model", "models/lenet/deploy.prototxt", "--weights", "p.caffemodel", "--output", "a.pcz")
    alone, given = protocaffe.Net("a.pcz", protocaffe.TEST), protocaffe.Net("a.pcz", protocaffe.TEST, weights="a.pcz")
    count = 0
    for name, blobs in given.params.items():
        for one, other in zip(alone.params[name], blobs, strict=True):
            assert np.array_equal(one.data, other.data)
            count += np.count_nonzero(one.data)
    assert f"non-zeros {count:,} of 431,080 parameters" in made.out
    shrunk = cli(
        "shrink", "--model", "a.pcz", "--weights", "a.pcz", "--output-model", "s.prototxt", "--output", "s.caffemodel"
    )
    assert shrunk.code == 0, shrunk.err
    assert protocaffe.Net("s.prototxt", protocaffe.TEST, weights="s.caffemodel").params["conv1"][0].shape[0] == 10


@pytest.mark.parametrize("suffix", ["caffemodel", "caffemodel.h5"])
def test_decompress_gives_the_net_and_the_weights(cli, lenet, trained, suffix):
    assert (
        cli("prune", "--model", MODEL, "--weights", trained, "--sparsity", "0.99", "--output", "p.caffemodel").code == 0
    )
    assert cli("compress", "--model", MODEL, "--weights", "p.caffemodel", "--bits", "0", "--bias-bits", "0",
               "--output", "a.pcz").code == 0  # fmt: skip
    result = cli("decompress", "--weights", "a.pcz", "--output", f"b.{suffix}", "--model", "b.prototxt")
    assert result.code == 0, result.err
    assert read_net("b.prototxt") == read_net(MODEL)
    a, b = (protocaffe.Net("b.prototxt", protocaffe.TEST, weights=name) for name in ("p.caffemodel", f"b.{suffix}"))
    for one, other in zip(a.learnable_params, b.learnable_params, strict=True):
        assert np.array_equal(one.data, other.data)
        assert (one.mask is None) == (other.mask is None)
        assert one.mask is None or np.array_equal(one.mask, other.mask)


@pytest.mark.parametrize(
    ("args", "complaint"),
    [
        (("--bits", "9"), "bits must be from 0 to 8, got 9"),
        (("--bits", "x"), '--bits must be a number or NAME=NUMBER such as conv1=8, got "x"'),
        (("--bits", "=3"), '--bits must be a number or NAME=NUMBER such as conv1=8, got "=3"'),
        (("--bits", "conv9=3"), 'no layer "conv9" with weights for a code book; did you mean'),
        (("--sparsity", "1"), "sparsity must be a share in [0, 1), got 1"),
    ],
)
def test_wrong_options(cli, lenet, trained, args, complaint):
    result = cli("compress", "--model", MODEL, "--weights", trained, "--output", "a.pcz", *args)
    assert result.code == 1
    assert complaint in result.err
    assert len(result.err.splitlines()) == 1
    assert not (lenet / "a.pcz").exists()


def test_wrong_files(cli, lenet, trained):
    result = cli("decompress", "--weights", trained, "--output", "b.caffemodel")
    assert result.code == 1
    assert result.err == f'error: "{trained}" is no compressed model: it does not begin as one\n'
    result = cli("decompress", "--weights", trained)
    assert result.err == "error: give --output for the weights, --model for the net, or both\n"
    (lenet / "bad.pcz").write_bytes(b"\x89PCZ\x01" + bytes(50))
    for command in (("decompress", "--output", "x"), ("test", "--model", MODEL)):
        result = cli(*command, "--weights", "bad.pcz")
        assert (result.code, result.err.splitlines()[-1]) == (
            1, 'error: "bad.pcz" is damaged or cut short: its checksum is wrong')  # fmt: skip
