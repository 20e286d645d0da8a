"""Fillers against what Caffe drew: statistics, or values where nothing is random."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from protocaffe.errors import ParameterError
from protocaffe.fillers import fill, layer_rng
from protocaffe.io.prototxt import parse_message

GOLDENS = Path(__file__).resolve().parent / "goldens"
CASES = [c for c in json.loads((GOLDENS / "cases.json").read_text())["cases"] if c["kind"] == "filler"]


def param(text):
    return parse_message(text, "FillerParameter")


@pytest.mark.parametrize("case", CASES, ids=lambda c: c["name"])
def test_goldens(case):
    golden = np.load(GOLDENS / case["npz"])
    values = fill(param(case["filler"].strip("{ }")), case["shape"], layer_rng(3, "L", 0))
    assert values.dtype == np.float32 and values.shape == tuple(case["shape"]) and values.flags.writeable
    if "exact" in golden.files:
        np.testing.assert_allclose(values, golden["exact"], rtol=1e-6, atol=1e-7)
    if "stats" not in golden.files:
        return
    stats = dict(zip(case["statistics"], golden["stats"].tolist(), strict=True))
    rows = values.reshape(len(values), -1).sum(axis=1)
    tolerance = 0.02 * stats["std"] + 1e-6
    assert values.mean() == pytest.approx(stats["mean"], abs=tolerance)
    assert values.std() == pytest.approx(stats["std"], abs=tolerance)
    assert (values == 0).mean() == pytest.approx(stats["fraction_zero"], abs=0.01)
    if "gaussian" not in case["filler"] and "msra" not in case["filler"]:  # distributions with ends
        assert values.min() == pytest.approx(stats["min"], abs=tolerance)
        assert values.max() == pytest.approx(stats["max"], abs=tolerance)
    if "unitball" in case["filler"]:
        np.testing.assert_allclose(rows, 1, rtol=1e-4)


def test_numbers_depend_on_seed_layer_and_index_only():
    p = param('type: "xavier"')
    base = fill(p, (4, 5), layer_rng(1, "conv1", 0))
    np.testing.assert_array_equal(base, fill(p, (4, 5), layer_rng(1, "conv1", 0)))
    for other in (layer_rng(2, "conv1", 0), layer_rng(1, "conv2", 0), layer_rng(1, "conv1", 1)):
        assert not np.array_equal(base, fill(p, (4, 5), other))


def test_fan_by_hand():
    values = fill(param('type: "xavier"'), (1000,), layer_rng(0, "L", 0), fan=(300, 1))
    assert 0.09 < np.abs(values).max() <= 0.1


@pytest.mark.parametrize(
    "text", ["", 'type: "xavier"', 'type: "msra" variance_norm: FAN_OUT', 'type: "positive_unitball"']
)
@pytest.mark.parametrize("shape", [(), (3,), (0, 4), (2, 0)])
def test_odd_shapes(text, shape):
    assert fill(param(text), shape, layer_rng(0, "L", 0)).shape == shape


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('type: "xavir"', 'did you mean "xavier"'),
        ('type: "zzz"', "expected constant, uniform"),
        ('type: "bilinear"', r"got \(4, 5\)"),
        ('type: "uniform" min: 2', "min 2 is above max 1"),
        ('type: "gaussian" std: -1', "negative"),
        ('type: "gaussian" sparse: 9', "0 ... 4"),
        ('type: "xavier" sparse: 1', "sparse"),
    ],
)
def test_mistakes(text, said):
    with pytest.raises(ParameterError, match=said):
        fill(param(text), (4, 5), layer_rng(0, "L", 0))
