"""Weights files: every golden, older and other forms, round trips, damage."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import protocaffe
from protocaffe.errors import FileFormatError, WeightsError
from protocaffe.io import schema, wire
from protocaffe.io.caffemodel import LayerWeights, read_caffemodel, read_structure, write_caffemodel
from protocaffe.io.prototxt import parse_net

GOLDENS = Path(__file__).resolve().parents[1] / "goldens"
CASES = json.loads((GOLDENS / "cases.json").read_text())["cases"]
FILES = sorted(GOLDENS.glob("files/**/*.caffemodel"))
NETS = [c for c in CASES if c["kind"] == "net" and c.get("weights")]
OLD = [c for c in NETS if (GOLDENS / c["dir"] / "weights_old.caffemodel").exists()]


def by_name(weights):
    return {w.name: w for w in weights if w.blobs}


@pytest.mark.parametrize("file", FILES, ids=lambda f: f.parent.name + "/" + f.stem)
def test_read_as_protobuf_does(file):
    """The scanner finds what protobuf itself finds in the file."""
    net = schema.NetParameter.FromString(file.read_bytes())
    weights = read_caffemodel(file)
    layers = list(net.layer) or [v1.layer if v1.HasField("layer") else v1 for v1 in net.layers]
    assert [w.name for w in weights] == [layer.name for layer in layers]
    for got, layer in zip(weights, layers, strict=True):
        assert len(got.blobs) == len(layer.blobs)
        for blob, proto in zip(got.blobs, layer.blobs, strict=True):
            assert blob.dtype == np.float32 and blob.flags.writeable and blob.flags.c_contiguous and blob.flags.aligned
            np.testing.assert_array_equal(blob.ravel(), np.array(proto.data, np.float32))
    structure = read_structure(file)
    assert not any(layer.blobs for layer in structure.layer) and not structure.layers


@pytest.mark.parametrize("case", NETS, ids=lambda c: c["name"])
def test_golden_nets(case):
    arrays = np.load(GOLDENS / case["npz"])
    for file in (GOLDENS / case["dir"]).glob("*.caffemodel"):
        found = by_name(read_caffemodel(file))
        for key in [k for k in arrays.files if k.startswith("param/")]:
            _, layer, index = key.split("/")
            if layer in found:  # a shared blob is stored with each of its layers
                got = found[layer].blobs[int(index)]
                np.testing.assert_array_equal(got.reshape(arrays[key].shape), arrays[key])


def test_golden_types_of_old_forms():
    assert len(OLD) == 2
    for case in OLD:
        new, old = (
            read_caffemodel(GOLDENS / case["dir"] / f) for f in ("weights.caffemodel", "weights_old.caffemodel")
        )
        types = {w.name: w.type for w in new}
        assert all(types[w.name] == w.type for w in old if w.blobs)


def make(path: Path, masks: bool = True, diff: bool = False) -> tuple[object, list[LayerWeights]]:
    rng = np.random.default_rng(0)
    net = parse_net(
        'name: "n" layer { name: "c" type: "Convolution" }'
        'layer { name: "r" type: "ReLU" } layer { name: "s" type: "Scale" }'
    )
    shapes = [(3, 2, 5, 5), (3,)]
    blobs = [rng.standard_normal(s, np.float32) for s in shapes]
    kept: list = [rng.random(shapes[0]) < 0.3, None] if masks else []
    weights = [
        LayerWeights("c", "Convolution", blobs, kept, [b * 2 for b in blobs]),
        LayerWeights("r", "ReLU"),
        LayerWeights("s", "Scale", [np.float32(7).reshape(()), np.zeros((0, 4), np.float32)]),
    ]
    write_caffemodel(path, net, weights, write_diff=diff)
    return net, weights


@pytest.mark.parametrize("diff", [False, True])
def test_round_trip(tmp_path, diff):
    file = tmp_path / "a.caffemodel"
    net, weights = make(file, diff=diff)
    got = read_caffemodel(file)
    assert [(w.name, w.type) for w in got] == [(w.name, w.type) for w in weights]
    for a, b in zip(got, weights, strict=True):
        assert [x.shape for x in a.blobs] == [x.shape for x in b.blobs]
        for x, y in zip(a.blobs, b.blobs, strict=True):
            np.testing.assert_array_equal(x, y)
        for x, y in zip(a.masks, b.masks, strict=True):
            assert (x is None) == (y is None) and (x is None or np.array_equal(x, y))
        for x, y in zip(a.diffs, b.diffs, strict=True):
            assert (x is not None) == (diff and y is not None) and (x is None or np.array_equal(x, y))
    assert read_structure(file) == net


def test_written_as_caffe_expects(tmp_path):
    """Packed floats in field 5, shape in 7, nothing else but the mask in 5000; protobuf reads it."""
    file = tmp_path / "a.caffemodel"
    _, weights = make(file)
    net = schema.NetParameter.FromString(file.read_bytes())
    blob = net.layer[0].blobs[0]
    assert [f.number for f, _ in blob.ListFields()] == [5, 7, 5000]
    assert list(blob.shape.dim) == [3, 2, 5, 5]
    np.testing.assert_array_equal(np.array(blob.data, np.float32), weights[0].blobs[0].ravel())
    bits = "".join(f"{byte:08b}"[::-1] for byte in blob.mask)
    assert [b == "1" for b in bits[:150]] == weights[0].masks[0].ravel().tolist() and set(bits[150:]) <= {"0"}
    assert net.layer[2].blobs[0].HasField("shape") and list(net.layer[2].blobs[0].data) == [7]
    again = schema.NetParameter.FromString(net.SerializeToString())
    assert again == net


def test_unknown_fields_of_the_net_are_kept(tmp_path):
    file, copy = tmp_path / "a.caffemodel", tmp_path / "b.caffemodel"
    make(file)
    strange = b"\x9a\x06\x05hello"  # NetParameter 99, unknown
    file.write_bytes(file.read_bytes() + strange)
    write_caffemodel(copy, read_structure(file), read_caffemodel(file))
    assert strange in copy.read_bytes()


def test_unknown_fields_of_layers_go_from_the_weights_into_what_a_net_saves(tmp_path):
    """For layers of the same name and type; once, however often they are read and written."""
    text = """
    layer { name: "in" type: "Input" top: "x" input_param { shape { dim: 1 dim: 3 } } }
    layer { name: "ip" type: "InnerProduct" bottom: "x" top: "y" inner_product_param { num_output: 2 } }
    layer { name: "act" type: "ReLU" bottom: "y" top: "y" }
    layer { name: "other" type: "TanH" bottom: "y" top: "z" }
    """
    net, file, copy = protocaffe.Net(parse_net(text)), tmp_path / "a.caffemodel", tmp_path / "b.caffemodel"
    # a string, a number, and a group with a number in it, as another Caffe may have them
    strange = wire.head(9000, 5) + b"hello" + wire.varint_field(9001, 300)
    strange += b"\x93\xb2\x04" + wire.varint_field(1, 5) + b"\x94\xb2\x04"
    net.save(file)
    parts = []
    for number, _, a, b in wire.scan(file.read_bytes(), 0, file.stat().st_size):
        layer = number == 100
        parts += wire.wrapped(number, [file.read_bytes()[a:b], *([strange] if layer else [])])
    file.write_bytes(b"".join(parts))
    named = {w.name: w for w in read_caffemodel(file)}
    assert {w.unknown for w in named.values()} == {strange}

    other = protocaffe.Net(parse_net(text.replace("TanH", "Sigmoid")))
    for source in (file, copy, file):
        other.copy_from(source)
        other.save(copy)
        assert {w.name: w.unknown for w in read_caffemodel(copy)} == {
            "in": strange, "ip": strange, "act": strange, "other": b"",
        }  # fmt: skip
    write_caffemodel(copy, read_structure(file), read_caffemodel(file), unknown={"ip": strange})
    assert [w.unknown for w in read_caffemodel(copy)] == [strange] * 4
    net.copy_from(copy)
    assert net.forward(x=np.ones((1, 3)))["z"].shape == (1, 2)


def test_weights_without_a_layer_are_refused(tmp_path):
    file = tmp_path / "a.caffemodel"
    with pytest.raises(WeightsError, match='"b"'):
        write_caffemodel(file, parse_net('layer { name: "a" }'), [LayerWeights("b", "X", [np.ones(2)])])
    assert not list(tmp_path.iterdir())


def layer_bytes(blob: bytes, kind: bytes = b"InnerProduct", times: int = 1) -> bytes:
    inner = b"".join([*wire.wrapped(1, [b"ip"]), *wire.wrapped(2, [kind]), *(wire.wrapped(7, [blob]) * times)])
    return b"".join(wire.wrapped(100, [inner]))


SHAPE = wire.head(7, 4) + wire.head(1, 2) + b"\x02\x03"
VALUES = np.arange(6, dtype="<f4")
F4, F8 = VALUES.tobytes(), VALUES.astype("<f8").tobytes()
FORMS = {
    "packed": wire.head(5, 24) + F4,
    "in pieces": wire.head(5, 8) + F4[:8] + wire.head(5, 16) + F4[8:],
    "unpacked": b"".join(b"\x2d" + F4[i : i + 4] for i in range(0, 24, 4)),
    "mixed": b"\x2d" + F4[:4] + wire.head(5, 16) + F4[4:20] + b"\x2d" + F4[20:],
    "double": wire.head(8, 48) + F8,
    "unpacked double": b"".join(b"\x41" + F8[i : i + 8] for i in range(0, 48, 8)),
    "raw float": wire.varint_field(10, 1) + wire.head(12, 24) + F4,
    "raw double": wire.varint_field(10, 0) + wire.head(12, 48) + F8,
    "raw half": wire.varint_field(10, 2) + wire.head(12, 12) + VALUES.astype("<f2").tobytes(),
    "raw int": wire.varint_field(10, 3) + wire.head(12, 24) + VALUES.astype("<i4").tobytes(),
    "raw byte": wire.varint_field(10, 5) + wire.head(12, 6) + VALUES.astype("u1").tobytes(),
}


@pytest.mark.parametrize("form", FORMS)
def test_forms_of_values(tmp_path, form):
    file = tmp_path / "a.caffemodel"
    for blob in (FORMS[form] + SHAPE, SHAPE + FORMS[form]):
        file.write_bytes(layer_bytes(blob))
        got = read_caffemodel(file)[0].blobs[0]
        assert got.shape == (2, 3) and got.dtype == (np.float64 if "double" in form else np.float32)
        np.testing.assert_array_equal(got.ravel(), VALUES)


def test_long_runs_of_unpacked_values():
    values = np.arange(1000, dtype="<f4")
    blob = b"".join(b"\x2d" + v.tobytes() for v in values) + b"\x35\0\0\0\0" * 1000 + wire.varint_field(1, 10)
    blob += wire.varint_field(2, 100) + wire.varint_field(3, 1) + wire.varint_field(4, 1)
    got = wire.read_blob(blob, 0, len(blob))
    np.testing.assert_array_equal(got.data.ravel(), values)
    assert got.data.shape == (10, 100, 1, 1) and got.diff is not None and not got.diff.any()


def test_masks_of_dynamic_network_surgery(tmp_path):
    kept = np.array([1, 0, 1, 1, 0, 0], "<f4")
    mask = wire.head(5, 24) + kept.tobytes() + SHAPE
    value = FORMS["packed"] + SHAPE
    file = tmp_path / "a.caffemodel"
    inner = b"".join([*wire.wrapped(1, [b"c"]), *wire.wrapped(2, [b"CConvolution"])])
    inner += b"".join(b"".join(wire.wrapped(7, [b])) for b in (value, value, mask, mask))
    file.write_bytes(b"".join(wire.wrapped(100, [inner])))
    (layer,) = read_caffemodel(file)
    assert layer.type == "Convolution" and len(layer.blobs) == 2
    np.testing.assert_array_equal(layer.masks[1].ravel(), kept != 0)
    file.write_bytes(layer_bytes(value, b"CInnerProduct", times=2))
    assert read_caffemodel(file)[0].type == "InnerProduct"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "empty"),
        (b"\x89HDF\r\n\x1a\n", "HDF5"),
        (b'name: "LeNet"\nlayer {\n', "text"),
        (b"\x0a\x04abc\xff", "no layers"),
        (layer_bytes(FORMS["packed"] + SHAPE)[:-3], "ends too early"),
        (layer_bytes(FORMS["packed"][:-4] + SHAPE), "malformed|ends|claims"),
        (
            layer_bytes(wire.head(5, 20) + F4[:20] + SHAPE),
            r'shape \(2, 3\) with 5 values, expected 6 \(layer "ip", blob 0\)',
        ),
        (layer_bytes(wire.head(5, 23) + F4[:23] + SHAPE), "23 bytes"),
        (layer_bytes(FORMS["packed"] + wire.head(7, 11) + wire.head(1, 9) + b"\xff" * 8 + b"\x7f"), "values, expected"),
        (layer_bytes(FORMS["packed"] + wire.varint_field(1, -5)), "-5"),
        (layer_bytes(FORMS["packed"] + SHAPE + wire.head(5000, 2) + b"ab"), "mask of 2 bytes"),
        (layer_bytes(wire.head(12, 24) + F4 + SHAPE), "without a type"),
        (layer_bytes(wire.varint_field(10, 9) + wire.head(12, 24) + F4 + SHAPE), "unknown type 9"),
        (wire.head(100, 4) + wire.head(1, 2) + b"\xff\xfe", "UTF-8"),
    ],
)
def test_damage_is_named(tmp_path, content, said):
    file = tmp_path / "bad.caffemodel"
    file.write_bytes(content)
    with pytest.raises(FileFormatError, match=said) as caught:
        read_caffemodel(file)
    assert "bad.caffemodel" in str(caught.value)


SMALL = layer_bytes(FORMS["packed"] + SHAPE + wire.head(5000, 1) + b"\x15") + layer_bytes(FORMS["unpacked"] + SHAPE)
OLD_BYTES = [(GOLDENS / c["dir"] / "weights_old.caffemodel").read_bytes() for c in OLD]


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.data())
def test_damaged_files_raise_nothing_else(tmp_path, data):
    content = bytearray(data.draw(st.sampled_from([SMALL, *OLD_BYTES])))
    if data.draw(st.booleans()):
        content = content[: data.draw(st.integers(0, len(content)))]
    for bit in data.draw(st.lists(st.integers(0, max(8 * min(len(content), 400) - 1, 0)), max_size=6)):
        if content:
            content[bit // 8] ^= 1 << bit % 8
    file = tmp_path / "a.caffemodel"
    file.write_bytes(bytes(content))
    for read in (read_caffemodel, read_structure):
        try:
            read(file)
        except FileFormatError as e:
            assert "a.caffemodel" in str(e)


@given(st.binary(max_size=200))
def test_any_bytes(content):
    with contextlib.suppress(wire.WireError, ValueError):
        wire.read_blob(content, 0, len(content))


def test_large_blobs_do_not_pass_through_lists(tmp_path):
    """Reading and writing 20M floats may take a few copies of them, not Python objects (10 times as much)."""
    code = """
import resource, sys
import numpy as np
from protocaffe.io.caffemodel import LayerWeights, read_caffemodel, write_caffemodel
from protocaffe.io.prototxt import parse_net
values = np.arange(20_000_000, dtype=np.float32).reshape(4000, 5000)
net = parse_net('layer { name: "ip" }')
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
write_caffemodel(sys.argv[1], net, [LayerWeights("ip", "InnerProduct", [values])])
written = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
assert written - before < 20_000, f"writing took {written - before} kB"
got = read_caffemodel(sys.argv[1])[0].blobs[0]
assert np.array_equal(got, values)
read = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
assert read - written < 250_000, f"reading took {read - written} kB"
"""
    file = tmp_path / "big.caffemodel"
    subprocess.run([sys.executable, "-c", code, str(file)], check=True)
    file.unlink()
