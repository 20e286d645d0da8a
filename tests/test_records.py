"""The committed records: every file is whole, counts as it claims, and knows the sample's digits."""

import json

import numpy as np
import pytest

import protocaffe
from protocaffe.cli.verify import read_record
from protocaffe.data.datasets import load_sample
from protocaffe.pruning import sparsity_of_net
from protocaffe.resources import in_checkout, resource_path

ROOT = resource_path("models").parent
RECORDS = sorted((ROOT / "records").glob("*.json")) if in_checkout() else []

pytestmark = pytest.mark.skipif(not in_checkout(), reason="records/ is in a checkout alone")


def test_there_are_records_of_three_seeds():
    names = [path.stem for path in RECORDS]
    assert {f"lenet_108x_seed{seed}" for seed in (1, 2, 3)} <= set(names)


@pytest.mark.parametrize("path", RECORDS, ids=lambda path: path.stem)
def test_files_are_those_of_their_records(path):
    record = read_record(path)
    weights = path.parent / record["weights"]
    assert weights.stat().st_size == record["bytes"]
    assert (ROOT / record["solver"]).is_file() and (ROOT / record["dense_solver"]).is_file()
    assert record["errors"] <= record["items"] and record["seed"] == int(path.stem[-1])


@pytest.mark.parametrize("path", [p for p in RECORDS if not p.stem.startswith("resnet")], ids=lambda path: path.stem)
def test_nets_count_as_claimed_and_know_the_digits(path):
    record = read_record(path)
    model = record["model"].split("/")[1]
    net = protocaffe.Net(str(ROOT / "models" / model / "deploy.prototxt"), protocaffe.TEST)
    net.copy_from(path.parent / record["weights"])
    report = sparsity_of_net(net)
    counted = (report.nonzeros, report.parameters, report.zeros, report.prunable)
    assert counted == tuple(record[key] for key in ("nonzeros", "parameters", "zeros", "prunable"))
    images, labels = load_sample()["test"]
    data = net.blobs["data"]
    data.reshape(len(images), 1, 28, 28)
    data.data = images[:, None] / np.float32(256)
    (top,) = net.forward().values()
    assert (top.argmax(1) == labels).mean() >= 0.97


def test_results_hold_what_the_records_say():
    rows = {
        f"{row['recipe']}_seed{row['seed']}": row
        for row in json.loads((ROOT / "benchmarks/results/records.json").read_text())
    }
    for path in RECORDS:
        record = read_record(path)
        assert {key: rows[path.stem][key] for key in record} == record
