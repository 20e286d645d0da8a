"""A small net for the tests of Net: Input, Convolution, ReLU, Pooling, InnerProduct; with Softmax or a loss."""

from __future__ import annotations

import numpy as np

from protocaffe import TEST, TRAIN, Net
from protocaffe.io import prototxt

SMALL = """
name: "small"
layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 4 dim: 1 dim: 6 dim: 6 } } }
layer { name: "conv" type: "Convolution" bottom: "data" top: "conv"
        convolution_param { num_output: 3 kernel_size: 3 weight_filler { type: "xavier" } } }
layer { name: "relu" type: "ReLU" bottom: "conv" top: "conv" }
layer { name: "pool" type: "Pooling" bottom: "conv" top: "pool" pooling_param { kernel_size: 2 stride: 2 } }
layer { name: "ip" type: "InnerProduct" bottom: "pool" top: "ip"
        inner_product_param { num_output: 5 weight_filler { type: "xavier" } } }
"""
PROB = 'layer { name: "prob" type: "Softmax" bottom: "ip" top: "prob" }\n'
LABEL = 'layer { name: "label" type: "Input" top: "label" input_param { shape { dim: 4 } } }\n'
LOSS = 'layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip" bottom: "label" top: "loss" }\n'


def make(text: str = SMALL + PROB, phase: int = TEST, **kwargs) -> Net:
    """A net of a prototxt's text."""
    return Net(prototxt.parse_net(text), phase, **({"seed": 7} | kwargs))


def trainable(more: str = "", **kwargs) -> Net:
    """The small net with its loss, and random data and labels."""
    net = make(LABEL + SMALL + LOSS + more, TRAIN, **kwargs)
    rng = np.random.default_rng(0)
    net.blobs["data"].data = rng.normal(size=(4, 1, 6, 6))
    net.blobs["label"].data = rng.integers(0, 5, 4)
    return net


def images(n: int = 4, seed: int = 1) -> np.ndarray:
    """Random input for the small net."""
    return np.random.default_rng(seed).normal(size=(n, 1, 6, 6)).astype(np.float32)
