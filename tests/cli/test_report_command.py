"""--report of prune and finetune: what is on the page, and what it leaves alone."""

import re
import sys
from time import perf_counter

import numpy as np
import pytest

import protocaffe
from protocaffe.cli import report
from protocaffe.io import parse_net
from tests.cli.conftest import write_solver
from tests.support.nets import PROB, SMALL, make

pytest.importorskip("matplotlib")
MODEL = "models/lenet/train_val.prototxt"


def rows(text, heading):
    """The cells of the first table under a heading."""
    section = text[text.index(f"<h2>{heading}</h2>") :]
    body = re.search(r"<tbody>(.*?)</tbody>", section, re.DOTALL)[1]
    return [[re.sub(r"<[^>]*>", "", cell).strip() for cell in re.findall(r"<t[hd].*?</t[hd]>", row)]
            for row in re.findall(r"<tr>.*?</tr>", body)]  # fmt: skip


def test_prune_scores_measures_and_tells(cli, lenet, trained, monkeypatch):
    monkeypatch.setattr(report, "BATCHES", 2)
    monkeypatch.setattr(report, "MOST", 5)
    args = ("--model", MODEL, "--weights", trained, "--sparsity", 0.8)
    assert cli("prune", *args, "--output", "a.caffemodel").code == 0
    done = cli("prune", *args, "--output", "b.caffemodel", "--report", "r.html")
    assert done.code == 0 and done.out.endswith("wrote b.caffemodel\nwrote r.html\n")
    assert (lenet / "a.caffemodel").read_bytes() == (lenet / "b.caffemodel").read_bytes()
    text = (lenet / "r.html").read_text()
    before, after = rows(text, "Before and after")
    assert 0 <= float(before[1]) <= 1 and 0 <= float(after[1]) <= 1
    assert after[2] == "80.00% (344,400 of 430,500)"
    assert [before[5], after[5]] == [f"{p.stat().st_size:,}" for p in (trained, lenet / "b.caffemodel")]
    assert "--sparsity 0.8 --output b.caffemodel --report r.html" in text
    speeds = rows(text, "Speed")
    assert [row[0] for row in speeds] == ["conv1", "conv2", "ip1", "ip2", "the whole net"]
    assert all(float(cell.split()[0]) > 0 for row in speeds for cell in row[1:3])
    assert all(row[3].startswith("no gain here") or row[3].endswith("x faster") for row in speeds)
    assert "Pruned in one step." in text


def test_the_same_data_score_before_and_after(lenet, trained):
    net = protocaffe.Net(MODEL, protocaffe.TEST, weights=str(trained))
    weights = report.copied(net)
    scores = [report.score_of(net, weights) for _ in range(2)]
    assert scores[0] == scores[1] is not None
    deploy = protocaffe.Net("models/lenet/deploy.prototxt", protocaffe.TEST)
    assert report.score_of(deploy, weights) is None


def test_a_deploy_net_is_not_scored_and_timing_can_be_left_out(cli, lenet, trained, monkeypatch):
    monkeypatch.setattr(report, "measure", lambda *args: pytest.fail("measured"))
    done = cli("prune", "--model", "models/lenet/deploy.prototxt", "--weights", trained, "--sparsity", "0.5",
               "--output", "p.caffemodel", "--report", "r.html", "--no-timing")  # fmt: skip
    assert done.code == 0, done.err
    text = (lenet / "r.html").read_text()
    assert text.count("not scored") == 2 and "Not measured (--no-timing)." in text


def test_finetune_shows_what_pruning_param_did(cli, lenet, trained):
    write_solver(lenet / "s.prototxt", max_iter=10)
    with open(lenet / "s.prototxt", "a") as file:
        file.write("pruning_param { sparsity: 0.9 begin_step: 2 end_step: 6 frequency: 2 }\n")
    args = ("finetune", "--solver", "s.prototxt", "--weights", trained)
    done = cli(*args, "--output", "f.caffemodel", "--report", "r.html", "--no-timing")
    assert done.code == 0, done.err
    text = (lenet / "r.html").read_text()
    before, after = rows(text, "Before and after")
    assert (before[2], after[2]) == ("0.00% (0 of 430,500)", "90.00% (387,450 of 430,500)")
    chart = text[text.index("Sparsity over time") : text.index("<h2>Speed")]
    assert chart.count("<svg") == 1 + 4 and "iteration" in chart
    assert cli(*args, "--output", "plain.caffemodel").code == 0
    assert (lenet / "f.caffemodel").read_bytes() == (lenet / "plain.caffemodel").read_bytes()


def test_rounds_are_told_one_by_one(cli, lenet, trained):
    write_solver(lenet / "s.prototxt", max_iter=2)
    done = cli("finetune", "--solver", "s.prototxt", "--weights", trained, "--output", "f.caffemodel",
               "--target-sparsity", "0.5", "--report", "r.html", "--no-timing")  # fmt: skip
    assert done.code == 0, done.err
    found = rows((lenet / "r.html").read_text(), "Sparsity over time")
    assert [(row[0], row[1], row[3]) for row in found] == [
        ("0", "0.00%", "as it came"), ("1", "30.00%", "kept"), ("2", "50.00%", "kept"),
    ]  # fmt: skip


@pytest.mark.parametrize("command", ["prune", "finetune"])
def test_what_cannot_be_is_said_before_anything_is_done(cli, lenet, trained, monkeypatch, command):
    args = {"prune": ("--model", MODEL, "--sparsity", "0.5"), "finetune": ("--solver", "s.prototxt")}[command]
    args = (command, *args, "--weights", trained, "--output", "p.caffemodel", "--report")
    result = cli(*args, "nowhere/r.html")
    assert result.code == 1 and "error: --report: there is no folder" in result.err
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    result = cli(*args, "r.html")
    assert result.code == 1 and result.err.count("error: ") == 1
    assert "--report needs matplotlib" in result.err and 'pip install "protocaffe[plots]"' in result.err
    assert not (lenet / "p.caffemodel").exists()
    assert cli(*args[:-1]).code == 0, "without --report nothing needs it"


def test_a_net_too_slow_is_not_measured_for_long(monkeypatch):
    net = make()
    weights = report.copied(net)
    monkeypatch.setattr(report, "BUDGET", 0.0)
    times, how = report.measure(net, weights, weights)
    assert not times and how.startswith("Not measured: a pass takes")


def test_timing_takes_no_longer_than_its_budget(monkeypatch):
    net = make()
    weights = report.copied(net)
    monkeypatch.setattr(report, "BUDGET", 0.4)
    start = perf_counter()
    times, _ = report.measure(net, report.without_zeros(weights), weights)
    assert perf_counter() - start < 4
    assert set(times) == {"", *net._layer_names} and 1 <= len(times[""].dense) == len(times[""].pruned) <= report.MOST


def test_dense_weights_have_no_zero_and_no_mask():
    net = make(SMALL + PROB)
    net.params["ip"][0].mask = np.arange(net.params["ip"][0].count).reshape(net.params["ip"][0].shape) % 3 == 0
    net.params["conv"][0].data = 0 * net.params["conv"][0].data
    for layer in report.without_zeros(report.copied(net)):
        assert layer.masks == [None, None] and layer.blobs[0].all() and not layer.blobs[1].any()


@pytest.mark.parametrize(
    ("layer", "expected"),
    [
        ('type: "Convolution" convolution_param { num_output: 6 group: 2 kernel_size: 1 }', (1, 6)),
        ('type: "Deconvolution" convolution_param { num_output: 6 group: 2 kernel_size: 1 }', (1, 6)),
        ('type: "InnerProduct" inner_product_param { num_output: 6 }', (1, 6)),
        ('type: "InnerProduct" inner_product_param { num_output: 6 transpose: true }', (1, 6)),
    ],
)
def test_channels_without_weights(layer, expected):
    text = f"""layer {{ name: "d" type: "Input" top: "d" input_param {{ shape {{ dim: 1 dim: 4 dim: 1 dim: 1 }} }} }}
               layer {{ name: "x" bottom: "d" top: "x" {layer} }}"""
    net = protocaffe.Net(parse_net(text), protocaffe.TEST, seed=1)
    blob = net.params["x"][0]
    values = np.ones(blob.shape, np.float32)
    if "Deconvolution" in layer:
        values[2:, 1] = 0  # the second channel of the second group
    elif "transpose" in layer:
        values[:, 4] = 0
    else:
        values[4] = 0
    assert report.zero_channels(net.layers[-1], values) == expected
