"""Convolution over many images at once gives what the image by image one gives, on whatever device."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from protocaffe.backends import batched
from protocaffe.backends.base import GenericConvolution
from tests.support.bench import Bench
from tests.support.generic_backend import Generic


class Batched(Generic):
    def convolution(self, ops: Any, shape: Any) -> GenericConvolution:
        return batched.batched_convolution(ops, shape)


@pytest.mark.parametrize("room", [1 << 26, 700], ids=["one chunk", "several chunks"])
@pytest.mark.parametrize(
    ("kind", "setting", "shape"),
    [
        ("Convolution", "num_output: 6 kernel_size: 3 pad: 1", (5, 4, 6, 5)),
        ("Convolution", "num_output: 6 kernel_size: 3 stride: 2 group: 2", (5, 4, 6, 5)),
        ("Convolution", "num_output: 8 kernel_size: 3 group: 8 dilation: 2", (3, 8, 7, 6)),
        ("Convolution", "num_output: 6 kernel_size: 1", (5, 4, 3, 2)),
        ("Convolution", "num_output: 3 kernel_size: 2 kernel_size: 1 kernel_size: 3", (3, 2, 3, 4, 5)),
        ("Convolution", "num_output: 3 kernel_size: 3", (0, 2, 5, 5)),
        ("Deconvolution", "num_output: 4 kernel_size: 4 stride: 2 group: 2", (3, 4, 3, 2)),
    ],
)
def test_it_agrees_with_one_image_at_a_time(kind, setting, shape, room, monkeypatch):
    monkeypatch.setattr(batched, "ROOM", room)
    text = f'layer {{ type: "{kind}" bottom: "x" top: "y" convolution_param {{ {setting} }} }}'
    results = []
    for cls in (Generic, Batched):
        rng = np.random.default_rng(0)
        bench = Bench(text, {"x": shape}, cls("float64"))
        for blob in bench.params:
            blob.data[...] = rng.standard_normal(blob.shape)
        tops = bench.forward([rng.standard_normal(shape)])
        before = [rng.standard_normal(blob.shape) for blob in bench.params]
        diffs = bench.backward([rng.standard_normal(t.shape) for t in tops], [True], before=before)
        results.append([*tops, *diffs[0], *diffs[1]])
    for got, wanted in zip(results[1], results[0], strict=True):
        np.testing.assert_allclose(got, wanted, rtol=1e-12, atol=1e-12)
