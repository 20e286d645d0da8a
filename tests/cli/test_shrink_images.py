"""shrink --images: the small net brought nearer to the original without labels; what is printed, errors."""

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import protocaffe
from protocaffe.data.datum import decode_datum
from protocaffe.data.datum_source import open_database
from protocaffe.io import parse_net
from protocaffe.pruning import PruningArguments, prune_by

MODEL = "models/lenet/deploy.prototxt"
OUT = ("--output-model", "small.prototxt", "--output", "small.caffemodel")


@pytest.fixture(scope="session")
def digits(tmp_path_factory, sample):
    """Digits of the sample as PNG files: 60 in one folder, 40 in another."""
    root = tmp_path_factory.mktemp("digits")
    reader = open_database(sample / "mnist_train_lmdb")
    for i in range(100):
        folder = root / ("fit" if i < 60 else "held")
        folder.mkdir(exist_ok=True)
        Image.fromarray(decode_datum(reader.read(i))[0][0]).save(folder / f"{i}.png")
    reader.close()
    return root


@pytest.fixture
def pruned(lenet, trained):
    """LeNet with 70 % of its channels pruned."""
    net = protocaffe.Net(MODEL, weights=str(trained))
    prune_by(net, PruningArguments("l1-channels", "uniform", 0.7), with_bias=True)
    net.save("pruned.caffemodel")


def shrink(cli, *args, model=MODEL):
    return cli("shrink", "--model", model, "--weights", "pruned.caffemodel", "--scale", 1 / 256, *OUT, *args)


def table(text):
    """{what: (verdicts in %, KL, error)} of the report."""
    rows = re.findall(r"^\s+(pruned|\+ \w+) +\w+ +([\d.]+)% +([\d.]+) +([\d.]+)\s*$", text, re.MULTILINE)
    return {row[0]: tuple(float(v) for v in row[1:]) for row in rows}


def test_the_small_net_comes_nearer_to_the_original(cli, pruned, trained, digits):
    plain = shrink(cli)
    assert plain.code == 0, plain.err
    before = protocaffe.Net("small.prototxt", weights="small.caffemodel")
    result = shrink(cli, "--images", digits / "fit", "--held-out", digits / "held", "--original", trained,
                    "--reconstruct", "--distill", 40, "--distill-at", "ip2")  # fmt: skip
    assert result.code == 0, result.err
    assert "agreement with the original on 40 images that nothing was fitted to" in result.out
    assert "on the images" in result.out
    found = table(result.out)
    assert list(found) == ["pruned", "+ reconstruction", "+ distillation"]
    assert found["+ reconstruction"][2] < 0.6 * found["pruned"][2]
    assert found["+ distillation"][2] < found["+ reconstruction"][2]
    assert found["+ distillation"][0] > found["pruned"][0]
    for name in ("conv1", "conv2", "ip1", "ip2"):  # those that only read fewer inputs, too
        assert re.search(rf"^{name}: squared error of its outputs [\d.]+ -> [\d.]+ of their", result.out, re.MULTILINE)
    after = protocaffe.Net("small.prototxt", weights="small.caffemodel")
    assert after.params["conv1"][0].shape == (6, 1, 5, 5) and after.params["ip2"][0].shape == (10, 150)
    assert not np.array_equal(before.params["ip2"][0].data, after.params["ip2"][0].data)


def test_the_printed_agreement_is_that_of_the_written_net(cli, pruned, trained, digits):
    from protocaffe.io.image_folder import Preprocessing, list_images, read_images

    result = shrink(cli, "--images", digits / "fit", "--held-out", digits / "held", "--original", trained,
                    "--reconstruct")  # fmt: skip
    held = read_images(list_images(digits / "held"), (1, 1, 28, 28), Preprocessing(scale=1 / 256))
    dense = protocaffe.Net(MODEL, weights=str(trained))
    small = protocaffe.Net("small.prototxt", weights="small.caffemodel")
    p0, p = (net.forward_all(data=held)["prob"].astype(np.float64) for net in (dense, small))
    same, kl, _ = table(result.out)["+ reconstruction"]
    assert same == pytest.approx(100 * (p0.argmax(1) == p.argmax(1)).mean(), abs=0.006)
    assert kl == pytest.approx((p0 * np.log(p0 / p)).sum(1).mean(), abs=1e-4)


def test_distillation_that_made_it_worse_is_not_kept(cli, pruned, trained, digits):
    args = ("--images", digits / "fit", "--held-out", digits / "held", "--original", trained)
    assert shrink(cli, *args).code == 0
    before = Path("small.caffemodel").read_bytes()
    result = shrink(cli, *args, "--distill", 5, "--distill-rate", 3)
    assert result.code == 0, result.err
    assert "the loss has grown; the weights stay as they were: try a lower --distill-rate" in result.out
    assert list(table(result.out)) == ["pruned"]
    assert Path("small.caffemodel").read_bytes() == before


def test_without_an_original_it_is_the_masked_net(cli, pruned, digits):
    result = shrink(cli, "--images", digits / "fit", "--max-images", 30)
    assert result.code == 0, result.err
    assert table(result.out) == {"pruned": (100, 0, 0)} and "on 6 images" in result.out


NORMED = """
name: "normed"
layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 2 dim: 1 dim: 28 dim: 28 } } }
layer { name: "a" type: "Convolution" bottom: "data" top: "a" convolution_param { num_output: 8 kernel_size: 5
        weight_filler { type: "xavier" } } }
layer { name: "bn" type: "BatchNorm" bottom: "a" top: "a" batch_norm_param { use_global_stats: true } }
layer { name: "sc" type: "Scale" bottom: "a" top: "a" scale_param { bias_term: true } }
layer { name: "r" type: "ReLU" bottom: "a" top: "a" }
layer { name: "c" type: "InnerProduct" bottom: "a" top: "c" inner_product_param { num_output: 10
        weight_filler { type: "xavier" } } }
layer { name: "p" type: "Softmax" bottom: "c" top: "p" }
"""


def test_statistics_are_estimated_anew_from_images(cli, lenet, digits):
    Path("normed.prototxt").write_text(NORMED)
    net = protocaffe.Net(parse_net(NORMED), seed=3)
    net.params["bn"][0].data, net.params["bn"][1].data, net.params["bn"][2].data = 0.1, 1, 1
    prune_by(net, PruningArguments("l1-channels", "uniform", 0.5), with_bias=True)
    net.save("pruned.caffemodel")
    result = shrink(cli, "--images", digits / "fit", "--held-out", digits / "held", "--recalibrate-images",
                    model="normed.prototxt")  # fmt: skip
    assert result.code == 0, result.err
    assert list(table(result.out)) == ["pruned", "+ recalibration"]
    from protocaffe.io.image_folder import Preprocessing, list_images, read_images

    images = read_images(list_images(digits / "fit"), (1, 1, 28, 28), Preprocessing(scale=1 / 256))
    small = protocaffe.Net("small.prototxt", protocaffe.TEST, weights="small.caffemodel")
    small.blobs["data"].reshape((16, 1, 28, 28))
    moments = []
    for start in range(0, 60, 16):
        small.blobs["data"].data = images[np.arange(start, start + 16) % 60]
        small.run_forward(0, 1)
        x = np.array(small.blobs["a"].data, np.float64)
        moments.append((x.mean((0, 2, 3)), x.var((0, 2, 3), ddof=1)))
    mean, variance = np.mean(moments, 0)
    np.testing.assert_allclose(small.params["bn"][0].data, mean, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(small.params["bn"][1].data, variance, rtol=1e-3, atol=1e-8)


@pytest.mark.parametrize(
    ("options", "needle"),
    [
        (["--reconstruct"], "--reconstruct needs --images"),
        (["--held-out", "fit"], "--held-out needs --images"),
        (["--distill-at", "ip1"], "--distill-at needs --images"),
        (["--recalibrate-images"], "--recalibrate-images needs --images"),
        (["--original", "pruned.caffemodel"], "--original needs --images"),
        (["--images", "empty"], '"empty" holds no images'),
        (["--images", "nowhere"], "nowhere: No such file"),
        (["--images", "fit", "--held-out", "few"], '"few" holds 3 images: at least 5 are needed'),
        (["--images", "fit", "--original", "nowhere.caffemodel"], "nowhere.caffemodel: No such file"),
        (["--images", "fit", "--distill", "2", "--distill-at", "ip3"], 'has no blob "ip3" to distil at'),
        (["--images", "fit", "--distill", "2", "--distill-at", "ip1"], '"ip1 (inside)" must have shape (500,)'),
        (["--images", "fit", "--recalibrate-images"], "has no BatchNorm layer"),
        (["--images", "fit", "--model", "models/lenet/train_val.prototxt"], "give a deploy prototxt"),
    ],
)
def test_errors(cli, lenet, pruned, digits, options, needle):
    for name, count in (("empty", 0), ("few", 3), ("fit", 10)):
        (lenet / name).mkdir()
        for i in range(count):
            (lenet / name / f"{i}.png").write_bytes((digits / "fit" / f"{i}.png").read_bytes())
    result = shrink(cli, *options)
    assert result.code == 1
    assert result.err.startswith("error: ") and result.err.count("\n") == 1
    assert needle in result.err
    assert not (lenet / "small.caffemodel").exists()
