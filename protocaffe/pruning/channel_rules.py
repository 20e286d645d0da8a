"""How each layer type carries channels from its bottoms to its tops: one pass over a net, a `Trace`.

`shrink` decides on what it collects. A type without a rule keeps all channels of its bottoms.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from protocaffe.pruning.channels import KEPT, Channels, Linear, Units, follow, spread

Shape = tuple[int, ...]


class Trace:
    """What a net's layers have told: units, weighted layers, parameters by channel, pieces of slices, reshapes."""

    def __init__(self, net: Any) -> None:
        self.units = Units()
        self.linears: list[Linear] = []
        #: (layer, blob, axis, labels) of parameters with a value for each channel
        self.per_channel: list[tuple[str, int, int, np.ndarray]] = []
        #: layer -> labels of its pieces; layer -> (axis of the bottom, axis of the top, labels there)
        self.slices: dict[str, list[np.ndarray]] = {}
        self.reshapes: dict[str, tuple[int, int, np.ndarray]] = {}
        #: every blob's labels with its name: none may become empty
        self.blobs: list[tuple[str, np.ndarray]] = []
        #: layers of types without a rule
        self.unknown: list[str] = []
        self._shared: dict[str, tuple[Any, list[np.ndarray]]] = {}
        self._names = _shared_names(net)
        self._walk(net)

    def _walk(self, net: Any) -> None:
        now: dict[str, Channels] = {}
        for wire in net._wires:
            ins = [now[b] for b in wire.bottoms]
            shapes = [net.blobs[b].shape for b in wire.bottoms]
            after = [net.blobs[t].shape for t in wire.tops]
            outs = RULES.get(wire.layer.type, _unknown)(self, wire.layer, ins, shapes, after)
            for top, channels in zip(wire.tops, outs, strict=True):
                now[top] = channels
                self.blobs.append((top, channels.labels))
        for name in net.outputs:
            self.units.pin(now[name].labels, f'"{name}" is an output of the net')

    # ------------------------------------------------------------------------------------------------ for the rules
    def along(self, x: Channels, axis: int, shape: Shape, who: str) -> Channels:
        """``x`` along ``axis``; where its units lie along another one they are kept."""
        if x.axis == axis:
            return x
        self.units.pin(x.labels, f"{who} works along axis {axis}, its channels lie along axis {x.axis}")
        return Channels.kept(axis, shape[axis])

    def keep(self, xs: Sequence[Channels], reason: str) -> None:
        """Pin all units of ``xs``."""
        for x in xs:
            self.units.pin(x.labels, reason)

    def couple(self, xs: Sequence[Channels], who: str) -> None:
        """Have all of ``xs`` lose the same indices."""
        for other in xs[1:]:
            self.units.join(xs[0].labels, other.labels, who)

    def parameter(self, layer: Any, blob: int, axis: int, labels: np.ndarray) -> None:
        """A parameter of ``layer`` with an index for each channel along ``axis``."""
        self.per_channel.append((layer.name, blob, axis, labels))
        self.share(layer, blob, (layer.type, layer.blobs[blob].shape, axis), [labels])

    def share(self, layer: Any, blob: int, kind: Any, labels: list[np.ndarray]) -> bool:
        """Couple a parameter with the others of its name; whether it has a name that others have too."""
        name = layer.param.param[blob].name if blob < len(layer.param.param) else ""
        if self._names.get(name, 0) < 2:
            return False
        who = f'the parameter "{name}", shared by {layer.describe()},'
        known = self._shared.setdefault(name, (kind, labels))
        for mine, its in zip(labels, known[1], strict=False):
            if kind == known[0]:
                self.units.join(mine, its, who)
        if kind != known[0]:
            for one in (*labels, *known[1]):
                self.units.pin(one, f"{who} has another form there")
        return True


def _shared_names(net: Any) -> dict[str, int]:
    names: dict[str, int] = {}
    for layer in net.layers:
        for spec in layer.param.param[: len(layer.blobs)]:
            names[spec.name] = names.get(spec.name, 0) + 1
    return {name: count for name, count in names.items() if name}


def _unlabelled(shapes: Sequence[Shape]) -> list[Channels]:
    """Tops whose channels all stay."""
    return [Channels.kept(min(1, len(s) - 1), s[min(1, len(s) - 1)]) if s else Channels.kept(0, 1) for s in shapes]


Rule = Callable[[Trace, Any, list[Channels], list[Shape], list[Shape]], list[Channels]]


def _source(trace: Trace, layer: Any, ins: Any, before: Any, after: list[Shape]) -> list[Channels]:
    for i in range(len(layer.blobs)):
        trace.share(layer, i, object(), [])
    return _unlabelled(after)


def _unknown(trace: Trace, layer: Any, ins: list[Channels], before: Any, after: list[Shape]) -> list[Channels]:
    if ins:
        trace.unknown.append(layer.describe())
    trace.keep(ins, f"{layer.describe()} is of a type that the analysis does not know")
    for i in range(len(layer.blobs)):
        trace.share(layer, i, object(), [])
    return _unlabelled(after)


def _whole(trace: Trace, layer: Any, ins: list[Channels], before: Any, after: list[Shape]) -> list[Channels]:
    """Losses, scores: every channel counts."""
    trace.keep(ins, f"{layer.describe()} needs every channel")
    return _unlabelled(after)


# -------------------------------------------------------------------------------------------------- weighted sums
def _linear(trace: Trace, layer: Any, inputs: np.ndarray, value: np.ndarray, count: int) -> Linear:
    linear = Linear(layer, inputs, value, trace.units.fresh(count))
    kind = (layer.type, layer.blobs[0].shape, linear.group, linear.transposed)
    linear.own_weights = not trace.share(layer, 0, kind, [linear.inputs, linear.outputs])
    linear.own_bias = not (layer.bias_term and trace.share(layer, 1, ("bias", count), [linear.outputs]))
    trace.linears.append(linear)
    return linear


def _convolution(trace: Trace, layer: Any, ins: list[Channels], before: Any, after: list[Shape]) -> list[Channels]:
    axis = layer.channel_axis
    xs = [trace.along(x, axis, s, layer.describe()) for x, s in zip(ins, before, strict=True)]
    trace.couple(xs, layer.describe())
    linear = _linear(trace, layer, xs[0].labels, _common(xs), layer.num_output)
    return [Channels(axis, linear.outputs, linear.constants()) for _ in after]


def _common(xs: Sequence[Channels]) -> np.ndarray:
    """The constants that all of ``xs`` agree on."""
    same = np.all([x.value == xs[0].value for x in xs], axis=0)
    return np.where(same, xs[0].value, np.nan)


def _inner_product(trace: Trace, layer: Any, ins: list[Channels], before: Any, after: Any) -> list[Channels]:
    first, x, shape = layer.first_axis, ins[0], before[0]
    if x.axis < first:
        trace.units.pin(x.labels, f"{layer.describe()} takes the channels of axis {x.axis} one by one")
        x = Channels.kept(first, shape[first])
    taken = shape[first:]
    labels, value = (spread(v, x.axis - first, taken).ravel() for v in (x.labels, x.value))
    linear = _linear(trace, layer, labels, value, layer.outputs)
    return [Channels(first, linear.outputs, linear.constants())]


# -------------------------------------------------------------------------------- one value in, one value out
FUNCTIONS: dict[str, Callable[[Any, np.ndarray], np.ndarray]] = {
    "ReLU": lambda p, v: np.where(v > 0, v, v * p.relu_param.negative_slope + 0.0),
    "ELU": lambda p, v: np.where(v > 0, v, p.elu_param.alpha * np.expm1(np.minimum(v, 0))),
    "Sigmoid": lambda p, v: 0.5 * np.tanh(0.5 * v) + 0.5,
    "TanH": lambda p, v: np.tanh(v),
    "AbsVal": lambda p, v: np.abs(v),
    "Power": lambda p, v: (p.power_param.shift + p.power_param.scale * v) ** p.power_param.power,
    "Dropout": lambda p, v: v,
    "Split": lambda p, v: v,
}


def _elementwise(trace: Trace, layer: Any, ins: list[Channels], before: Any, after: list[Shape]) -> list[Channels]:
    with np.errstate(all="ignore"):
        value = FUNCTIONS[layer.type](layer.param, ins[0].value)
    return [ins[0].with_value(value) for _ in after]


def _prelu(trace: Trace, layer: Any, ins: list[Channels], before: Any, after: Any) -> list[Channels]:
    slope = layer.blobs[0].data.astype(float)
    x = ins[0]
    if not layer.shared:
        x = trace.along(x, 1, before[0], layer.describe())
        trace.parameter(layer, 0, 0, x.labels)
    return [x.with_value(np.where(x.value > 0, x.value, slope * x.value))]


def _pooling(trace: Trace, layer: Any, ins: list[Channels], before: Any, after: list[Shape]) -> list[Channels]:
    x = trace.along(ins[0], 1, before[0], layer.describe())
    exact = layer.is_max or not any(layer.pad)
    value = x.value if exact else np.where(x.value == 0, 0, np.nan)
    return [x.with_value(value), x.with_value(np.nan)][: len(after)]


def _lrn(trace: Trace, layer: Any, ins: list[Channels], before: Any, after: Any) -> list[Channels]:
    x = trace.along(ins[0], 1, before[0], layer.describe())
    if layer.across and layer.half:
        trace.units.pin(x.labels, f"{layer.describe()} divides by the channels beside it: removing one changes them")
    return [x.with_value(np.where(x.value == 0, 0, np.nan))]


def _softmax(trace: Trace, layer: Any, ins: list[Channels], before: list[Shape], after: Any) -> list[Channels]:
    axis = layer.param.softmax_param.axis % len(before[0])
    if ins[0].axis == axis:
        trace.units.pin(ins[0].labels, f"{layer.describe()} normalises over the channels")
    return [ins[0].with_value(np.nan)]


# --------------------------------------------------------------------------------------- normalisation, scale, shift
def _batch_norm(trace: Trace, layer: Any, ins: list[Channels], before: Any, after: Any) -> list[Channels]:
    if len(before[0]) < 2:
        return _whole(trace, layer, ins, before, after)
    x = trace.along(ins[0], 1, before[0], layer.describe())
    for i in (0, 1):
        trace.parameter(layer, i, 0, x.labels)
    if not layer.stored:
        return [x.with_value(np.where(np.isnan(x.value), np.nan, 0))]
    mean, variance, count = (blob.data.astype(float) for blob in layer.blobs)
    factor = 0 if count[0] == 0 else 1 / count[0]
    return [x.with_value((x.value - mean * factor) / np.sqrt(variance * factor + layer.eps))]


def _scale(trace: Trace, layer: Any, ins: list[Channels], before: list[Shape], after: Any) -> list[Channels]:
    """Scale and Bias, with parameters of their own or a second bottom."""
    x, shift_only = ins[0], layer.type == "Bias"
    p = layer.param.bias_param if shift_only else layer.param.scale_param
    small = layer.blobs[0].shape if layer.own else before[1]
    place = x.axis - (p.axis % len(before[0]) if small else 0)
    covers = 0 <= place < len(small)
    if layer.own:
        first = _by_channel(layer.blobs[0].data, place, covers)
    elif covers:
        g = trace.along(ins[1], place, small, layer.describe())
        trace.couple([x, g], layer.describe())
        first = g.value
    else:
        trace.keep(ins[1:], f"{layer.describe()} spreads it over another axis")
        first = np.array(np.nan)
    for i in range(len(layer.blobs) if covers else 0):
        trace.parameter(layer, i, place, x.labels)
    if shift_only:
        return [x.with_value(x.value + first)]
    value = np.where((x.value == 0) | (first == 0), 0, x.value * first)
    if layer.bias_term:
        value = value + _by_channel(layer.blobs[-1].data, place, covers)
    return [x.with_value(value)]


def _by_channel(values: np.ndarray, place: int, covers: bool) -> np.ndarray:
    """The one value that a parameter has for each channel, NaN where it has several."""
    rows = np.moveaxis(values, place, 0).reshape(values.shape[place], -1) if covers else values.reshape(1, -1)
    same = (rows == rows[:, :1]).all(1)
    return np.where(same, rows[:, 0].astype(float), np.nan)


# ------------------------------------------------------------------------------------------------ several blobs
def _eltwise(trace: Trace, layer: Any, ins: list[Channels], before: list[Shape], after: Any) -> list[Channels]:
    axis = next((x.axis for x in ins if (x.labels != KEPT).any()), ins[0].axis)
    xs = [trace.along(x, axis, s, layer.describe()) for x, s in zip(ins, before, strict=True)]
    trace.couple(xs, layer.describe())
    values = np.stack([x.value for x in xs])
    if layer.operation == "SUM":
        value = np.array(layer.coeff) @ values
    elif layer.operation == "PROD":
        value = np.where((values == 0).any(0), 0, values.prod(0))
    else:
        value = values.max(0)
    return [xs[0].with_value(value)]


def _concat(trace: Trace, layer: Any, ins: list[Channels], before: list[Shape], after: Any) -> list[Channels]:
    p = layer.param.concat_param
    joined = (p.concat_dim if p.HasField("concat_dim") else p.axis) % len(before[0])
    axis = next((x.axis for x in ins if (x.labels != KEPT).any()), joined)
    xs = [trace.along(x, axis, s, layer.describe()) for x, s in zip(ins, before, strict=True)]
    if axis != joined:
        trace.couple(xs, layer.describe())
        return [Channels(axis, xs[0].labels, _common(xs))]
    return [Channels(axis, np.concatenate([x.labels for x in xs]), np.concatenate([x.value for x in xs]))]


def _slice(trace: Trace, layer: Any, ins: list[Channels], before: list[Shape], after: list[Shape]) -> list[Channels]:
    p, x = layer.param.slice_param, ins[0]
    axis = (p.slice_dim if p.HasField("slice_dim") else p.axis) % len(before[0])
    if axis != x.axis or len(after) == 1:
        return [x for _ in after]
    ends = [0, *np.cumsum([shape[axis] for shape in after])]
    tops = [Channels(axis, x.labels[a:b], x.value[a:b]) for a, b in pairwise(ends)]
    trace.slices[layer.name] = [t.labels for t in tops]
    return tops


# -------------------------------------------------------------------------------------------------- shapes and views
def _view(trace: Trace, layer: Any, ins: list[Channels], before: list[Shape], after: list[Shape]) -> list[Channels]:
    """Flatten and Reshape."""
    x = ins[0]
    found = follow(x.axis, before[0], after[0])
    if found is None:
        trace.keep(ins, f"{layer.describe()} mixes its channels with other axes")
        return _unlabelled(after)
    axis, channel = found
    if layer.type == "Reshape":
        trace.reshapes[layer.name] = (x.axis, axis, x.labels[channel])
    return [Channels(axis, x.labels[channel], x.value[channel])]


def _permute(trace: Trace, layer: Any, ins: list[Channels], before: list[Shape], after: Any) -> list[Channels]:
    given = [int(a) for a in layer.param.permute_param.order]
    order = given + [a for a in range(len(before[0])) if a not in given]
    return [Channels(order.index(ins[0].axis), ins[0].labels, ins[0].value)]


def _crop(trace: Trace, layer: Any, ins: list[Channels], before: list[Shape], after: list[Shape]) -> list[Channels]:
    axis = layer.param.crop_param.axis % len(before[0])
    for x in ins:
        if x.axis >= axis:
            trace.units.pin(x.labels, f"{layer.describe()} cuts the channels' axis")
    return [ins[0]] if ins[0].axis < axis else _unlabelled(after)


def _tile(trace: Trace, layer: Any, ins: list[Channels], before: list[Shape], after: Any) -> list[Channels]:
    x, p = ins[0], layer.param.tile_param
    times = p.tiles if p.axis % len(before[0]) == x.axis else 1
    return [Channels(x.axis, np.tile(x.labels, times), np.tile(x.value, times))]


def _reduction(trace: Trace, layer: Any, ins: list[Channels], before: list[Shape], after: Any) -> list[Channels]:
    if layer.param.reduction_param.axis % len(before[0]) <= ins[0].axis:
        return _whole(trace, layer, ins, before, after)
    return [ins[0].with_value(np.where(ins[0].value == 0, 0, np.nan))]


SOURCES = ("Input", "Data", "HDF5Data", "MemoryData", "ImageData", "DummyData", "Parameter", "Silence")
WHOLE = (
    "Accuracy", "ArgMax", "EuclideanLoss", "HingeLoss", "NLLLoss", "SigmoidCrossEntropyLoss", "SoftmaxWithLoss",
)  # fmt: skip

RULES: dict[str, Rule] = {
    **dict.fromkeys(SOURCES, _source),
    **dict.fromkeys(WHOLE, _whole),
    **dict.fromkeys(FUNCTIONS, _elementwise),
    "BatchNorm": _batch_norm, "Bias": _scale, "Concat": _concat, "Convolution": _convolution, "Crop": _crop,
    "Deconvolution": _convolution, "Eltwise": _eltwise, "Flatten": _view, "InnerProduct": _inner_product, "LRN": _lrn,
    "LogSoftmax": _softmax, "Permute": _permute, "Pooling": _pooling, "PReLU": _prelu, "Reduction": _reduction,
    "Reshape": _view, "Scale": _scale, "Slice": _slice, "Softmax": _softmax, "Tile": _tile,
}  # fmt: skip
