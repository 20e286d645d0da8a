"""``debug_info``: mean magnitudes of every blob as it is computed, in Caffe's words (src/caffe/net.cpp, *DebugInfo)."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from .hooks import Handle
    from .net import Net

logger = logging.getLogger("protocaffe.net")


def _mean(values: np.ndarray) -> str:
    return f"{float(np.abs(values).mean(dtype=np.float64)) if values.size else 0.0:.6g}"


def attach(net: Net) -> list[Handle]:
    """Log the layers of ``net`` as they run; layers run one by one from here on, which costs time."""
    layers, wires = net.layer_dict, {wire.layer.name: wire for wire in net._wires}

    def forward(name: str) -> None:
        for top in wires[name].tops:
            logger.info("    [Forward] Layer %s, top blob %s data: %s", name, top, _mean(net.blobs[top].data))
        for i, blob in enumerate(layers[name].blobs):
            logger.info("    [Forward] Layer %s, param blob %d data: %s", name, i, _mean(blob.data))

    def backward(name: str) -> None:
        wire = wires[name]
        if not wire.need_backward:
            return
        for bottom, need in zip(wire.bottoms, wire.bottom_need, strict=True):
            if need:
                logger.info(
                    "    [Backward] Layer %s, bottom blob %s diff: %s", name, bottom, _mean(net.blobs[bottom].diff)
                )
        for i, (blob, need) in enumerate(zip(wire.layer.blobs, wire.layer.param_propagate_down, strict=True)):
            if need:
                logger.info("    [Backward] Layer %s, param blob %d diff: %s", name, i, _mean(blob.diff))

    return [net.after_forward(forward), net.after_backward(backward)]


def detach(handles: list[Handle]) -> list[Handle]:
    """Stop the log."""
    for handle in handles:
        handle.remove()
    return []


def log_update(net: Net) -> None:
    """Log each parameter's values and gradient, after an update."""
    for layer in net.layers:
        for i, blob in enumerate(layer.blobs):
            logger.info(
                "    [Update] Layer %s, param %d data: %s; diff: %s", layer.name, i, _mean(blob.data), _mean(blob.diff)
            )
