"""prune --images: a folder without labels; what is printed, what is written, errors."""

import re

import numpy as np
import pytest
from PIL import Image

import protocaffe
from protocaffe.data.datum import decode_datum
from protocaffe.data.datum_source import open_database

MODEL = "models/lenet/deploy.prototxt"


@pytest.fixture(scope="session")
def digits(tmp_path_factory, sample):
    """Sixty digits of the sample as PNG files, without their labels."""
    folder = tmp_path_factory.mktemp("digits")
    reader = open_database(sample / "mnist_train_lmdb")
    for i in range(60):
        Image.fromarray(decode_datum(reader.read(i))[0][0]).save(folder / f"{i}.png")
    reader.close()
    return folder


def prune(cli, trained, *args):
    return cli("prune", "--model", MODEL, "--weights", trained, "--scope", "uniform", "--scale", 1 / 256,
               "--output", "p.caffemodel", *args)  # fmt: skip


def table(text):
    """{what: (verdicts in %, KL, error)} of the report."""
    rows = re.findall(r"^\s+(pruned|\+ \w+) +ip2 +([\d.]+)% +([\d.]+) +([\d.]+)\s*$", text, re.MULTILINE)
    return {row[0]: tuple(float(v) for v in row[1:]) for row in rows}


def net(path):
    return protocaffe.Net(MODEL, protocaffe.TEST, weights=str(path))


def test_reconstruction_and_distillation_bring_a_net_nearer(cli, lenet, trained, digits):
    plain = cli("prune", "--model", MODEL, "--weights", trained, "--scope", "uniform", "--sparsity", "0.9",
                "--output", "plain.caffemodel")  # fmt: skip
    result = prune(cli, trained, "--sparsity", "0.9", "--images", digits, "--reconstruct", "--distill", 40)
    assert result.code == 0, result.err
    assert "agreement with the original on 12 images that nothing was fitted to" in result.out
    found = table(result.out)
    assert list(found) == ["pruned", "+ reconstruction", "+ distillation"]
    assert found["+ reconstruction"][2] < 0.6 * found["pruned"][2]
    assert found["+ distillation"][1] < found["pruned"][1]
    assert re.search(r"conv2: squared error of its outputs [\d.]+ -> [\d.]+ of their variance", result.out)
    assert "distillation: 40 iterations, loss" in result.out
    before, after = net("plain.caffemodel"), net("p.caffemodel")
    for name, (weight, _) in after.params.items():
        assert np.array_equal(weight.mask, before.params[name][0].mask)  # the masks are those of pruning alone
        assert not weight.data[~weight.mask].any()
        assert not np.array_equal(weight.data, before.params[name][0].data)
    assert all(line in result.out for line in plain.out.splitlines()[:-1])


def test_the_printed_agreement_is_that_of_the_written_net(cli, lenet, trained, digits):
    from protocaffe.io.image_folder import Preprocessing, list_images, read_images

    result = prune(cli, trained, "--sparsity", "0.9", "--images", digits, "--reconstruct")
    images = read_images(list_images(digits), (1, 1, 28, 28), Preprocessing(scale=1 / 256))
    held = images[np.random.default_rng(0).permutation(60)[:12]]
    p0, p = (net(path).forward_all(data=held)["prob"].astype(np.float64) for path in (trained, "p.caffemodel"))
    same, kl, _ = table(result.out)["+ reconstruction"]
    assert same == pytest.approx(100 * (p0.argmax(1) == p.argmax(1)).mean(), abs=0.006)
    assert kl == pytest.approx((p0 * np.log(p0 / p)).sum(1).mean(), abs=1e-4)


def test_images_alone_measure_and_change_nothing(cli, lenet, trained, digits):
    result = prune(cli, trained, "--sparsity", "0.5", "--images", digits, "--max-images", 20)
    assert "on 4 images" in result.out and list(table(result.out)) == ["pruned"]
    cli("prune", "--model", MODEL, "--weights", trained, "--sparsity", "0.5", "--scope", "uniform", "--output", "q")
    with open("p.caffemodel", "rb") as a, open("q", "rb") as b:
        assert a.read() == b.read()


def test_channels_go_by_what_images_say(cli, lenet, trained, digits):
    channels = ("--sparsity", "0.7", "--bias", "--images", digits)
    shown = {
        method: prune(cli, trained, "--method", method, *channels) for method in ("l1-channels", "effect-channels")
    }
    assert all(result.code == 0 for result in shown.values())
    assert "conv1: 6 of 20 outputs are left\nconv2: 15 of 50" in shown["effect-channels"].out
    assert table(shown["effect-channels"].out)["pruned"][1] < table(shown["l1-channels"].out)["pruned"][1]
    assert not net("p.caffemodel").params["conv1"][1].mask.all()


def test_the_mean_may_be_a_file(cli, lenet, trained, digits):
    from protocaffe.io import write_mean

    write_mean("m.binaryproto", np.full((1, 28, 28), 33.0, np.float32))
    np.save("m.npy", np.full((1, 28, 28), 33.0))
    shown = [
        prune(cli, trained, "--sparsity", "0.9", "--images", digits, "--mean", mean).out
        for mean in ("33", "m.binaryproto", "m.npy")
    ]
    assert shown[0] == shown[1] == shown[2]
    assert table(shown[0]) != table(prune(cli, trained, "--sparsity", "0.9", "--images", digits).out)


@pytest.mark.parametrize(
    ("options", "needle"),
    [
        (["--reconstruct"], "--reconstruct needs --images"),
        (["--method", "effect-channels"], "--method effect-channels needs --images"),
        (["--distill", "5"], "--distill needs --images"),
        (["--images", "empty"], '"empty" holds no images'),
        (["--images", "nowhere"], "nowhere: No such file"),
        (["--images", "few"], '"few" holds 3 images: at least 5 are needed'),
        (["--images", "broken"], '4.png" is no image that can be read'),
        (["--images", "few", "--mean", "a,b"], '--mean must be numbers such as 104,117,123, or a file, got "a,b"'),
        (["--images", "digits", "--mean", "1,2,3"], "the mean"),
        (["--images", "digits", "--swap", "2,1,0"], "the channel swap"),
        (["--images", "digits", "--resize", "20"], "cannot cut 28 x 28"),
        (["--images", "digits", "--resize", "2,3,4"], "--resize must be a height and a width"),
        (["--images", "digits", "--model", "models/lenet/train_val.prototxt"], "give a deploy prototxt"),
    ],
)
def test_errors(cli, lenet, trained, digits, options, needle):
    (lenet / "digits").symlink_to(digits)
    for name, count in (("empty", 0), ("few", 3), ("broken", 5)):
        (lenet / name).mkdir()
        for i in range(count):
            content = (digits / f"{i}.png").read_bytes()
            (lenet / name / f"{i}.png").write_bytes(content[:60] if (name, i) == ("broken", 4) else content)
    result = prune(cli, trained, "--sparsity", "0.9", *options)
    assert result.code == 1
    assert result.err.startswith("error: ")
    assert needle in result.err
    assert not (lenet / "p.caffemodel").exists()


@pytest.mark.parametrize("option", ["--ridge", "--distill-rate"])
def test_usage_errors(cli, trained, option):
    result = prune(cli, trained, "--sparsity", "0.9", "--images", ".", option, 0)
    assert result.code == 2 and f"'{option}': 0.0 is not in the range x>0" in result.err
