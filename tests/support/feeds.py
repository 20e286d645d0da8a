"""Nets of one source layer, on the CPU and on devices with memory of their own, and their batches."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from protocaffe import Net
from protocaffe.backends import get_backend
from protocaffe.data.datum import encode_datum
from protocaffe.data.lmdb_source import write_lmdb
from protocaffe.io import prototxt

from .backends import has_gpu
from .split_backend import LateBackend, SplitBackend

#: devices with memory of their own: the CPU pretending to be one, and what GPU there is
DEVICES: dict[str, Any] = {
    "split": SplitBackend,
    "late": LateBackend,
    "split-float64": lambda: SplitBackend(np.float64),
} | ({name: lambda name=name: get_backend(*name.split("-")) for name in ("cuda", "cuda-float64")} if has_gpu() else {})


def write_items(path: Path, items: Any, labels: Any = None) -> Path:
    """An LMDB of the items, each labelled with its number unless labels are given."""
    labels = range(len(items)) if labels is None else labels
    write_lmdb(path, (encode_datum(item, label) for item, label in zip(items, labels, strict=True)))
    return path


def random_items(count: int, shape: tuple[int, ...], dtype: Any = np.uint8) -> np.ndarray:
    """Bytes from 0 to 255, or floats."""
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (count, *shape), np.uint8) if dtype == np.uint8 else rng.normal(size=(count, *shape))


def data_layer(path: Any, batch: int = 5, more: str = "", transform: str = "", label: bool = True) -> str:
    """The prototxt of a Data layer."""
    tops = 'top: "data"' + ' top: "label"' * label
    more += "" if "backend" in more else " backend: LMDB"
    return (
        f'layer {{ name: "source" type: "Data" {tops} transform_param {{ {transform} }}'
        f' data_param {{ source: "{path}" batch_size: {batch} {more} }} }}'
    )


def make(text: str, backend: Any = None, phase: int = 0, seed: int = 1) -> Net:
    """The net of a prototxt; without a backend on the CPU, wherever other tests compute."""
    return Net(prototxt.parse_net(text), phase, backend=backend or get_backend("cpu"), seed=seed)


def batches(net: Net, count: int) -> list[dict[str, np.ndarray]]:
    """What ``count`` forward passes give."""
    return [{name: np.array(values) for name, values in net.forward().items()} for _ in range(count)]


def assert_same(got: list[dict[str, np.ndarray]], wanted: list[dict[str, np.ndarray]]) -> None:
    """Bit for bit."""
    assert len(got) == len(wanted)
    for k, (one, other) in enumerate(zip(got, wanted, strict=True)):
        assert one.keys() == other.keys()
        for name in one:
            np.testing.assert_array_equal(one[name], other[name], err_msg=f"batch {k}: {name}")


def feed_of(net: Net) -> Any:
    """How the first layer is fed."""
    return net.layers[0]._device
