"""Every number in the prototxt of every layer replaced by odd ones.

The layer runs, or ends in an error that names it, or the blob.
"""

from __future__ import annotations

import json
import math
import random
from pathlib import Path

import numpy as np
import pytest

from protocaffe.backends import cpu as cpu_module
from protocaffe.errors import ProtocaffeError
from protocaffe.io.prototxt import parse_net
from protocaffe.net import Net

CASES = json.loads((Path(__file__).parent / "goldens" / "cases.json").read_text())["cases"]
LAYERS = {c["layer_type"]: c["prototxt"] for c in reversed(CASES) if c["kind"] == "layer"}
INTEGERS = [0, -1, 1, 2, 7, 2**31 - 1, -(2**31), 2**32 - 1, 2**63 - 1]
REALS = [0.0, -1.0, 1e30, math.nan, math.inf]
ODD = {"int": INTEGERS, "float": REALS, "str": ["", "x", "gaussian", "msra", "bilinear"], "bool": [True, False]}


def places(message, path=()):
    """(path, field name, a value of its type) of every field that holds no message, set or not."""
    for field in message.DESCRIPTOR.fields:
        repeated = not hasattr(field, "is_repeated") and field.label == field.LABEL_REPEATED
        repeated = repeated or bool(getattr(field, "is_repeated", False))
        if field.message_type is None:
            sample = field.default_value if not repeated else (0.5 if field.cpp_type in (5, 6) else 1)
            yield path, field.name, sample, repeated
        elif repeated:
            for i, inner in enumerate(getattr(message, field.name)):
                yield from places(inner, (*path, (field.name, i)))
        elif message.HasField(field.name):
            yield from places(getattr(message, field.name), (*path, (field.name, None)))


def changed(net, path, name, value, repeated):
    """A copy of the net with one field set; None where the field cannot hold the value."""
    copy = type(net)()
    copy.CopyFrom(net)
    message = copy
    for step, index in path:
        message = getattr(message, step) if index is None else getattr(message, step)[index]
    try:
        if repeated:
            held = getattr(message, name)
            held[:] = [value, *list(held)[1:]]
        else:
            setattr(message, name, value)
    except (ValueError, TypeError):
        return None
    return copy


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("kind", sorted(LAYERS))
def test_odd_values(kind, monkeypatch):
    monkeypatch.setattr(cpu_module, "_MEMORY", 64 << 20)
    net = parse_net(LAYERS[kind])
    ran, refused, draw = 0, 0, random.Random(1)
    for path, name, sample, repeated in list(places(net)):
        if len(path) < 2:  # names, types and wiring
            continue
        values = ODD.get(type(sample).__name__, [])
        for value in draw.sample(values, min(len(values), 3)):
            other = changed(net, path, name, value, repeated)
            if other is None:
                continue
            try:
                made = Net(other, 0, seed=1)
                for blob in made.inputs:
                    made.blobs[blob].data[...] = 1
                made.forward()
                made.backward()
                assert all(np.asarray(b.data).shape == b.shape for b in made.blobs.values())
                ran += 1
            except ProtocaffeError as error:
                assert 'layer "' in str(error) or 'blob "' in str(error), (path, name, value)
                refused += 1
    assert ran + refused > 0
