"""tools/record.py: a record of a small recipe, what it claims, and that ``verify`` finds it so."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest

import protocaffe
from protocaffe.cli.verify import check
from protocaffe.data.datum import encode_datum
from protocaffe.data.lmdb_source import write_lmdb
from protocaffe.pruning import sparsity_of_net
from tests.support.shrinking import conv, ip, layer

TOOL = Path(__file__).resolve().parents[2] / "tools" / "record.py"
FILL = 'weight_filler { type: "xavier" }'
SOLVER = """net: "models/tiny/net.prototxt"
type: "SGD" base_lr: 0.05 momentum: 0.9 lr_policy: "fixed" max_iter: {steps} test_iter: 2 test_interval: {steps}
snapshot_prefix: "models/tiny/tiny" random_seed: 1
"""


def data(phase, name):
    source = f'data_param {{ source: "data/{name}_lmdb" backend: LMDB batch_size: 10 }}'
    return (
        f'layer {{ name: "data" type: "Data" top: "data" top: "label" include {{ phase: {phase} }} {source} '
        "transform_param { scale: 0.00390625 } }\n"
    )


NET = data("TRAIN", "train") + data("TEST", "test") + conv("first", "data", 4, more=FILL)
NET += conv("res1_branch2a", "first", 8, more=FILL) + layer("ReLU", "relu", "res1_branch2a", top="res1_branch2a")
NET += conv("second", "res1_branch2a", 4, more=FILL) + ip("out", "second", 3, more=FILL)
NET += layer("SoftmaxWithLoss", "loss", ["out", "label"])
NET += layer("Accuracy", "accuracy", ["out", "label"], "include { phase: TEST }")


@pytest.fixture
def tool(tmp_path, monkeypatch):
    """The tool, in a folder with a recipe's files and data."""
    import sys

    spec = importlib.util.spec_from_file_location("record", TOOL)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "record", module)
    spec.loader.exec_module(module)
    rng = np.random.default_rng(0)
    (tmp_path / "models" / "tiny").mkdir(parents=True)
    (tmp_path / "data").mkdir()
    for name, count in (("train", 60), ("test", 20)):
        labels = rng.integers(0, 3, count)
        images = rng.integers(0, 40, (count, 1, 9, 9)) + 70 * labels[:, None, None, None]
        write_lmdb(
            tmp_path / "data" / f"{name}_lmdb",
            (encode_datum(x.astype(np.uint8), int(y)) for x, y in zip(images, labels, strict=True)),
        )
    files = tmp_path / "models" / "tiny"
    (files / "net.prototxt").write_text(NET)
    (files / "dense_solver.prototxt").write_text(SOLVER.format(steps=30))
    sparse = "pruning_param { sparsity: 0.7 begin_step: 0 end_step: 12 frequency: 4 }"
    (files / "sparse_solver.prototxt").write_text(SOLVER.format(steps=20) + sparse)
    (files / "sparser_solver.prototxt").write_text(
        SOLVER.format(steps=10) + "pruning_param { sparsity: 0.9 end_step: 5 }"
    )
    (files / "small_solver.prototxt").write_text(SOLVER.format(steps=10))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(module, "BATCHES", 2)
    monkeypatch.setattr(module, "RECIPES", {
        "sparse": module.Recipe("tiny/sparse_solver", "tiny/dense_solver"),
        "small": module.Recipe("tiny/small_solver", "tiny/dense_solver", "dense", 0.5),
            "sparser": module.Recipe("tiny/sparser_solver", "tiny/dense_solver", "sparse"),
    })  # fmt: skip
    return module


def run(tool, monkeypatch, *args):
    monkeypatch.setattr("sys.argv", ["record.py", *args, "--commit", "abc", "--seeds", "1", "2"])
    tool.main()
    return [json.loads(path.read_text()) for path in sorted(Path("records").glob("*.json"))]


def test_a_sparse_record(tool, monkeypatch, capsys):
    records = run(tool, monkeypatch, "sparse")
    assert [record["seed"] for record in records] == [1, 2]
    for record in records:
        net = protocaffe.Net("models/tiny/net.prototxt", protocaffe.TEST, weights=f"records/{record['weights']}")
        report = sparsity_of_net(net)
        assert report.sparsity >= 0.7 and record["nonzeros"] == report.nonzeros
        assert record["bytes"] == Path("records", record["weights"]).stat().st_size
        assert (
            record["items"] == 20
            and record["commit"] == "abc"
            and record["dense_solver"].endswith("dense_solver.prototxt")
        )
    assert records[0]["errors"] != 20
    assert f"sparse seed 2: {records[1]['errors']} errors of 20" in capsys.readouterr().out
    assert [check(path).wrong for path in sorted(Path("records").glob("*.json"))] == [[], []]


def test_a_record_that_goes_on_from_another(tool, monkeypatch):
    run(tool, monkeypatch, "sparse")
    records = run(tool, monkeypatch, "sparser")
    assert len(records) == 4
    for seed in (1, 2):
        masks = [
            protocaffe.Net("models/tiny/net.prototxt", protocaffe.TEST, weights=f"records/{name}_seed{seed}.pcz")
            for name in ("sparse", "sparser")
        ]
        for before, after in zip(*(net.prunable() for net in masks), strict=True):
            assert not (after.mask & ~before.mask).any()


def test_statistics_are_averaged_anew_for_the_stored_weights(tool, monkeypatch):
    net = Path("models/tiny/net.prototxt")
    norm = layer("BatchNorm", "norm", "res1_branch2a", top="res1_branch2a")
    net.write_text(net.read_text().replace(layer("ReLU", "relu", "res1_branch2a", top="res1_branch2a"), norm))
    before = {}
    compress = tool.compress_net

    def seen(path, stored, *args):
        before.setdefault(path, [blob.data.copy() for blob in stored.params["norm"]])
        return compress(path, stored, *args)

    monkeypatch.setattr(tool, "compress_net", seen)
    record = run(tool, monkeypatch, "sparse")[0]
    assert record["recalibrated"] is True
    after = protocaffe.Net("models/tiny/net.prototxt", protocaffe.TEST, weights=f"records/{record['weights']}")
    mean, variance, count = (blob.data for blob in after.params["norm"])
    assert count == 1 and not np.allclose(mean, before[Path("records/sparse_seed1.pcz")][0])
    assert (variance > 0).all() and check(Path("records/sparse_seed1.json")).wrong == []


def test_a_record_of_fewer_channels(tool, monkeypatch):
    records = run(tool, monkeypatch, "small")
    small = protocaffe.Net("records/small.prototxt", protocaffe.TEST)
    assert small.params["res1_branch2a"][0].shape[0] == 4 and small.params["second"][0].shape[:2] == (4, 4)
    assert all(record["model"] == "records/small.prototxt" for record in records)
    assert records[0]["dense_parameters"] > records[0]["parameters"]
    assert check(Path("records/small_seed2.json")).wrong == []


def test_a_shorter_run_prunes_as_far_and_is_not_taken_for_a_whole_one(tool, monkeypatch):
    monkeypatch.setattr("sys.argv", ["record.py", "sparse", "--shorten", "2"])
    with pytest.raises(SystemExit):
        tool.main()
    assert not Path("records").exists()
    run(tool, monkeypatch, "sparse", "--shorten", "2", "--records", "short", "--work", "records/work")
    record = json.loads(Path("short/sparse_seed1.json").read_text())
    assert record["zeros"] / record["prunable"] >= 0.7 and record["shorten"] == 2
    dense = set(Path("records/work").glob("*dense_solver_seed1*"))
    run(tool, monkeypatch, "sparse")
    assert len(dense) == 1 and len(set(Path("records/work").glob("*dense_solver_seed1*")) - dense) == 1
