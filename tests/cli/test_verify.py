"""verify: records that hold, those that do not, and files that are none."""

import json

import pytest

import protocaffe
from protocaffe.cli.verify import Verdict
from protocaffe.pruning import sparsity_of_net


@pytest.fixture
def records(cli, lenet, trained):
    """A folder with one record, of the trained net pruned to a half."""
    folder = lenet / "records"
    folder.mkdir()
    model = "models/lenet/train_val.prototxt"
    pruned = folder / "half.caffemodel"
    assert cli("prune", "--model", model, "--weights", trained, "--sparsity", 0.5, "--output", pruned).code == 0
    net = protocaffe.Net(model, protocaffe.TEST, weights=str(pruned))
    report = sparsity_of_net(net)
    accuracy = sum(float(net.forward()["accuracy"]) for _ in range(2)) / 2
    record = {
        "model": model, "weights": "half.caffemodel", "iterations": 2, "items": 200,
        "errors": round(200 * (1 - accuracy)), "nonzeros": report.nonzeros, "parameters": 431_080,
        "zeros": report.zeros, "prunable": 430_500, "bytes": pruned.stat().st_size, "dense_errors": 20, "seed": 7,
        "commit": "0123456789abcdef",
    }  # fmt: skip
    (folder / "half.json").write_text(json.dumps(record))
    return folder


def change(folder, **changes):
    record = json.loads((folder / "half.json").read_text()) | changes
    (folder / "half.json").write_text(json.dumps({k: v for k, v in record.items() if v is not None}))


def test_a_record_that_holds(cli, records):
    result = cli("verify", records)
    assert result.code == 0, result.err
    assert "1 records hold" in result.out and "50.00%" in result.out and "2.0x" in result.out


@pytest.mark.parametrize("what", ["errors", "nonzeros", "parameters", "zeros", "prunable", "bytes"])
def test_each_claim_is_checked(cli, records, what):
    change(records, **{what: json.loads((records / "half.json").read_text())[what] + 1})
    result = cli("verify", records)
    assert result.code == 1 and result.err.count("error:") == 1
    assert f'1 of 1 records do not hold: "half": {what} ' in result.err


def test_what_was_not_scored_has_no_figures(cli, records):
    change(records, weights="none.caffemodel", errors=3)
    row = next(line for line in cli("verify", records).out.splitlines() if line.strip().startswith("half"))
    assert row.split()[1:6] == ["-"] * 5 and row.split()[-1] == "no"


@pytest.mark.parametrize(("found", "holds"), [(800, True), (802, True), (798, True), (803, False)])
def test_another_device_may_round_two_of_ten_thousand_otherwise(found, holds):
    record = {"items": 10_000, "errors": 800, "zeros": 5}
    assert (Verdict("r", record, {"errors": found, "zeros": 5}).wrong == []) is holds
    assert Verdict("r", record, {"errors": 800, "zeros": 6}).wrong == ["zeros 6, the record says 5"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"errors": None}, '"errors" must be of type int, got None'),
        ({"bytes": "7"}, "\"bytes\" must be of type int, got '7'"),
        ({"seed": True}, '"seed" must be of type int, got True'),
        ({"items": 0}, "items and iterations must be at least 1"),
        ({"weights": "none.caffemodel"}, "none.caffemodel"),
    ],
)
def test_records_that_are_none(cli, records, changes, message):
    change(records, **changes)
    result = cli("verify", records)
    assert result.code == 1 and message in result.err


def test_files_that_are_no_json_and_empty_folders(cli, records):
    (records / "half.json").write_text("{")
    assert "is no record" in cli("verify", records).err
    (records / "half.json").unlink()
    assert "holds no records" in cli("verify", records).err
