"""Give every blob that is read more than once a Split layer, so that its gradients can be added up."""

from __future__ import annotations

from typing import Any

from ..errors import NetError, did_you_mean


def insert_splits(net: Any) -> Any:
    """A copy of a net in which each top is read at most once, with Split layers named as Caffe names them.

    A top with a loss weight counts as read once more: the weight moves to the first output of its Split.

    Raises
    ------
    NetError : a layer reads a blob that no earlier layer makes

    Source: Caffe's src/caffe/util/insert_splits.cpp
    """
    sources: list[list[tuple[int, int]]] = []
    readers: dict[tuple[int, int], int] = {}
    weights: dict[tuple[int, int], float] = {}
    made: dict[str, tuple[int, int]] = {}
    for i, layer in enumerate(net.layer):
        sources.append([])
        for bottom in layer.bottom:
            if bottom not in made:
                later = [top for after in net.layer[i:] for top in after.top]
                hint = "; a layer after it makes it" if bottom in later else did_you_mean(bottom, made)
                raise NetError(f'layer "{layer.name}" ({layer.type}): unknown bottom "{bottom}"{hint}')
            source = made[bottom]
            sources[i].append(source)
            readers[source] = readers.get(source, 0) + 1
        for j, top in enumerate(layer.top):
            made[top] = (i, j)
        for top, weight in zip(layer.top, layer.loss_weight, strict=False):
            if weight:
                weights[made[top]] = weight
                readers[made[top]] = readers.get(made[top], 0) + 1

    out = type(net)()
    out.CopyFrom(net)
    del out.layer[:]
    used: dict[tuple[int, int], int] = {}
    for i, layer in enumerate(net.layer):
        new = out.layer.add()
        new.CopyFrom(layer)
        for j, source in enumerate(sources[i]):
            if readers[source] > 1:
                number = used.get(source, 0)
                used[source] = number + 1
                owner = net.layer[source[0]].name
                new.bottom[j] = f"{split_name(owner, layer.bottom[j], source[1])}_{number}"
        for j, top in enumerate(layer.top):
            count = readers.get((i, j), 0)
            if count < 2:
                continue
            name = split_name(layer.name, top, j)
            split = out.layer.add(name=name, type="Split", bottom=[top], top=[f"{name}_{k}" for k in range(count)])
            if (i, j) in weights:
                split.loss_weight.extend([weights[i, j]] + [0.0] * (count - 1))
                del new.loss_weight[:]
                used[i, j] = 1
    return out


def split_name(layer: str, blob: str, index: int) -> str:
    """The name of the Split layer of a layer's top number `index`; its tops have ``_0``, ``_1`` ... appended.

    >>> split_name("mnist", "data", 0)
    'data_mnist_0_split'
    """
    return f"{blob}_{layer}_{index}_split"
