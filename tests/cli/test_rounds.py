"""finetune with a target: rounds, the table, the best net, and what it needs."""

import json

import numpy as np
import pytest

import protocaffe
from protocaffe.cli import rounds
from tests.cli.conftest import write_solver

MODEL = "models/lenet/deploy.prototxt"


def go(cli, trained, *more):
    return cli("finetune", "--solver", "s.prototxt", "--weights", trained, "--output", "small.caffemodel", *more)


def zeros(path):
    net = protocaffe.Net(MODEL, protocaffe.TEST, weights=str(path))
    return sum(int((~blobs[0].mask).sum()) for blobs in net.params.values()) / 430_500


def test_a_target_is_reached_in_rounds_that_are_told(cli, lenet, trained):
    write_solver(lenet / "s.prototxt", max_iter=4)
    result = go(cli, trained, "--target-sparsity", "0.6", "--record", "rounds.json")
    assert result.code == 0, result.err
    told = [line for line in result.out.splitlines() if line.startswith("round ")]
    record = json.loads((lenet / "rounds.json").read_text())
    assert [round(row["sparsity"], 2) for row in record["rounds"]] == [0.3, 0.51, 0.6] and len(told) == 3
    assert "sparsity 60.00%" in told[-1] and told[-1].endswith(": kept")
    assert zeros("small.caffemodel") == pytest.approx(0.6, abs=1e-4)
    assert all(0 <= row["accuracy"] <= 1 and row["kept"] for row in record["rounds"])
    assert not list(lenet.glob("*_iter_*"))


def test_with_a_largest_drop_the_best_net_is_what_is_left(cli, lenet, trained, monkeypatch):
    """Scores as they would be if the net could bear 40 % and no more."""
    write_solver(lenet / "s.prototxt", max_iter=1)
    seen = []

    def score(self):
        seen.append(zeros_of(self.solver.net))
        return 0.9 if seen[-1] <= 0.4 else 0.1

    def zeros_of(net):
        return sum(int((blob.data == 0).sum()) for blob in net.prunable()) / 430_500

    monkeypatch.setattr(rounds.Rounds, "score", score)
    result = go(cli, trained, "--max-accuracy-drop", "0.01")
    assert result.code == 0, result.err
    assert "too much: once more with half of it" in result.out
    assert 0.36 < zeros("small.caffemodel") <= 0.4
    best = protocaffe.Net(MODEL, protocaffe.TEST, weights="small.caffemodel")
    assert all(np.array_equal(blobs[0].mask, blobs[0].data != 0) for blobs in best.params.values())


def test_a_net_that_bears_nothing_stays_as_it_came(cli, lenet, trained, monkeypatch):
    write_solver(lenet / "s.prototxt", max_iter=1)
    scores = iter([0.9, *[0.1] * 20])
    monkeypatch.setattr(rounds.Rounds, "score", lambda self: next(scores))
    assert go(cli, trained, "--max-accuracy-drop", "0").code == 0
    a, b = (protocaffe.Net(MODEL, protocaffe.TEST, weights=str(w)) for w in (trained, "small.caffemodel"))
    for name in a.params:
        np.testing.assert_array_equal(a.params[name][0].data, b.params[name][0].data)


@pytest.mark.parametrize(
    ("changes", "more", "message"),
    [
        ({}, ("--target-sparsity", "1.5"), "the target sparsity must be a share in (0, 1), got 1.5"),
        ({}, ("--max-accuracy-drop", "-1"), "the largest drop must be a share in [0, 1), got -1"),
        ({"test_iter": None, "test_interval": None}, ("--target-sparsity", "0.5"), '"s.prototxt" has no test net'),
    ],
)
def test_errors_in_one_line(cli, lenet, trained, changes, more, message):
    write_solver(lenet / "s.prototxt", **changes)
    result = go(cli, trained, *more)
    assert result.code == 1
    lines = [line for line in result.err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1 and message in lines[0]


def test_an_output_is_needed(cli, lenet, trained):
    result = cli("finetune", "--solver", "s.prototxt", "--weights", trained, "--target-sparsity", "0.5")
    assert result.code == 1 and "need --output: where the best net is kept" in result.err
