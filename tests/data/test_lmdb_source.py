import os
import subprocess
import sys

import lmdb
import numpy as np
import pytest

from protocaffe.data.datum import encode_datum
from protocaffe.data.datum_source import DatumSource
from protocaffe.data.lmdb_pages import LmdbFile
from protocaffe.data.lmdb_source import LmdbReader, LmdbWriter, write_lmdb
from protocaffe.errors import DataError

RNG = np.random.default_rng(0)


def make(path, items, labels=None):
    labels = range(len(items)) if labels is None else labels
    write_lmdb(path, (encode_datum(item, label) for item, label in zip(items, labels, strict=True)))
    return path


def test_reads_by_index_in_any_order(tmp_path):
    seen = []
    assert write_lmdb(tmp_path / "db", (b"%d" % i for i in range(2500)), seen.append) == 2500
    assert seen == [1000, 2000]
    reader = LmdbReader(tmp_path / "db")
    assert len(reader) == 2500 and reader.key(17) == b"00000017"
    for index in (0, 1, 2, 2499, 0, 7, 8, 3, 2499):
        assert reader.read(index) == b"%d" % index


def written(path, values, order=None):
    """An LMDB of the values in the order of their keys, which come in ``order``."""
    with lmdb.open(str(path), map_size=1 << 26) as env, env.begin(write=True) as transaction:
        for i in range(len(values)) if order is None else order:
            transaction.put(b"%08d" % i, values[i], append=order is None)
    return path


def values_of(kind):
    rng = np.random.default_rng(3)
    sizes = {
        "equal": [800] * 2000,
        "odd": [301] * 2000,
        "mixed": rng.integers(0, 1900, 1500).tolist(),
        "tiny": [1] * 3000,
        "large": [5000] * 60,
        "one large": [800] * 700 + [5000] + [800] * 700,
        "few": [800] * 70,
    }[kind]
    return [rng.bytes(size) for size in sizes]


@pytest.mark.parametrize("order", ["appended", "shuffled"])
@pytest.mark.parametrize("kind", ["equal", "odd", "mixed", "tiny", "large", "one large", "few"])
def test_records_that_follow_one_another_are_read_as_one_by_one(tmp_path, kind, order):
    values = values_of(kind)
    order = None if order == "appended" else np.random.default_rng(0).permutation(len(values)).tolist()
    reader, n = LmdbReader(written(tmp_path / "db", values, order)), len(values)
    for first, last in ((0, n), (1, n), (3, n - 2), (n // 2, min(n, n // 2 + 64)), (max(0, n - 65), n)):
        assert reader.read_many(range(first, last)) == values[first:last]
        assert reader.read(last - 1) == values[last - 1]
    some = np.random.default_rng(1).integers(0, n, 100).tolist()
    assert reader.read_many(some) == [values[i] for i in some]
    assert reader.read_many([5] * 70) == [values[5]] * 70 and reader.read_many([]) == []


def test_pages_are_read_many_at_a_time(tmp_path, monkeypatch):
    values = values_of("equal")
    reader, counts = LmdbReader(written(tmp_path / "db", values)), []
    run = LmdbFile.run
    monkeypatch.setattr(LmdbFile, "run", lambda *args: counts.append(found := run(*args)) or found)
    for _ in range(2):
        assert reader.read_many(range(2000)) == values
    assert sum(map(len, counts)) > 3600


def test_a_file_that_shrinks_while_it_is_read(tmp_path, monkeypatch):
    values = values_of("equal")
    reader = LmdbReader(written(tmp_path / "db", values))
    values_at_once, size = LmdbFile._values, (tmp_path / "db" / "data.mdb").stat().st_size
    content = (tmp_path / "db" / "data.mdb").read_bytes()

    def shrinks(self, *args):
        found = values_at_once(self, *args)
        os.truncate(tmp_path / "db" / "data.mdb", 8192)
        return found

    with monkeypatch.context() as patch:
        patch.setattr(LmdbFile, "_values", shrinks)
        with pytest.raises(DataError, match=r"record \d+ cannot be read \(is damaged: page \d+ lies behind its end\)"):
            reader.read_many(range(2000))
    (tmp_path / "db" / "data.mdb").write_bytes(content)
    assert (tmp_path / "db" / "data.mdb").stat().st_size == size
    assert [reader.read(i) for i in (7, 8)] == values[7:9] and reader.read_many(range(2000)) == values


@pytest.mark.parametrize("at", [0, 8, 10, 12, 13, 14, 15, 16, 17, 20, 21, "node", "size", "flags", "key"])
def test_damage_is_told_as_by_reading_one_by_one(tmp_path, at):
    values = values_of("equal")
    path = written(tmp_path / "db", values)
    content = bytearray((path / "data.mdb").read_bytes())
    page = 4096 * LmdbReader(path)._file._leaves[77]
    slot = int.from_bytes(content[page + 18 : page + 20], "little")
    place = {"node": slot, "size": slot + 2, "flags": slot + 4, "key": slot + 6}.get(at, at)
    content[page + place] ^= 0x51
    (path / "data.mdb").write_bytes(content)

    def outcome(read):
        try:
            return read(LmdbReader(path))
        except DataError as error:
            return str(error)

    wanted = outcome(lambda reader: [reader.read(i) for i in range(2000)])
    assert wanted != values or at in (8, 14)  # nobody looks at those bits
    assert outcome(lambda reader: reader.read_many(range(2000))) == wanted


def test_readers_of_one_folder_share_it(tmp_path):
    write_lmdb(tmp_path / "db", [b"a", b"b"])
    first, second = LmdbReader(tmp_path / "db"), LmdbReader(str(tmp_path / "." / "db"))
    first.close()
    assert second.read(1) == b"b"
    second.close()
    del first, second
    assert LmdbReader(tmp_path / "db").read(0) == b"a"


def test_writer_grows_and_leaves_nothing_behind_on_failure(tmp_path, monkeypatch):
    monkeypatch.setattr("protocaffe.data.lmdb_source.FIRST_MAP_SIZE", 1 << 16)
    write_lmdb(tmp_path / "db", (bytes(1000) for _ in range(1500)))
    assert len(LmdbReader(tmp_path / "db")) == 1500
    with pytest.raises(ZeroDivisionError), LmdbWriter(tmp_path / "other") as writer:
        writer.put(b"x")
        raise ZeroDivisionError
    assert [path.name for path in tmp_path.iterdir()] == ["db"]
    with pytest.raises(DataError, match="there already"):
        write_lmdb(tmp_path / "db", [])


def test_a_killed_writer_leaves_nothing_half(tmp_path):
    code = (
        "import os, signal, sys; from protocaffe.data.lmdb_source import LmdbWriter\n"
        "with LmdbWriter(sys.argv[1]) as writer:\n"
        "    [writer.put(bytes(99)) for _ in range(2500)]; os.kill(os.getpid(), signal.SIGKILL)"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "db")], check=False)
    (left,) = tmp_path.iterdir()
    assert left.name.startswith(".db.") and left.name.endswith(".tmp")
    assert write_lmdb(tmp_path / "db", [b"a"]) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["db"]
    assert [path.name for path in (tmp_path / "db").iterdir()] == ["data.mdb"]


def truncate(path):
    content = (path / "data.mdb").read_bytes()
    (path / "data.mdb").write_bytes(content[: len(content) - 4096])


def make_leveldb(path):
    path.mkdir()
    (path / "CURRENT").write_text("MANIFEST-000004")
    (path / "MANIFEST-000004").write_text("")


def make_file(path, content):
    path.mkdir()
    (path / "data.mdb").write_bytes(content)


@pytest.mark.parametrize(
    ("prepare", "reason"),
    [
        (lambda path: None, "no such folder"),
        (lambda path: path.write_text("x"), "is a file"),
        (lambda path: path.mkdir(), "no data.mdb"),
        (make_leveldb, "is a LevelDB"),
        (lambda path: make_file(path, b""), "data.mdb is empty"),
        (lambda path: make_file(path, b"hello" * 2000), "not an LMDB file"),
        (lambda path: (write_lmdb(path, [bytes(3000)] * 9), truncate(path)), "is truncated: data.mdb must have"),
        (lambda path: write_lmdb(path, []), "the LMDB is empty"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_errors_name_the_folder(tmp_path, prepare, reason):
    prepare(tmp_path / "db")
    with pytest.raises(DataError, match=f'"{tmp_path}/db".*{reason}'):
        LmdbReader(tmp_path / "db")


def test_open_elsewhere_in_the_process(tmp_path):
    write_lmdb(tmp_path / "db", [b"a"])
    with lmdb.open(str(tmp_path / "db")):
        assert LmdbReader(tmp_path / "db").read(0) == b"a"


@pytest.mark.parametrize("cache_bytes", [0, 1 << 20])
@pytest.mark.parametrize("kind", [np.uint8, np.float32])
def test_datum_source_gives_the_items(tmp_path, cache_bytes, kind):
    items = RNG.integers(0, 256, (20, 2, 3, 4)).astype(kind)
    labels = RNG.integers(0, 300, 20)
    source = DatumSource(make(tmp_path / "db", items, labels), cache_bytes=cache_bytes)
    assert len(source) == 20 and source.shape == (2, 3, 4)
    for indices in ([0, 1, 2], [19, 3, 3, 7], [18, 19, 0, 1], np.arange(20), [5], [4, 3, 2]):
        got, got_labels = source.fetch(np.asarray(indices))
        np.testing.assert_array_equal(got, items[indices])
        np.testing.assert_array_equal(got_labels, labels[indices])
    assert source.cached == bool(cache_bytes)


@pytest.mark.parametrize("cache_bytes", [0, 1 << 20])
def test_differing_shapes(tmp_path, cache_bytes):
    items = [np.full((1, 4, 4), 1, np.uint8), np.full((1, 5, 6), 2, np.uint8), np.full((2, 4, 4), 3, np.uint8)]
    path = make(tmp_path / "db", items)
    source = DatumSource(path, cache_bytes=cache_bytes)
    with pytest.raises(DataError, match=r'record 1 \(key "00000001"\): expected \(1, 4, 4\) uint8.*got \(1, 5, 6\)'):
        source.fetch(np.arange(2))
    loose = DatumSource(path, same_shape=False, cache_bytes=cache_bytes)
    got, _ = loose.fetch(np.arange(2))
    assert [item.shape for item in got] == [(1, 4, 4), (1, 5, 6)]
    with pytest.raises(DataError, match="record 2"):
        loose.fetch(np.arange(3))


def test_labels_may_be_missing_but_not_all(tmp_path):
    item = np.zeros((1, 2, 2), np.uint8)
    path = make(tmp_path / "none", [item] * 3, [None] * 3)
    with pytest.raises(DataError, match="no item has a label"):
        DatumSource(path)
    assert len(DatumSource(path, labels=False)) == 3
    _, labels = DatumSource(make(tmp_path / "some", [item] * 3, [None, 4, None])).fetch(np.arange(3))
    np.testing.assert_array_equal(labels, [0, 4, 0])


def test_damaged_record_is_named(tmp_path):
    good = encode_datum(np.zeros((1, 2, 2), np.uint8), 1)
    write_lmdb(tmp_path / "db", [good, good, b"\xff\xff"])
    for cache_bytes in (0, 1 << 20):
        source = DatumSource(tmp_path / "db", cache_bytes=cache_bytes)
        with pytest.raises(DataError, match=r'db": record 2 \(key "00000002"\): not a Datum'):
            source.fetch(np.arange(3))
