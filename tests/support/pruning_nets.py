"""A small training net with all that pruning has to see through, and its loss in plain NumPy, float64."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import numpy as np

import protocaffe
from protocaffe.io import parse_net
from protocaffe.io.caffemodel import write_caffemodel
from tests.support import oracles

FILL = 'weight_filler { type: "gaussian" std: 0.3 } bias_filler { type: "gaussian" std: 0.1 }'
SHARED = 'param { name: "w" } param { name: "b" }'


def scale(name: str, bottom: str) -> str:
    filler = 'filler { type: "uniform" min: 0.5 max: 1.5 } bias_filler { type: "gaussian" std: 0.5 }'
    layer = f'name: "{name}" type: "Scale" bottom: "{bottom}" top: "{bottom}"'
    return f"layer {{ {layer} scale_param {{ bias_term: true {filler} }} }}\n"


DATA = """
layer { name: "data" type: "DummyData" top: "data" top: "target" dummy_data_param {
  shape { dim: 5 dim: 4 dim: 5 dim: 5 } shape { dim: 5 dim: 3 }
  data_filler { type: "gaussian" std: 1 } data_filler { type: "gaussian" std: 1 } } }
"""

#: a grouped convolution, BatchNorm, Scale and ReLU in place; a transposed inner product; two layers with one weight
BODY = f"""
layer {{ name: "conv" type: "Convolution" bottom: "data" top: "conv"
  convolution_param {{ num_output: 6 kernel_size: 3 group: 2 {FILL} }} }}
layer {{ name: "bn" type: "BatchNorm" bottom: "conv" top: "conv" batch_norm_param {{ moving_average_fraction: 0.9 }} }}
{scale("scale", "conv")}
layer {{ name: "relu" type: "ReLU" bottom: "conv" top: "conv" }}
layer {{ name: "turned" type: "InnerProduct" bottom: "conv" top: "turned"
  inner_product_param {{ num_output: 8 transpose: true {FILL} }} }}
{scale("scale_turned", "turned")}
layer {{ name: "tanh" type: "TanH" bottom: "turned" top: "turned" }}
layer {{ name: "one" type: "InnerProduct" bottom: "turned" top: "one" {SHARED}
  inner_product_param {{ num_output: 8 {FILL} }} }}
{scale("scale_one", "one")}
layer {{ name: "two" type: "InnerProduct" bottom: "one" top: "two" {SHARED}
  inner_product_param {{ num_output: 8 {FILL} }} }}
{scale("scale_two", "two")}
layer {{ name: "out" type: "InnerProduct" bottom: "two" top: "out" inner_product_param {{ num_output: 3 {FILL} }} }}
"""
LOSS = 'layer { name: "loss" type: "EuclideanLoss" bottom: "out" bottom: "target" top: "loss" }\n'
NET = DATA + BODY + LOSS
#: the prunable parameters, in order; "one" is that of "two" too
PRUNABLE = {"conv": (6, 2, 3, 3), "turned": (54, 8), "one": (8, 8), "out": (3, 8)}


def make(text: str = NET, phase: int = protocaffe.TRAIN, seed: int = 3) -> protocaffe.Net:
    return protocaffe.Net(parse_net(text), phase, seed=seed)


def batches(count: int, seed: int = 3) -> list[tuple[np.ndarray, np.ndarray]]:
    """What the first ``count`` forward passes of `make` see."""
    net, out = make(seed=seed), []
    for _ in range(count):
        net.run_forward()
        out.append((net.blobs["data"].data.astype(np.float64), net.blobs["target"].data.astype(np.float64)))
    return out


def parameters(net: protocaffe.Net) -> dict[str, list[np.ndarray]]:
    return {name: [blob.data.astype(np.float64) for blob in blobs] for name, blobs in net.params.items()}


def loss(
    p: Mapping[str, list[np.ndarray]],
    data: np.ndarray,
    target: np.ndarray,
    gates: Mapping[str, np.ndarray] = MappingProxyType({}),
) -> float:
    """The net's loss; ``gates`` multiply the outputs (image, output) of layers, behind their Scale."""

    def gated(name: str, x: np.ndarray, affine: str) -> np.ndarray:
        side = (1, -1) + (1,) * (x.ndim - 2)
        x = x * p[affine][0].reshape(side) + p[affine][1].reshape(side)
        gate = gates.get(name)
        return x if gate is None else x * gate.reshape(gate.shape + (1,) * (x.ndim - 2))

    x = oracles.convolution(data, *p["conv"], stride=1, pad=0, dilation=1, group=2)
    mean, variance = x.mean((0, 2, 3), keepdims=True), x.var((0, 2, 3), keepdims=True)
    x = np.maximum(gated("conv", (x - mean) / np.sqrt(variance + 1e-5), "scale"), 0)
    x = np.tanh(gated("turned", x.reshape(len(x), -1) @ p["turned"][0] + p["turned"][1], "scale_turned"))
    for name in ("one", "two"):
        x = gated(name, x @ p["one"][0].T + p["one"][1], f"scale_{name}")
    x = x @ p["out"][0].T + p["out"][1]
    if "out" in gates:
        x = x * gates["out"]
    return float(np.square(x - target).sum() / (2 * len(x)))


def write_legacy(path: Path, net: protocaffe.Net) -> Path:
    """The net's weights as old Caffes wrote them: four axes, whatever the parameter."""
    weights = net.layer_weights()
    for layer in weights:
        layer.blobs = [values.reshape((1,) * (4 - values.ndim) + values.shape) for values in layer.blobs]
        layer.masks = [None for _ in layer.blobs]
    write_caffemodel(path, parse_net(NET), weights)
    return path
