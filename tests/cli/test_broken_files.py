"""Broken data, weights and snapshots: exit code 1 and one line that names the file (and layer, record, blob).

Tests may run as root, whom permissions do not bind: what cannot be written to is a path below a file, or /proc.
"""

import resource
import subprocess
import sys

import h5py
import numpy as np
import pytest

from protocaffe.data.datum import encode_datum
from protocaffe.data.lmdb_source import write_lmdb
from protocaffe.io import schema, wire, write_mean
from protocaffe.io.solverstate import read_solverstate
from tests.cli.conftest import write_solver
from tests.cli.test_broken_inputs import one_line, truncated

NET = """
layer {{ name: "rows" type: "{}" top: "data" top: "label" {} }}
layer {{ name: "ip" type: "InnerProduct" bottom: "data" top: "ip" inner_product_param {{ num_output: 3 }} }}
layer {{ name: "loss" type: "SoftmaxWithLoss" bottom: "ip" bottom: "label" top: "loss" }}
"""
LMDB = 'data_param {{ source: "db" backend: LMDB batch_size: 4 }} transform_param {{ {} }}'
SHAPE = (1, 3, 4)


def records(count=10, **changes):
    """Datums with the labels 0, 1, 2 ...; ``r5=b"..."`` is another record 5."""
    values = [encode_datum(np.full(SHAPE, i, np.uint8), i % 3) for i in range(count)]
    for name, value in changes.items():
        values[int(name[1:])] = value
    return values


def damaged(path, change):
    write_lmdb(path, records())
    (path / "data.mdb").write_bytes(change((path / "data.mdb").read_bytes()))


def make_folder(path, name, content):
    path.mkdir()
    (path / name).write_bytes(content)


def encoded(content):
    return schema.Datum(channels=1, height=3, width=4, encoded=True, data=content, label=1).SerializeToString()


OTHER_SIZE = encode_datum(np.zeros((1, 4, 4), np.uint8), 1)
LYING = schema.Datum(channels=1 << 20, height=1 << 20, width=1 << 20, data=b"x", label=1).SerializeToString()

DATABASES = {
    "missing": (lambda p: None, "", ["no such folder"]),
    "a file": (lambda p: p.write_bytes(b"x"), "", ["is a file"]),
    "no data.mdb": (lambda p: p.mkdir(), "", ["no data.mdb"]),
    "data.mdb is empty": (lambda p: make_folder(p, "data.mdb", b""), "", ["empty"]),
    "data.mdb is something else": (lambda p: make_folder(p, "data.mdb", b"x" * 9000), "", ["not an LMDB"]),
    "no records": (lambda p: write_lmdb(p, []), "", ["the LMDB is empty"]),
    "truncated": (lambda p: damaged(p, lambda c: c[:-1]), "", ["truncated"]),
    "a page of zeros": (lambda p: damaged(p, lambda c: c[:8192] + bytes(4096) * (len(c) // 4096 - 2)), "", ["page"]),
    "a record of another size": (lambda p: write_lmdb(p, records(r5=OTHER_SIZE)), "", ["record 5", "(1, 4, 4)"]),
    "a record that is no Datum": (lambda p: write_lmdb(p, records(r6=b"\xff\xff")), "", ["record 6", "Datum"]),
    "a first record that is no Datum": (lambda p: write_lmdb(p, records(r0=b"\xff\xff")), "", ["record 0", "Datum"]),
    "a record that claims a size": (lambda p: write_lmdb(p, records(r5=LYING)), "", ["record 5", "1048576"]),
    "a damaged image": (
        lambda p: write_lmdb(p, records(r0=encoded(b"\x89PNG\r\n\x1a\n123"))),
        "",
        ["record 0", "image"],
    ),
    "no labels": (lambda p: write_lmdb(p, [encode_datum(np.zeros(SHAPE, np.uint8))] * 5), "", ["no item has a label"]),
    "a label out of range": (
        lambda p: write_lmdb(p, records(r7=encode_datum(np.zeros(SHAPE, np.uint8), 3))),
        "",
        ['"loss" (SoftmaxWithLoss)', "label 3", "0 to 2"],
    ),
    "a negative label": (
        lambda p: write_lmdb(p, records(r7=encode_datum(np.zeros(SHAPE, np.uint8), -1))),
        "",
        ['"loss" (SoftmaxWithLoss)', "label -1"],
    ),
    "values that are NaN": (
        lambda p: write_lmdb(p, [encode_datum(np.full(SHAPE, np.nan, np.float32), 1)] * 5),
        "",
        ["the loss is nan", "iteration 0", "data"],
    ),
    "a mean of another shape": (
        lambda p: (write_lmdb(p, records()), write_mean(p.with_name("mean"), np.zeros((1, 4, 4)))),
        'mean_file: "mean"',
        ["mean", "(1, 3, 4)", "(1, 4, 4)"],
    ),
    "no mean": (lambda p: write_lmdb(p, records()), 'mean_file: "nomean"', ["nomean"]),
    "a truncated mean": (
        lambda p: (
            write_lmdb(p, records()),
            write_mean(p.with_name("mean"), np.zeros(SHAPE)),
            p.with_name("mean").write_bytes(truncated(p.with_name("mean").read_bytes())),
        ),
        'mean_file: "mean"',
        ['"mean"', "binaryproto"],
    ),
    "too many mean values": (lambda p: write_lmdb(p, records()), "mean_value: 1 mean_value: 2", ["mean_value"]),
    "a crop larger than the items": (lambda p: write_lmdb(p, records()), "crop_size: 4", ["crop_size is 4", "3 x 4"]),
}


def train(cli, folder, kind, options, monkeypatch):
    monkeypatch.chdir(folder)
    (folder / "net.prototxt").write_text(NET.format(kind, options))
    write_solver(folder / "s.prototxt", net="net.prototxt", test_iter=None, test_interval=None)
    return cli("train", "--solver", "s.prototxt")


@pytest.mark.parametrize("what", DATABASES)
def test_broken_database(cli, tmp_path, monkeypatch, what):
    prepare, transform, needles = DATABASES[what]
    prepare(tmp_path / "db")
    result = train(cli, tmp_path, "Data", LMDB.format(transform), monkeypatch)
    if not any("(SoftmaxWithLoss)" in n or "loss is" in n for n in needles):
        needles = ['"rows" (Data)', *needles]
    one_line(result, *needles)
    assert not list(tmp_path.glob("*.caffemodel"))


def write_h5(path, **sets):
    with h5py.File(path, "w") as file:
        for name, values in ({"data": np.zeros((9, 4), np.float32), "label": np.zeros(9)} | sets).items():
            if values is not None:
                file[name] = values


HDF5 = {
    "no list": (lambda p: (p.parent / "list").unlink(), ["list"]),
    "an empty list": (lambda p: (p.parent / "list").write_text(" "), ["list", "empty"]),
    "a list that is no text": (lambda p: (p.parent / "list").write_bytes(b"\xff"), ["list", "text"]),
    "no file": (lambda p: None, ["a.h5", "no such"]),
    "something else": (lambda p: p.write_bytes(b"x" * 5000), ["a.h5", "HDF5"]),
    "truncated": (lambda p: (write_h5(p), p.write_bytes(truncated(p.read_bytes()))), ["a.h5"]),
    "no such data set": (lambda p: write_h5(p, label=None), ["a.h5", '"label"', '"data"']),
    "text": (lambda p: write_h5(p, label=["x"] * 9), ["a.h5", '"label"', "numbers"]),
    "other numbers of rows": (lambda p: write_h5(p, label=np.zeros(8)), ["a.h5", '"label"', "8"]),
    "no rows": (lambda p: write_h5(p, data=np.zeros((0, 4))), ["a.h5", '"data"', "(0, 4)"]),
}


@pytest.mark.parametrize("what", HDF5)
def test_broken_hdf5(cli, tmp_path, monkeypatch, what):
    prepare, needles = HDF5[what]
    (tmp_path / "list").write_text("a.h5")
    prepare(tmp_path / "a.h5")
    options = 'hdf5_data_param { source: "list" batch_size: 4 }'
    one_line(train(cli, tmp_path, "HDF5Data", options, monkeypatch), '"rows" (HDF5Data)', *needles)


def in_layer(content):
    """A caffemodel with a layer "conv1" that holds ``content``."""
    return b"".join(wire.wrapped(100, [wire.head(1, 5) + b"conv1", content]))


def nested(number, depth):
    content = b""
    for _ in range(depth):
        content = b"".join(wire.wrapped(number, [content]))
    return content


FIVE_OF_SIX = wire.head(5, 20) + bytes(20) + wire.head(7, 4) + wire.head(1, 2) + b"\2\3"
WEIGHTS = {
    "missing": (None, ["bad.caffemodel"]),
    "four gigabytes that are not there": (wire.head(100, (1 << 32) - 1) + b"x", ["claims 4294967295 bytes"]),
    "2^63 bytes that are not there": (wire.head(100, 1 << 63) + b"x", ["claims"]),
    "a number without end": (b"\xff" * 30, ["malformed"]),
    "groups nested without end": (b"\xa3\x06" + b"\x0b" * 100_000, ["bad.caffemodel"]),
    "a group that does not end": (b"\x0b\x08\x01", ["bad.caffemodel"]),
    "values that do not fit their shape": (in_layer(wire.head(7, len(FIVE_OF_SIX)) + FIVE_OF_SIX), ["conv1", "blob 0"]),
    "a shape of 2^124 values": (
        in_layer(b"".join(wire.wrapped(7, [wire.head(7, 20) + wire.head(1, 18) + (b"\xff" * 8 + b"\x7f") * 2]))),
        ["conv1", "blob 0"],
    ),
    "a blob too many": (
        in_layer(b"".join(wire.wrapped(7, wire.blob_parts(np.zeros(2)))) * 3),
        ['"conv1" (Convolution)', "2 parameters", "3"],
    ),
    "a name that is no UTF-8": (wire.head(100, 4) + wire.head(1, 2) + b"\xff\xfe", ["UTF-8"]),
    "an HDF5 file": (b"\x89HDF\r\n\x1a\n" + bytes(100), ["HDF5"]),
}


@pytest.mark.parametrize("what", WEIGHTS)
def test_broken_weights(cli, lenet, what):
    content, needles = WEIGHTS[what]
    if content is not None:
        (lenet / "bad.caffemodel").write_bytes(content)
    result = cli("summary", "--model", "models/lenet/deploy.prototxt", "--weights", "bad.caffemodel")
    one_line(result, "bad.caffemodel", *needles)


def test_unknown_fields_nested_without_end_are_skipped(cli, lenet, trained):
    (lenet / "odd.caffemodel").write_bytes(trained.read_bytes() + nested(100, 5000))
    plain, odd = (
        cli("summary", "--model", "models/lenet/deploy.prototxt", "--weights", path)
        for path in (trained, "odd.caffemodel")
    )
    assert odd == plain and odd.code == 0


@pytest.mark.parametrize(
    ("output", "needle"),
    [
        ("s.prototxt/x", "s.prototxt"),
        ("no/where", "no"),
        ("/proc/x", "error: /proc/x: "),
        ("models", "folder"),
        ("/dev/full", "error: /dev/full: No space left on device"),
    ],
)
def test_an_output_that_cannot_be_written(cli, lenet, trained, output, needle):
    before = sorted(lenet.iterdir())
    args = ("--model", "models/lenet/train_val.prototxt", "--weights", trained, "--sparsity", 0.5)
    one_line(cli("prune", *args, "--output", output), needle)
    assert sorted(lenet.iterdir()) == before


@pytest.fixture
def snapshot(cli, lenet):
    """A solver file for five iterations, its first two done."""
    write_solver(lenet / "s.prototxt", max_iter=2, test_iter=None, test_interval=None)
    assert cli("train", "--solver", "s.prototxt").code == 0
    write_solver(lenet / "s.prototxt", max_iter=5, test_iter=None, test_interval=None)
    return lenet / "s_iter_2.solverstate"


def other_net(folder):
    path = folder / "models/lenet/train_val.prototxt"
    path.write_text(path.read_text().replace("num_output: 50\n", "num_output: 49\n"))


def state(change):
    return lambda f: (f / "s_iter_2.solverstate").write_bytes(change((f / "s_iter_2.solverstate").read_bytes()))


SNAPSHOTS = {
    "missing": (lambda f: (f / "s_iter_2.solverstate").unlink(), ["s_iter_2.solverstate"]),
    "truncated": (state(truncated), ["s_iter_2.solverstate", "ends too early"]),
    "empty": (state(lambda c: b""), ["s_iter_2.solverstate", "empty"]),
    "text": (state(lambda c: b"iter: 2"), ["s_iter_2.solverstate", "text"]),
    "weights in its place": (
        state(lambda c: b"\x0a\x01n" + bytes([0xA2, 0x06, 0x03, 0x0A, 0x01, 0x61])),
        ["s_iter_2.solverstate"],
    ),
    "a negative iteration": (
        state(lambda c: wire.varint_field(1, -1) + c),
        ["s_iter_2.solverstate", "iter -1"],
    ),
    "its weights are missing": (lambda f: (f / "s_iter_2.caffemodel").unlink(), ["s_iter_2.caffemodel"]),
    "its weights are truncated": (
        lambda f: (f / "s_iter_2.caffemodel").write_bytes(truncated((f / "s_iter_2.caffemodel").read_bytes())),
        ["s_iter_2.caffemodel"],
    ),
    "of another net": (other_net, ["s_iter_2.solverstate", "history"]),
    "of another solver": (
        lambda f: write_solver(f / "s.prototxt", max_iter=5, test_iter=None, test_interval=None, type="Nesterov"),
        ["s_iter_2.solverstate", "SGD", "Nesterov"],
    ),
}


@pytest.mark.parametrize("what", SNAPSHOTS)
def test_broken_snapshot(cli, lenet, snapshot, what):
    damage, needles = SNAPSHOTS[what]
    damage(lenet)
    files = {p: p.read_bytes() for p in lenet.glob("s_iter_*")}
    one_line(cli("train", "--solver", "s.prototxt", "--snapshot", snapshot.name), *needles)
    assert {p: p.read_bytes() for p in lenet.glob("s_iter_*")} == files


def test_a_full_disk_leaves_the_earlier_snapshot(lenet, snapshot):
    """In a child process whose files may not grow beyond what holds no snapshot."""
    before = {p.name: p.read_bytes() for p in lenet.glob("s_iter_*")}
    code = "import sys; from protocaffe.cli import main; main(sys.argv[1:])"
    result = subprocess.run(
        [sys.executable, "-c", code, "train", "--solver", "s.prototxt", "--snapshot", snapshot.name],
        capture_output=True,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20)),
    )
    assert result.returncode == 1 and "Traceback" not in result.stderr
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert "s_iter_5.caffemodel" in line and "File too large" in line
    assert {p.name: p.read_bytes() for p in lenet.glob("*s_iter_*")} == before
    assert not list(lenet.glob(".*.tmp")) and read_solverstate(snapshot).iter == 2
