"""sensitivity: the table, the JSON, the plot, the flags it prints, errors."""

import json

import numpy as np
import pytest

import protocaffe

MODEL = "models/lenet/train_val.prototxt"


def run(cli, trained, *more):
    return cli("sensitivity", "--model", MODEL, "--weights", trained, "--iterations", 2, *more)


def test_curves_budgets_and_a_picture(cli, lenet, trained):
    result = run(cli, trained, "--sparsities", "0.5,0.9", "--max-accuracy-drop", "0.1", "--output", "s.json",
                 "--plot", "s.svg")  # fmt: skip
    assert result.code == 0, result.err
    found = json.loads((lenet / "s.json").read_text())
    assert [row["name"] for row in found["layers"]] == ["conv1", "conv2", "ip1", "ip2"]
    assert all(row["sparsity"] == [0, 0.5, 0.9] and len(row["accuracy"]) == 3 for row in found["layers"])
    assert found["budgets_accuracy"] >= found["accuracy"] - 0.1 - 1e-9
    assert (lenet / "s.svg").read_text().lstrip().startswith("<?xml")
    flags = next(line for line in result.out.splitlines() if line.strip().startswith("--layer")).split()
    pruned = cli("prune", "--model", MODEL, "--weights", trained, "--sparsity", 0.1, *flags, "--output", "p.caffemodel")
    assert pruned.code == 0, pruned.err
    net = protocaffe.Net("models/lenet/deploy.prototxt", protocaffe.TEST, weights="p.caffemodel")
    for name, share in found["budgets"].items():
        assert float(np.mean(net.params[name][0].data == 0)) == pytest.approx(share, abs=0.01)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--sparsities", "0.5,x"), '--sparsities must be shares separated by commas, got "0.5,x"'),
        (("--sparsities", "1.5"), "sparsities must be shares in (0, 1), got [1.5]"),
        (("--sparsities", "0.5", "--plot", "s.txt"), '--plot must end in .png, .svg or .pdf, got "s.txt"'),
    ],
)
def test_errors_in_one_line(cli, lenet, trained, more, message):
    result = run(cli, trained, *more)
    assert result.code == 1 and result.err.count("error: ") == 1 and message in result.err


def test_each_score_reads_the_same_batches(lenet, trained):
    """Two of the sample's five batches: going on through them would give another figure each time."""
    from protocaffe.cli.sensitivity import accuracy_of

    net = protocaffe.Net(MODEL, protocaffe.TEST, weights=str(trained))
    first = [float(net.forward()["accuracy"]) for _ in range(2)]
    assert [accuracy_of(net, 2) for _ in range(3)] == pytest.approx([sum(first) / 2] * 3)
