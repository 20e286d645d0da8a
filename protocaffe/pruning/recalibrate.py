"""BatchNorm statistics estimated anew: pruning and shrinking move the distributions that they were taken of."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from itertools import chain, islice, repeat
from typing import TYPE_CHECKING, Any

import numpy as np

from protocaffe.errors import ParameterError
from protocaffe.io.caffemodel import LayerWeights

if TYPE_CHECKING:
    from protocaffe.backends import Backend
    from protocaffe.pruning.batches import Batches


def recalibrate(
    net_param: Any,
    weights: Iterable[LayerWeights],
    batches: int,
    backend: Backend | None = None,
    seed: int = 0,
    each: Callable[[int], None] | None = None,
    images: Batches | None = None,
) -> list[LayerWeights]:
    """The weights with each BatchNorm's mean and variance averaged over ``batches`` batches; all else stays.

    The net runs forward in its TRAIN phase, on its own data or, of a deploy prototxt, on ``images``, again and again,
    normalising by each batch's statistics; ``each`` hears how many batches are done.

    Raises ParameterError for a net without BatchNorm and for fewer than one batch.
    """
    from protocaffe import TRAIN
    from protocaffe.net import Net
    from protocaffe.passes import upgrade_net

    if batches < 1:
        raise ParameterError(f"recalibration needs at least 1 batch, got {batches}")
    param = type(net_param)()
    param.CopyFrom(upgrade_net(net_param))
    for layer in param.layer:
        if layer.type == "BatchNorm":
            layer.batch_norm_param.use_global_stats = False
            layer.batch_norm_param.moving_average_fraction = 1  # a plain sum, divided by the count
    weights = list(weights)
    net = Net(param, TRAIN, backend=backend, seed=seed)
    try:
        net.copy_weights(weights, keep_masks=False)
        norms = {layer.name: layer for layer in net.layers if layer.type == "BatchNorm"}
        if not norms:
            raise ParameterError(f'recalibration: net "{net.name}" has no BatchNorm layer in its TRAIN phase')
        for layer in norms.values():
            for blob in layer.blobs:
                blob.data = np.zeros(blob.shape)
        draw = chain.from_iterable(repeat(images)) if images is not None else repeat(None)
        for i, batch in enumerate(islice(draw, batches)):
            if images is not None and batch is not None:
                images.give(net, batch)
            net.run_forward()
            if each is not None:
                each(i + 1)
        return [_averaged(w, norms[w.name]) if w.name in norms else w for w in weights]
    finally:
        net.close()


def _averaged(stored: LayerWeights, layer: Any) -> LayerWeights:
    mean, variance, count = (np.array(blob.data) for blob in layer.blobs)
    return replace(stored, blobs=[mean / count, variance / count, np.ones_like(count)])
