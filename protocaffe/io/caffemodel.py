"""Weights in Caffe's binary format (.caffemodel)."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import FileFormatError, NetError, WeightsError
from . import schema, wire
from .files import atomic_write

# Dynamic Network Surgery keeps its masks as further blobs of these types.
_MASKED_TYPES = {"CConvolution": "Convolution", "CInnerProduct": "InnerProduct"}


@dataclass
class LayerWeights:
    """What a file holds for one layer.

    Attributes
    ----------
    name, type : of the layer; legacy types by their name of today
    blobs : the learnable parameters (and statistics) in order, in the stored shapes; old files keep a bias as 1x1x1xN;
        None for a shared parameter that an HDF5 file holds with another layer
    masks : for each blob a bool array of its shape (True: kept), or None
    diffs : for each blob its gradient, or None
    unknown : fields of the layer that our schema does not know (another Caffe's options), as they stand in the file
    tied : for each blob whether its values come from a code book, so that equal ones stay equal
    """

    name: str
    type: str
    blobs: list[Any] = field(default_factory=list)
    masks: list[np.ndarray | None] = field(default_factory=list)
    diffs: list[np.ndarray | None] = field(default_factory=list)
    unknown: bytes = b""
    tied: list[bool] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.masks = [*self.masks, *[None] * (len(self.blobs) - len(self.masks))]
        self.diffs = [*self.diffs, *[None] * (len(self.blobs) - len(self.diffs))]
        self.tied = [*self.tied, *[False] * (len(self.blobs) - len(self.tied))]


def read_caffemodel(path: str | os.PathLike[str]) -> list[LayerWeights]:
    """Read the layers of a .caffemodel, those without blobs too, in the order of the file.

    Reads the formats of today, 2014 (V1) and 2013 (V0), weights in double precision, NVCaffe's raw (half) floats, and
    the masks of Dynamic Network Surgery. Only names, types and blobs are looked at, so fields that mean other things
    in other versions of Caffe do no harm.

    Raises
    ------
    FileFormatError : truncated, damaged or no caffemodel; names the file, and the layer if it is known
    OSError : the file cannot be read
    """
    buf = read_bytes(path, "caffemodel")
    layers: list[LayerWeights] = []
    try:
        for number, kind, a, b in wire.scan(buf, 0, len(buf)):
            if number in (2, 100):
                wire.expect(kind, wire.LENGTH, f"layer (number {len(layers)})")
                layers.append(_layer(buf, a, b, number == 2, len(layers)))
    except (ValueError, OverflowError) as e:
        raise FileFormatError(f'"{os.fspath(path)}" is not a valid caffemodel: it {e}') from e
    if not layers:
        raise FileFormatError(f'"{os.fspath(path)}" is not a caffemodel: it holds no layers')
    return layers


def write_caffemodel(
    path: str | os.PathLike[str],
    net: Any,
    weights: Sequence[LayerWeights],
    write_diff: bool = False,
    unknown: Mapping[str, bytes] | None = None,
) -> None:
    """Write a net with its weights so that BVLC Caffe reads it: float32, packed; masks in a field that it skips.

    Parameters
    ----------
    net : NetParameter; blobs in it are ignored
    weights : for each layer that has some, by name (layers of one name in their order)
    write_diff : also store the gradients
    unknown : by layer name, fields that the schema does not know, for layers of the net that have none themselves

    Raises
    ------
    WeightsError : weights for a layer that the net lacks
    """
    from google.protobuf.unknown_fields import UnknownFieldSet

    from ..passes.upgrade import upgrade_net

    if net.layers or net.input:
        net = upgrade_net(net)
    by_name: dict[str, list[LayerWeights]] = {}
    for w in weights:
        by_name.setdefault(w.name, []).append(w)
    parts: list[Any] = []
    for layer in net.layer:
        bare = type(layer)()
        bare.CopyFrom(layer)
        bare.ClearField("blobs")
        inner: list[Any] = [bare.SerializeToString()]
        if unknown and layer.name in unknown and not len(UnknownFieldSet(bare)):
            inner.append(unknown[layer.name])
        mine = by_name.get(layer.name)
        if mine:
            w = mine.pop(0)
            for i, blob in enumerate(w.blobs):
                diff = w.diffs[i] if write_diff else None
                inner += wire.wrapped(7, wire.blob_parts(blob, diff, w.masks[i], w.tied[i : i + 1] == [True]))
        parts += wire.wrapped(100, inner)
    for name, left in by_name.items():
        if any(w.blobs for w in left):
            raise WeightsError(f'cannot write "{os.fspath(path)}": the net has no layer "{name}" for its weights')
    outer = type(net)()
    outer.CopyFrom(net)
    outer.ClearField("layer")
    with atomic_write(path) as file:
        file.write(outer.SerializeToString())
        file.writelines(parts)


def read_structure(path: str | os.PathLike[str]) -> Any:
    """The net of a .caffemodel without its weights, upgraded to today's form (NetParameter).

    Unknown fields are kept.
    """
    from google.protobuf.message import DecodeError

    from ..passes.upgrade import upgrade_net

    buf = read_bytes(path, "caffemodel")
    try:
        net = schema.NetParameter.FromString(b"".join(_without(buf, 0, len(buf), _BLOBS)))
        _check_strings(net)
    except (ValueError, OverflowError, DecodeError) as e:
        raise FileFormatError(f'"{os.fspath(path)}" is not a valid caffemodel: it {e}') from e
    if not net.layer and not net.layers:
        raise FileFormatError(f'"{os.fspath(path)}" is not a caffemodel: it holds no layers')
    try:
        return upgrade_net(net)
    except NetError as e:
        raise FileFormatError(f'"{os.fspath(path)}" holds a net that cannot be read: {e}') from e


def read_bytes(path: str | os.PathLike[str], what: str) -> bytes:
    """A binary file's content, after a look at what kind of file it is."""
    data = Path(path).read_bytes()
    name = os.fspath(path)
    if not data:
        raise FileFormatError(f'"{name}" is empty, expected a {what}')
    if data[:4] == b"\x89HDF":
        raise FileFormatError(f'"{name}" is an HDF5 file, expected a binary {what}')
    if data[:200].isascii() and data[:200].decode().replace("\n", "").replace("\t", "").replace("\r", "").isprintable():
        raise FileFormatError(f'"{name}" looks like text, expected a binary {what}')
    return data


def _layer(buf: bytes, begin: int, stop: int, v1: bool, index: int) -> LayerWeights:
    """One layer, of today's form or V1 (which may hold a V0 layer)."""
    name = kind_name = ""
    blobs: list[wire.Blob] = []
    name_field, type_field, blobs_field = (4, 5, 6) if v1 else (1, 2, 7)
    places: list[tuple[int, int]] = []
    known = schema.LayerParameter.DESCRIPTOR.fields_by_number
    unknown: list[bytes] = []
    at = begin
    for number, kind, a, b in wire.scan(buf, begin, stop):
        if not v1 and number not in known:
            unknown.append(buf[at:b])
        at = b
        if number == name_field:
            wire.expect(kind, wire.LENGTH, f"name of layer {index}")
            name = wire.text(buf, a, b, "layer name")
        elif number == type_field and v1:
            wire.expect(kind, wire.VARINT, f"type of layer {index}")
            kind_name = _v1_type(a)
        elif number == type_field:
            wire.expect(kind, wire.LENGTH, f"type of layer {index}")
            kind_name = wire.text(buf, a, b, "layer type")
        elif number == blobs_field:
            wire.expect(kind, wire.LENGTH, f"blob of layer {index}")
            places.append((a, b))
        elif number == 1 and v1:
            wire.expect(kind, wire.LENGTH, f"layer {index}")
            name, kind_name = _v0_layer(buf, a, b, places, index)
    for i, (a, b) in enumerate(places):
        try:
            blobs.append(wire.read_blob(buf, a, b))
        except (ValueError, OverflowError) as e:
            raise wire.WireError(f'{e} (layer "{name}", blob {i})') from e
    layer = _weights(name, kind_name, blobs)
    layer.unknown = b"".join(unknown)
    return layer


def _v0_layer(buf: bytes, begin: int, stop: int, places: list[tuple[int, int]], index: int) -> tuple[str, str]:
    from ..passes.legacy import V0_TYPES, V1_TYPES

    name = kind_name = ""
    for number, kind, a, b in wire.scan(buf, begin, stop):
        if number in (1, 2, 50):
            wire.expect(kind, wire.LENGTH, f"layer {index}")
        if number == 1:
            name = wire.text(buf, a, b, "layer name")
        elif number == 2:
            old = wire.text(buf, a, b, "layer type")
            kind_name = V1_TYPES.get(V0_TYPES.get(old, ""), old)
        elif number == 50:
            places.append((a, b))
    return name, kind_name


def _v1_type(number: int) -> str:
    from ..passes.legacy import V1_TYPES

    names = schema.V1LayerParameter.DESCRIPTOR.enum_types_by_name["LayerType"].values_by_number
    return V1_TYPES.get(names[number].name, "") if number in names else f"V1:{number}"


def _weights(name: str, kind: str, blobs: list[wire.Blob]) -> LayerWeights:
    values, masks = blobs, [b.mask for b in blobs]
    if kind in _MASKED_TYPES:
        kind = _MASKED_TYPES[kind]
        half = len(blobs) // 2
        pairs = list(zip(blobs[:half], blobs[half:], strict=False))
        if len(blobs) % 2 == 0 and all(v.data.shape == m.data.shape for v, m in pairs):
            values, masks = blobs[:half], [m.data != 0 for m in blobs[half:]]
    return LayerWeights(
        name, kind, [b.data for b in values], masks, [b.diff for b in values], tied=[b.tied for b in values]
    )


# The fields that hold blobs: NetParameter.layers.blobs, .layers.layer.blobs and .layer.blobs.
_BLOBS: dict[int, Any] = {2: {6: None, 1: {50: None}}, 100: {7: None}}


def _without(buf: bytes, begin: int, stop: int, drop: dict[int, Any]) -> Iterator[bytes]:
    """The bytes of a message without some fields (None), also inside of other fields (dict)."""
    at = begin
    for number, kind, a, b in wire.scan(buf, begin, stop):
        if number in drop and kind == wire.LENGTH:
            if drop[number] is not None:
                inner = list(_without(buf, a, b, drop[number]))
                yield from wire.wrapped(number, inner)
        else:
            # A group ends with its own end tag, a varint with itself: what was scanned is what is kept.
            yield buf[at:b]
        at = b


def _check_strings(message: Any) -> None:
    """Raise where a string is no UTF-8: protobuf decodes it only when it is asked for, and may then give bytes."""
    for descriptor, value in message.ListFields():
        for inner in value if _repeated(descriptor) else [value]:
            if descriptor.message_type is not None:
                _check_strings(inner)
            elif descriptor.type == descriptor.TYPE_STRING and not isinstance(inner, str):
                raise wire.WireError(f"has a {descriptor.name} that is no UTF-8")


def _repeated(descriptor: Any) -> bool:
    repeated = getattr(descriptor, "is_repeated", None)
    return bool(repeated) if repeated is not None else descriptor.label == descriptor.LABEL_REPEATED
