"""Nets written in Python, as with pycaffe's net_spec: call layer types, name their tops, get a NetParameter.

>>> import protocaffe
>>> from protocaffe import layers as L, params as P
>>> n = protocaffe.NetSpec()
>>> n.data = L.Input(shape=dict(dim=[64, 1, 28, 28]))
>>> n.conv1 = L.Convolution(n.data, kernel_size=5, num_output=20, weight_filler=dict(type="xavier"))
>>> n.pool1 = L.Pooling(n.conv1, pool=P.Pooling.MAX, kernel_size=2, stride=2)
>>> n.relu1 = L.ReLU(n.pool1, in_place=True)
>>> net = protocaffe.Net(n.to_proto(), protocaffe.TEST)
>>> net.blobs["pool1"].shape
(64, 20, 12, 12)

An argument of a layer is a field of the type's own message (``num_output`` of convolution_param) or of LayerParameter
(``param``, ``loss_weight``, ``include``, ``transform_param`` ...). Values are numbers, strings, enum values or their
names, lists for repeated fields, dicts or messages for messages. ``ntop`` is the number of tops (1; with 0 the call
returns the Function, which a NetSpec takes as well), ``in_place=True`` writes the top over the bottom.

Source: pycaffe's interface (python/caffe/net_spec.py).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

from .errors import ParameterError, did_you_mean
from .io import schema
from .layer import layer_types

#: types whose options lie in other messages than the one named after them
_OTHER_HOMES = {
    "Deconvolution": ("convolution_param",),
    "EuclideanLoss": ("loss_param",),
    "HingeLoss": ("loss_param",),
    "Im2col": ("convolution_param",),
    "InfogainLoss": ("loss_param",),
    "LSTM": ("recurrent_param",),
    "LogSoftmax": ("softmax_param",),
    "MultinomialLogisticLoss": ("loss_param",),
    "NLLLoss": ("loss_param",),
    "RNN": ("recurrent_param",),
    "SigmoidCrossEntropyLoss": ("loss_param",),
    "SoftmaxWithLoss": ("softmax_param", "loss_param"),
}
_KINDS = {
    1: "a number", 2: "a number", 3: "an integer", 4: "an integer of 0 or more", 5: "an integer", 8: "True or False",
    9: "a string", 12: "bytes", 13: "an integer of 0 or more", 14: "an enum value",
}  # fmt: skip


class Top:
    """Output number ``n`` of a Function; other layers take it as a bottom."""

    def __init__(self, fn: Function, n: int) -> None:
        self.fn = fn
        self.n = n

    def to_proto(self) -> Any:
        """The net that computes this top, as a NetParameter; all names are automatic."""
        return to_proto(self)

    def __repr__(self) -> str:
        return f"<top {self.n} of {self.fn!r}>"


class Function:
    """One layer: its type, the tops it reads (``inputs``) and its arguments (``params``).

    Raises ParameterError for an input that is no Top and for arguments that the type does not take.
    """

    def __init__(self, type_name: str, inputs: Sequence[Any], params: dict[str, Any]) -> None:
        self.type_name = type_name
        self.params = dict(params)
        self.ntop = self.params.pop("ntop", 1)
        self.in_place = bool(self.params.pop("in_place", False))
        self.inputs: tuple[Top, ...] = tuple(inputs)
        for i, value in enumerate(self.inputs):
            if not isinstance(value, Top):
                raise ParameterError(f"L.{type_name}: input {i} must be a top of another layer, got {_describe(value)}")
        if isinstance(self.ntop, bool) or not isinstance(self.ntop, int) or self.ntop < 0:
            raise ParameterError(f"L.{type_name}: ntop must be an integer of 0 or more, got {self.ntop!r}")
        if self.in_place and self.ntop > len(self.inputs):
            raise ParameterError(
                f"L.{type_name}: in_place needs an input for each of its {self.ntop} tops, got {len(self.inputs)}"
            )
        self.tops = tuple(Top(self, i) for i in range(self.ntop))
        self.message()

    def message(self) -> Any:
        """A LayerParameter with the type and the arguments; no bottoms, tops or name yet."""
        layer = schema.LayerParameter(type=self.type_name)
        for key, value in self.params.items():
            owner = self._owner(layer, key)
            _assign(owner, key, value, f"L.{self.type_name}")
        return layer

    def _owner(self, layer: Any, key: str) -> Any:
        """The message that argument ``key`` belongs to: the layer itself or one of its parameter messages."""
        own = [getattr(layer, home) for home in _homes(self.type_name)]
        order = [layer, *own] if key.endswith("param") else [*own, layer]
        for message in order:
            if key in message.DESCRIPTOR.fields_by_name:
                return message
        known = ["ntop", "in_place"] + [field.name for message in order for field in message.DESCRIPTOR.fields]
        hint = did_you_mean(key, known)
        if not own and self.type_name not in layer_types():
            types = [f.message_type.name.removesuffix("Parameter") for f in layer.DESCRIPTOR.fields if f.message_type]
            hint = f" (the type is unknown{did_you_mean(self.type_name, [*types, *layer_types()])})"
        raise ParameterError(f'L.{self.type_name}: unknown argument "{key}"{hint}')

    def __repr__(self) -> str:
        return f"<{self.type_name} layer>"


class NetSpec:
    """Collects the tops of a net by name, as attributes or items, and makes a NetParameter of them.

    A layer has the name of its first top. Layers whose tops have no name get one from their type and a number.
    """

    tops: dict[str, Top | Function]

    def __init__(self) -> None:
        super().__setattr__("tops", {})

    def __setattr__(self, name: str, value: Top | Function) -> None:
        if hasattr(NetSpec, name) or name == "tops":
            raise ParameterError(f'NetSpec has "{name}" itself: name the top with n["{name}"] = ...')
        self[name] = value

    def __getattr__(self, name: str) -> Any:
        tops = self.__dict__.get("tops", {})
        if name in tops:
            return tops[name]
        raise AttributeError(f'NetSpec has no top "{name}"{did_you_mean(name, tops)}')

    def __delattr__(self, name: str) -> None:
        if name not in self.tops:
            raise AttributeError(f'NetSpec has no top "{name}"{did_you_mean(name, self.tops)}')
        del self.tops[name]

    def __setitem__(self, name: str, value: Top | Function) -> None:
        if not isinstance(value, (Top, Function)):
            raise ParameterError(f'NetSpec: "{name}" must be a top of a layer, got {_describe(value)}')
        self.tops[name] = value

    def __getitem__(self, name: str) -> Any:
        return self.tops[name]

    def __delitem__(self, name: str) -> None:
        del self.tops[name]

    def __contains__(self, name: object) -> bool:
        return name in self.tops

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *self.tops})

    def to_proto(self) -> Any:
        """The net as a NetParameter: every named top's layer, and the layers that it needs, in order."""
        return _net(self.tops.values(), {top: name for name, top in self.tops.items()})


def to_proto(*tops: Top | Function) -> Any:
    """The net that computes the given tops, as a NetParameter; all names are automatic.

    >>> from protocaffe import layers as L
    >>> data = L.Input(shape=dict(dim=[1, 8]))
    >>> [layer.name for layer in to_proto(L.ReLU(L.InnerProduct(data, num_output=2), in_place=True)).layer]
    ['Input1', 'InnerProduct1', 'ReLU1']
    """
    return _net(tops, {})


def layer_function(type_name: str) -> Callable[..., Any]:
    """``L.<type_name>``: called with tops and arguments it returns a Top, a tuple of ``ntop`` Tops, or the Function."""

    def layer(*inputs: Top, **params: Any) -> Any:
        fn = Function(type_name, inputs, params)
        return fn.tops[0] if fn.ntop == 1 else fn.tops or fn

    message = schema.LayerParameter()
    fields = [f.name for home in _homes(type_name) for f in getattr(message, home).DESCRIPTOR.fields]
    layer.__name__ = layer.__qualname__ = type_name
    layer.__doc__ = (
        f"A layer of type {type_name}. Arguments: ntop, in_place, fields of LayerParameter"
        + (f", and {', '.join(fields)}" if fields else "")
        + ". Returns a Top, a tuple of ntop Tops, or with ntop=0 the Function."
    )
    return layer


# --------------------------------------------------------------------------------------------------- putting together
class _Namer:
    """Names for the tops and layers that the user gave none: type and number."""

    def __init__(self, names: dict[Any, str]) -> None:
        self.names = dict(names)
        self._taken = set(names.values())
        self._counts: Counter[str] = Counter()

    def _new(self, type_name: str) -> str:
        while True:
            self._counts[type_name] += 1
            name = f"{type_name}{self._counts[type_name]}"
            if name not in self._taken:
                return name

    def top(self, top: Top) -> str:
        if top not in self.names:
            self.names[top] = self._new(top.fn.type_name)
        return self.names[top]

    def layer(self, fn: Function) -> str:
        if fn not in self.names:
            self.names[fn] = self.top(fn.tops[0]) if fn.tops else self._new(fn.type_name)
        return self.names[fn]


def _net(roots: Iterable[Top | Function], names: dict[Any, str]) -> Any:
    namer = _Namer(names)
    made: dict[Function, Any] = {}
    for root in roots:
        for fn in _needed(root.fn if isinstance(root, Top) else root, made):
            made[fn] = _layer(fn, made, namer)
    net = schema.NetParameter()
    net.layer.extend(made.values())
    return net


def _needed(fn: Function, made: dict[Function, Any]) -> list[Function]:
    """The layers that ``fn`` needs and that are not made yet, itself included, each after its inputs."""
    order: dict[Function, None] = {}
    stack = [(fn, False)]
    while stack:
        current, ready = stack.pop()
        if current in made or current in order:
            continue
        if ready:
            order[current] = None
        else:
            stack.append((current, True))
            stack += [(top.fn, False) for top in reversed(current.inputs)]
    return list(order)


def _layer(fn: Function, made: dict[Function, Any], namer: _Namer) -> Any:
    layer = schema.LayerParameter()
    layer.bottom.extend(made[top.fn].top[top.n] for top in fn.inputs)
    layer.top.extend(layer.bottom[: fn.ntop] if fn.in_place else [namer.top(top) for top in fn.tops])
    layer.name = namer.layer(fn)
    layer.MergeFrom(fn.message())
    return layer


# ---------------------------------------------------------------------------------------------------------- assigning
def _homes(type_name: str) -> list[str]:
    """Fields of LayerParameter that hold a type's options: by the message's name (ReLUParameter), and by the table."""
    fields = schema.LayerParameter.DESCRIPTOR.fields
    own = [f.name for f in fields if f.message_type is not None and f.message_type.name == f"{type_name}Parameter"]
    return own + list(_OTHER_HOMES.get(type_name, ()))


def _assign(message: Any, name: str, value: Any, who: str) -> None:
    """Set a field of a message from Python values; ``who`` leads the error messages."""
    field = message.DESCRIPTOR.fields_by_name.get(name)
    if field is None:
        hint = did_you_mean(name, message.DESCRIPTOR.fields_by_name)
        raise ParameterError(f'{who}: {message.DESCRIPTOR.name} has no field "{name}"{hint}')
    who = f"{who}: {name}"
    if hasattr(value, "tolist"):  # NumPy's arrays and numbers
        value = value.tolist()
    held = getattr(message, name)
    many = isinstance(value, Iterable) and not isinstance(value, (str, bytes, dict))
    if not hasattr(held, "extend"):
        if many:
            raise ParameterError(f"{who} must be a single value, got {value!r}")
        if field.message_type is not None:
            _fill(held, value, who)
        else:
            _set(partial(setattr, message, name), field, value, who)
        return
    for item in value if many else [value]:
        if field.message_type is not None:
            _fill(held.add(), item, who)
        else:
            _set(held.append, field, item, who)


def _fill(message: Any, value: Any, who: str) -> None:
    descriptor = message.DESCRIPTOR
    message.SetInParent()
    if isinstance(value, dict):
        for key, item in value.items():
            _assign(message, key, item, who)
    elif getattr(getattr(value, "DESCRIPTOR", None), "full_name", None) == descriptor.full_name:
        message.MergeFromString(value.SerializeToString())
    else:
        raise ParameterError(f"{who} must be a dict with fields of {descriptor.name}, got {value!r}")


def _set(put: Callable[[Any], None], field: Any, value: Any, who: str) -> None:
    """``put`` a scalar, or the enum value that a string names, into a message."""
    if field.enum_type is not None and isinstance(value, str):
        values = field.enum_type.values_by_name
        if value not in values:
            hint = did_you_mean(value, values) or f"; it is one of {', '.join(values)}"
            raise ParameterError(f'{who}: {field.enum_type.name} has no value "{value}"{hint}')
        value = values[value].number
    try:
        put(value)
    except (TypeError, ValueError) as error:
        raise ParameterError(f"{who} must be {_KINDS.get(field.type, 'of another type')}, got {value!r}") from error


def _describe(value: Any) -> str:
    if isinstance(value, tuple) and value and all(isinstance(v, Top) for v in value):
        return f"a tuple of {len(value)} tops: name each, or give them one by one"
    return "a layer without tops" if isinstance(value, Function) else f"{type(value).__name__} {value!r}"
