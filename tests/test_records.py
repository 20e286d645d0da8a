"""The committed records: every file is whole, counts as it claims, and knows the sample's digits."""

import json
from typing import Any

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


def table(records: list[dict[str, Any]]) -> str:
    """The table of docs/records.md: one line for each recipe, over its seeds."""
    rows = [
        ["recipe", "test error, each seed", "mean", "dense, mean", "non-zeros", "fewer", "zeros of weights", "bytes"]
    ]
    rows.append(["---", "---", *["---:"] * 6])
    for name in dict.fromkeys(record["recipe"] for record in records):
        mine = [record for record in records if record["recipe"] == name]

        def mean(key: str, mine: list[dict[str, Any]] = mine) -> float:
            return sum(record[key] for record in mine) / len(mine)

        errors = ", ".join(f"{100 * r['errors'] / r['items']:.2f}" for r in mine)
        fewer = mine[0]["dense_parameters"] / mean("nonzeros")
        items, sparsity = mine[0]["items"], mean("zeros") / mean("prunable")
        shares = (f"{mean(key) / items:.2%}" for key in ("errors", "dense_errors"))
        left = (f"{mean('nonzeros'):,.0f}", f"{fewer:.1f}x", f"{sparsity:.2%}", f"{mean('bytes'):,.0f}")
        rows.append([name, f"{errors} %", *shares, *left])
    return "\n".join("| " + " | ".join(row) + " |" for row in rows) + "\n"


def test_the_page_says_what_the_results_say():
    rows = json.loads((ROOT / "benchmarks/results/records.json").read_text())
    assert table(rows) in (ROOT / "docs/records.md").read_text()


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
