"""The LevelDB reader: a database with packed blocks, several tables, overwritten and deleted keys and a log; damage.

tests/data/leveldb/packed was written by LevelDB itself (through plyvel): 300 keys, every third written again, every
tenth deleted, and one value of 35,840 bytes, which spans blocks of the log. tests/data/leveldb/levels has several
tables of overlapping keys; see its test.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from protocaffe.data.leveldb_format import crc32c, log_records, unsnappy
from protocaffe.data.leveldb_source import LevelDbReader
from protocaffe.errors import DataError

PACKED = Path(__file__).parent / "leveldb" / "packed"
LEVELS = PACKED.with_name("levels")


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


def contents(path):
    reader = LevelDbReader(path)
    got = {reader.key(i): reader.read(i) for i in range(len(reader))}
    assert list(got) == sorted(got)
    reader.close()
    return got


def test_levels_that_overlap():
    """Written in four runs, the first compacted; none packed, blocks of 256 bytes, a key deleted and put again."""
    assert contents(LEVELS) == {
        b"%d" % k: b"%d of %d" % (k, version)
        for k in range(150)
        for version in [max(v for v in range(1, 5) if k % v == 0)]
        if version != 3
    }


@pytest.mark.parametrize("name", ["packed", "levels"])
def test_damaged_files_end_in_an_error_or_are_read_rightly(tmp_path, name):
    """Single bits turned in each file, and each truncated: an error that names the folder, or what was written.

    A log truncated between two batches cannot be told from a shorter one; the places here are inside of batches.
    """
    rng = np.random.default_rng(0)
    folder = tmp_path / "db"
    shutil.copytree(PACKED.parent / name, folder)
    wanted = contents(folder)
    for path in sorted(folder.iterdir()):
        content = path.read_bytes()
        if not content:
            continue
        starts = {0} | {at for at, _ in log_records(path)} if path.suffix == ".log" else set()
        cases = [content[:n] for n in rng.integers(0, len(content), 20).tolist() if n not in starts]
        for at in rng.integers(0, len(content), 60).tolist():
            cases.append(content[:at] + bytes([content[at] ^ 1 << int(rng.integers(8))]) + content[at + 1 :])
        refused = 0
        for case in cases:
            path.write_bytes(case)
            try:
                got = contents(folder)
            except DataError as error:
                assert str(folder) in str(error)
                refused += 1
            else:
                assert got == wanted
        assert refused >= 0.8 * len(cases), path.name
        path.write_bytes(content)
    assert contents(folder) == wanted


def test_a_table_of_another_size_than_the_manifest_says(tmp_path):
    shutil.copytree(PACKED, tmp_path / "db")
    with open(tmp_path / "db" / "000005.ldb", "ab") as file:
        file.write(b"x")
    with pytest.raises(DataError, match=r'"000005.ldb" must have 6933 bytes, got 6934'):
        LevelDbReader(tmp_path / "db")


def test_files_that_change_while_they_are_read(tmp_path):
    shutil.copytree(PACKED, tmp_path / "db")
    reader = LevelDbReader(tmp_path / "db")
    for path in (tmp_path / "db").iterdir():
        path.write_bytes(path.read_bytes()[:100])
    for index in (0, len(reader) - 1):
        with pytest.raises(DataError, match=rf"db\": record {index} (cannot be read|is gone)"):
            reader.read(index)


@pytest.mark.parametrize("log", [True, False])
def test_a_table_that_the_manifest_does_not_list(tmp_path, log):
    """An interrupted compaction leaves one, harmlessly; without the log whose writes it may hold something is lost."""
    shutil.copytree(PACKED, tmp_path / "db")
    shutil.copy(PACKED / "000005.ldb", tmp_path / "db" / "000050.ldb")
    if log:
        assert contents(tmp_path / "db") == WANTED
        return
    (tmp_path / "db" / "000011.log").unlink()
    with pytest.raises(DataError, match=r'"000050.ldb" is newer than the manifest'):
        LevelDbReader(tmp_path / "db")


def test_room_that_a_log_had_reserved_is_no_damage(tmp_path):
    shutil.copytree(PACKED, tmp_path / "db")
    with open(tmp_path / "db" / "000011.log", "ab") as file:
        file.write(bytes(70000))
    assert contents(tmp_path / "db") == WANTED


def test_no_file_stays_open():
    before = len(list(Path("/proc/self/fd").iterdir()))
    readers = [LevelDbReader(LEVELS) for _ in range(5)]
    assert all(reader.read(0) for reader in readers)
    assert len(list(Path("/proc/self/fd").iterdir())) == before


@pytest.mark.parametrize("size", [*range(10), 255, 256, 257, 1000, 256 * 256 + 3])
def test_crc32c_against_its_definition(size):
    data = np.random.default_rng(size).bytes(size)
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    assert crc32c(data) == crc ^ 0xFFFFFFFF


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
