"""The LevelDB reader: a database with packed blocks, several tables, overwritten and deleted keys and a log; damage.

tests/data/leveldb/packed was written by LevelDB itself (through plyvel): 300 keys, every third written again, every
tenth deleted, and one value of 35,840 bytes, which spans blocks of the log.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from protocaffe.data.leveldb_source import LevelDbReader, unsnappy
from protocaffe.errors import DataError

PACKED = Path(__file__).parent / "leveldb" / "packed"


def value(k, version):
    return (b"%d." % (k * version)) * (k % 40) + bytes(range(k % 7))


WANTED = {b"%08d" % k: value(k, 1 if k % 3 else 2) for k in range(300) if k % 10}
WANTED[b"00000300"] = bytes(range(256)) * 140


def test_keys_are_in_order_and_values_the_newest():
    reader = LevelDbReader(PACKED)
    assert [reader.key(i) for i in range(len(reader))] == sorted(WANTED)
    assert {reader.key(i): reader.read(i) for i in range(len(reader))} == WANTED
    for i in np.random.default_rng(0).integers(0, len(reader), 50):  # in any order
        assert reader.read(i) == WANTED[reader.key(i)]
    reader.close()


def test_nothing_is_written_or_locked():
    before = {p.name: (p.stat().st_size, p.stat().st_mtime_ns) for p in PACKED.iterdir()}
    LevelDbReader(PACKED).close()
    assert {p.name: (p.stat().st_size, p.stat().st_mtime_ns) for p in PACKED.iterdir()} == before


@pytest.mark.parametrize("seed", range(3))
def test_damaged_files_end_in_an_error_or_are_read(tmp_path, seed):
    """Each file truncated at some places and with single bits turned: an error that names the folder, or records."""
    rng = np.random.default_rng(seed)
    shutil.copytree(PACKED, tmp_path / "db")
    refused = 0
    for path in sorted((tmp_path / "db").iterdir()):
        content = path.read_bytes()
        cases = [content[:n] for n in rng.integers(0, len(content), 8)]
        for at in rng.integers(0, len(content), 30):
            cases.append(content[:at] + bytes([content[at] ^ 1 << int(rng.integers(8))]) + content[at + 1 :])
        for case in cases:
            path.write_bytes(case)
            try:
                reader = LevelDbReader(tmp_path / "db")
                assert all(isinstance(reader.read(i), bytes) for i in range(len(reader)))
                reader.close()
            except DataError as error:
                assert "db" in str(error)
                refused += 1
        path.write_bytes(content)
    assert refused > 20
    assert len(LevelDbReader(tmp_path / "db")) == len(WANTED)


@pytest.mark.parametrize(
    ("name", "content", "match"),
    [
        ("CURRENT", b"../MANIFEST-000004\n", "CURRENT names"),
        ("CURRENT", b"MANIFEST-999999\n", "cannot be read as a LevelDB: No such file"),
        ("CURRENT", b"\xff\n", "CURRENT names"),
    ],
)
def test_what_current_names(tmp_path, name, content, match):
    shutil.copytree(PACKED, tmp_path / "db")
    (tmp_path / "db" / name).write_bytes(content)
    with pytest.raises(DataError, match=match):
        LevelDbReader(tmp_path / "db")


def test_a_missing_table_is_named(tmp_path):
    shutil.copytree(PACKED, tmp_path / "db")
    next((tmp_path / "db").glob("*.ldb")).unlink()
    with pytest.raises(DataError, match=r"No such file or directory .*\.sst"):
        LevelDbReader(tmp_path / "db")


@pytest.mark.parametrize(
    ("packed", "match"),
    [
        (bytes([5, 8]) + b"abc", "holds 3 bytes, not 5"),
        (bytes([9, 8]) + b"abc" + bytes([9, 4]), "repeats what it does not have"),
        (bytes([9, 8]) + b"abc" + bytes([9, 0]), "repeats what it does not have"),
        (bytes([9, 8]) + b"ab", "ends too early"),
        (bytes([9, 8]) + b"abc" + bytes([9]), "ends too early"),
        (bytes([255] * 11), "too long"),
        (bytes([255, 255, 255, 255, 127]), "says that it holds"),
    ],
)
def test_damaged_snappy_is_refused(packed, match):
    with pytest.raises(ValueError, match=match):
        unsnappy(packed)
