"""The goldens of tests/goldens: what BVLC Caffe computed, and how closely it must be met (goldens/README.md)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from protocaffe.io import prototxt
from protocaffe.net import Net

GOLDENS = Path(__file__).resolve().parents[1] / "goldens"
CASES: dict[str, dict[str, Any]] = {
    case["name"]: case for case in json.loads((GOLDENS / "cases.json").read_text())["cases"]
}
PHASES = {"TRAIN": 0, "TEST": 1}

#: |a - b| <= atol + rtol max|b|
LAYER, SOLVER, DATA, EXACT = (1e-4, 1e-5), (1e-3, 1e-5), (1e-5, 1e-5), (0.0, 0.0)
#: gradients of ContrastiveLoss: Caffe divides by dist + 1e-4
CONTRASTIVE = (1e-3, 1e-4)
EXACT_TYPES = {
    "Accuracy", "ArgMax", "BatchReindex", "Concat", "Crop", "Filter", "Flatten", "Parameter", "Reshape", "Slice",
    "Split", "Tile",
}  # fmt: skip


def of_kind(*kinds: str) -> list[dict[str, Any]]:
    """All cases of the given kinds."""
    return [case for case in CASES.values() if case["kind"] in kinds]


def layer_types_of(case: dict[str, Any]) -> set[str]:
    """The layer types that a case needs."""
    if "layer_types" in case:
        return set(case["layer_types"])
    if case["kind"] == "rules":
        return {name for expect in case["expect"] for name in expect["layer_types"]}
    net = prototxt.parse_net(case["net"] if case["kind"] == "solver" else case["prototxt"])
    return {layer.type for layer in net.layer}


def arrays(case: dict[str, Any]) -> dict[str, np.ndarray]:
    """The case's arrays by name."""
    with np.load(GOLDENS / case["npz"]) as stored:
        return {name: stored[name] for name in stored.files}


def build(case: dict[str, Any], phase: str | None = None, **more: Any) -> Net:
    """The case's net; run in the case's directory where it has one."""
    return Net(prototxt.parse_net(case["prototxt"]), PHASES[phase or case["phase"]], seed=1, **more)


def group(values: dict[str, np.ndarray], prefix: str) -> dict[str, np.ndarray]:
    """What lies under ``prefix/``."""
    return {name[len(prefix) + 1 :]: array for name, array in values.items() if name.startswith(f"{prefix}/")}


def set_params(net: Net, params: dict[str, np.ndarray]) -> None:
    """Set ``<layer>/<i>``."""
    for name, array in params.items():
        layer, index = name.rsplit("/", 1)
        blob = net.params[layer][int(index)]
        assert blob.shape == array.shape, f"{name}: shape {blob.shape}, Caffe has {array.shape}"
        blob.data[...] = array


def close(got: Any, wanted: np.ndarray, tolerance: tuple[float, float], what: str) -> None:
    """Shape equal, and |got - wanted| <= atol + rtol max|wanted|."""
    got, (rtol, atol) = np.asarray(got), tolerance
    assert got.shape == wanted.shape, f"{what}: shape {got.shape}, Caffe has {wanted.shape}"
    if not wanted.size:
        return
    assert np.isfinite(got).all() or not np.isfinite(wanted).all(), f"{what}: not finite"
    allowed = atol + rtol * float(np.abs(wanted).max())
    error = float(np.abs(np.asarray(got, np.float64) - wanted).max())
    assert error <= allowed, f"{what}: off by {error:.3g}, allowed {allowed:.3g}"


def close_params(net: Net, params: dict[str, np.ndarray], tolerance: tuple[float, float], diff: bool = False) -> None:
    """Compare every ``<layer>/<i>``."""
    for name, array in params.items():
        layer, index = name.rsplit("/", 1)
        blob = net.params[layer][int(index)]
        close(blob.diff if diff else blob.data, array, tolerance, f"{'diff of ' if diff else ''}parameter {name}")
