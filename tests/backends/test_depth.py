"""Strided convolutions of few channels on cells of pixels give what the convolution gives."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from protocaffe.backends.base import GenericConvolution
from protocaffe.backends.depth import DepthConvolution, applies
from protocaffe.layers.convolution import ConvShape
from tests.support.bench import Bench
from tests.support.generic_backend import Generic


class Cells(Generic):
    """It does not convolve pixels itself, but the cells, for which `DepthConvolution` asks."""

    def convolution(self, ops: Any, shape: Any) -> Any:
        class Both(GenericConvolution):
            def forward(self, *args: Any) -> None:
                assert applies("forward", shape)
                DepthConvolution(ops, shape).forward(*args)

            def backward_weights(self, *args: Any) -> None:
                DepthConvolution(ops, shape).backward_weights(*args)

        return Both(ops, shape)


@pytest.mark.parametrize(
    ("setting", "shape"),
    [
        ("num_output: 5 kernel_size: 11 stride: 4", (2, 3, 35, 35)),
        ("num_output: 5 kernel_size: 7 stride: 2 pad: 3", (3, 3, 14, 13)),
        ("num_output: 4 kernel_size: 7 stride: 2 pad: 3 bias_term: false", (2, 1, 12, 12)),
        ("num_output: 3 kernel_h: 3 kernel_w: 5 stride_h: 2 stride_w: 3 pad_h: 1 pad_w: 0", (2, 2, 9, 14)),
        ("num_output: 3 kernel_size: 2 stride: 2", (2, 4, 6, 7)),
        ("num_output: 3 kernel_size: 3 stride: 4", (1, 2, 9, 12)),
        ("num_output: 3 kernel_size: 3 stride: 2 pad: 2", (1, 1, 5, 5)),
    ],
)
def test_cells_agree_with_pixels(setting, shape):
    text = f'layer {{ type: "Convolution" bottom: "x" top: "y" convolution_param {{ {setting} }} }}'
    results = []
    for cls in (Generic, Cells):
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


def test_where_it_applies():
    fields = {"images": 2, "channels": 3, "num_output": 8, "group": 1, "in_dims": (35, 35), "out_dims": (7, 7),
              "kernel": (11, 11), "stride": (4, 4), "pad": (0, 0), "dilation": (1, 1)}  # fmt: skip
    assert applies("forward", ConvShape(**fields)) and applies("backward_weights", ConvShape(**fields))
    assert not applies("backward_data", ConvShape(**fields))
    for change in ({"channels": 64}, {"stride": (4, 1)}, {"dilation": (2, 2)}, {"group": 3}, {"generic": True}):
        assert not applies("forward", ConvShape(**(fields | change)))


def test_alexnets_first_layer_becomes_a_3x3_of_48_channels():
    shape = ConvShape(256, 3, 96, 1, (227, 227), (55, 55), (11, 11), (4, 4), (0, 0), (1, 1))
    inner = DepthConvolution(None, shape).inner
    assert (inner.channels, inner.kernel, inner.in_dims, inner.out_dims) == (48, (3, 3), (57, 57), (55, 55))
    assert (inner.stride, inner.pad) == ((1, 1), (0, 0))
