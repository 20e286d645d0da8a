"""Every kind of file with bits flipped at many places, always the same ones.

What comes is an error of ours, or values as they lie there; never another exception, a crash, or much memory: the
process may take 600 MiB more than it has.
"""

from __future__ import annotations

import resource
from collections import Counter

import h5py
import lmdb
import numpy as np
import pytest

from protocaffe.data.datum import encode_datum
from protocaffe.data.datum_source import DatumSource
from protocaffe.data.hdf5_source import Hdf5Source
from protocaffe.data.lmdb_source import LmdbReader, write_lmdb
from protocaffe.errors import DataError, FileFormatError
from protocaffe.io import schema
from protocaffe.io.binaryproto import read_blob, write_mean
from protocaffe.io.caffemodel import LayerWeights, read_caffemodel, read_structure, write_caffemodel
from protocaffe.io.prototxt import parse_net
from protocaffe.io.solverstate import SolverState, read_solverstate, write_solverstate

RNG = np.random.default_rng(5)
ARRAYS = [RNG.random((4, 3, 2, 2), np.float32), RNG.random(4, np.float32)]


@pytest.fixture(autouse=True)
def little_memory():
    with open("/proc/self/statm") as file:
        used = int(file.read().split()[0]) * resource.getpagesize()
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (used + (600 << 20), before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)


def flipped(path, content, count, reach=None):
    """Write ``content`` to ``path`` with one to three bits flipped, ``count`` times, and cut short now and then."""
    rng = np.random.default_rng(len(content))
    for _ in range(count):
        damaged = bytearray(content)
        for place in rng.integers(0, 8 * (reach or len(content)), rng.integers(1, 4)).tolist():
            damaged[place // 8] ^= 1 << place % 8
        if rng.random() < 0.1:
            del damaged[rng.integers(0, len(damaged)) :]
        path.write_bytes(damaged)
        yield


def outcomes(path, content, count, read, error, reach=None):
    """How often it was read and refused: both must come about."""
    seen = Counter()
    for _ in flipped(path, content, count, reach):
        try:
            read()
            seen["read"] += 1
        except error as raised:
            assert path.name in str(raised) or str(path.parent) in str(raised)
            seen["refused"] += 1
    assert len(seen) == 2, seen


def test_caffemodel(tmp_path):
    path = tmp_path / "a.caffemodel"
    net = parse_net('name: "n" layer { name: "c" type: "Convolution" }')
    write_caffemodel(path, net, [LayerWeights("c", "Convolution", ARRAYS, [ARRAYS[0] > 0.5, None])])

    def read():
        for layer in read_caffemodel(path):
            assert all(b.dtype in (np.float32, np.float64) and b.size < 1000 for b in layer.blobs)
        read_structure(path)

    outcomes(path, path.read_bytes(), 600, read, FileFormatError)


def test_solverstate(tmp_path):
    path = tmp_path / "a.solverstate"
    resume = schema.ResumeState(seed=3, forward_count=9, type="SGD")
    resume.source.add(net=0, layer="data", position=640)
    write_solverstate(path, SolverState(10, "a.caffemodel", 1, ARRAYS, resume))

    def read():
        state = read_solverstate(path)
        assert state.iter >= 0 and all(h.size < 1000 for h in state.history)

    outcomes(path, path.read_bytes(), 600, read, FileFormatError)


def test_mean(tmp_path):
    path = tmp_path / "a.binaryproto"
    write_mean(path, ARRAYS[0][0])
    outcomes(path, path.read_bytes(), 300, lambda: read_blob(path), FileFormatError)


def make_lmdb(folder):
    """Two levels of pages, and records of more than a page."""
    small = [encode_datum(RNG.integers(0, 256, (1, 8, 8)).astype(np.uint8), i % 10) for i in range(700)]
    large = [encode_datum(RNG.integers(0, 256, (1, 80, 80)).astype(np.uint8), i) for i in range(3)]
    write_lmdb(folder, small + large)
    return folder / "data.mdb"


def test_lmdb(tmp_path):
    path = make_lmdb(tmp_path / "db")
    content = path.read_bytes()
    items = np.array([0, 1, 300, 301, 699, 700, 701, 702])

    def read():
        source = DatumSource(path.parent, same_shape=False, cache_bytes=0)
        assert len(source) < 10_000
        found, _ = source.fetch(items[items < len(source)])
        assert all(item.dtype == np.uint8 for item in found)

    outcomes(path, content, 200, read, DataError)
    outcomes(path, content, 300, read, DataError, reach=200)  # the first page's numbers


def test_lmdb_as_liblmdb_reads_it(tmp_path):
    path = make_lmdb(tmp_path / "db")
    with lmdb.open(str(path.parent), readonly=True, lock=False) as env, env.begin() as transaction:
        assert env.stat()["depth"] == 2 and env.stat()["overflow_pages"]
        pairs = list(transaction.cursor())
    reader = LmdbReader(path.parent)
    assert len(reader) == len(pairs)
    for index in [*range(len(pairs)), *RNG.permutation(len(pairs)).tolist()]:
        assert (reader.key(index), reader.read(index)) == pairs[index]


@pytest.mark.parametrize("compression", [None, "gzip"])
def test_hdf5(tmp_path, compression):
    path, rows = tmp_path / "a.h5", tmp_path / "list"
    rows.write_text(str(path))
    with h5py.File(path, "w") as file:
        file.create_dataset("data", data=RNG.random((20, 3, 4), np.float32), compression=compression)
        file.create_dataset("label", data=np.arange(20.0), compression=compression)

    def read():
        source = Hdf5Source(rows, ["data", "label"], 8)
        assert source.size < 1 << 20
        source.produce(16, [np.zeros(shape, np.float32) for shape in source.shapes])

    outcomes(path, path.read_bytes(), 150, read, DataError)
