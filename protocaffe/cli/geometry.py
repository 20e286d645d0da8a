"""Receptive fields and multiply-accumulates of a net, from its layers' parameters and its blobs' shapes alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any


@dataclass(frozen=True)
class Field:
    """Along one spatial axis: how many input pixels an output sees, and the step between neighbours' windows."""

    size: int
    step: float


def spatial(parameter: Any, axes: int, name: str, short: str, default: int) -> list[int]:
    """A repeated or ``_h``/``_w`` setting of a convolution or pooling, for each spatial axis.

    >>> from protocaffe.io import schema
    >>> spatial(schema.ConvolutionParameter(kernel_size=[5]), 2, "kernel_size", "kernel", 1)
    [5, 5]
    >>> spatial(schema.PoolingParameter(kernel_h=3, kernel_w=1), 2, "kernel_size", "kernel", 1)
    [3, 1]
    """
    known = parameter.DESCRIPTOR.fields_by_name
    sides = [f"{short}_{side}" for side in "hw"]
    if axes == 2 and any(side in known and parameter.HasField(side) for side in sides):
        return [int(getattr(parameter, side)) for side in sides]
    value = getattr(parameter, name)
    if not isinstance(value, int):
        values = [int(v) for v in value] or [default]
        return values * axes if len(values) == 1 else values
    return [int(value) if parameter.HasField(name) else default] * axes


def receptive_fields(
    layers: Sequence[tuple[Any, Sequence[str], Sequence[str]]], shapes: Mapping[str, Sequence[int]]
) -> dict[str, list[int]]:
    """The receptive field of every layer's first top, in pixels of the net's input along each spatial axis.

    ``layers`` holds (LayerParameter, bottom names, top names) in order of execution. Inner products and global pooling
    see the whole input; a layer of several bottoms sees what the widest of them sees. Where the net's input has no
    spatial axes the entry is empty.
    """
    fields: dict[str, list[Field]] = {}
    whole: dict[str, list[Field]] = {}
    result = {}
    for parameter, bottoms, tops in layers:
        if not bottoms:
            inputs = {top: [int(d) for d in shapes[top]][2:] for top in tops}
            fields |= {top: [Field(1, 1)] * len(extent) for top, extent in inputs.items()}
            whole |= {top: [Field(d, d) for d in extent] for top, extent in inputs.items()}
        else:
            widest = max(bottoms, key=lambda b: [f.size for f in fields.get(b, [])])
            seen, everything = fields.get(widest, []), whole.get(widest, [])
            field = _through(parameter, seen, everything)
            fields |= dict.fromkeys(tops, field)
            whole |= dict.fromkeys(tops, everything)
        result[parameter.name] = [f.size for f in fields[tops[0]]] if tops else []
    return result


def _through(parameter: Any, seen: list[Field], everything: list[Field]) -> list[Field]:
    """The field behind one layer."""
    axes, kind = len(seen), parameter.type
    if kind == "InnerProduct" or (kind == "Pooling" and parameter.pooling_param.global_pooling):
        return everything
    if kind not in ("Convolution", "Deconvolution", "Pooling", "Im2col") or not axes:
        return seen
    if kind == "Pooling":
        kernels = spatial(parameter.pooling_param, axes, "kernel_size", "kernel", 1)
        strides = spatial(parameter.pooling_param, axes, "stride", "stride", 1)
        dilations = [1] * axes
    else:
        kernels = spatial(parameter.convolution_param, axes, "kernel_size", "kernel", 1)
        strides = spatial(parameter.convolution_param, axes, "stride", "stride", 1)
        dilations = spatial(parameter.convolution_param, axes, "dilation", "dilation", 1)
    out = []
    for f, k, s, d in zip(seen, kernels, strides, dilations, strict=True):
        if kind == "Deconvolution":  # an output pixel meets ceil(k / s) inputs
            out.append(Field(f.size + round((-(-(d * (k - 1) + 1) // s) - 1) * f.step), f.step / s))
        else:
            out.append(Field(f.size + round(d * (k - 1) * f.step), f.step * s))
    return out


def multiply_accumulates(parameter: Any, weight: Sequence[int], bottom: Sequence[int], top: Sequence[int]) -> int:
    """Multiply-accumulates of one item of the batch in a convolution, deconvolution or inner product; 0 for others.

    weight x output positions (a deconvolution: x input positions).

    >>> from protocaffe.io import schema
    >>> conv = schema.LayerParameter(type="Convolution")
    >>> multiply_accumulates(conv, (20, 1, 5, 5), (64, 1, 28, 28), (64, 20, 24, 24))
    288000
    """
    if parameter.type == "Convolution":
        return prod(weight) * prod(top[2:])
    if parameter.type == "Deconvolution":
        return prod(weight) * prod(bottom[2:])
    if parameter.type == "InnerProduct":
        return prod(weight) * prod(top[1:-1])
    return 0
