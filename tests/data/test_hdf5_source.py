import h5py
import numpy as np
import pytest

from protocaffe.data.hdf5_source import Hdf5Source
from protocaffe.errors import DataError

RNG = np.random.default_rng(0)


def make(folder, files):
    for name, arrays in files.items():
        with h5py.File(folder / name, "w") as file:
            for key, array in arrays.items():
                file[key] = array
    (folder / "list.txt").write_text("".join(f"{folder / name}\n" for name in files))
    return folder / "list.txt"


@pytest.fixture
def two_files(tmp_path):
    x = np.arange(10 * 2 * 3, dtype=np.float64).reshape(10, 2, 3)
    y = np.arange(10, dtype=np.int64)
    files = {"a.h5": {"x": x[:4], "y": y[:4]}, "b.h5": {"x": x[4:], "y": y[4:], "unused": np.zeros(1)}}
    return make(tmp_path, files), x, y


def batches(source, start, count):
    out = []
    for k in range(count):
        arrays = [np.full(shape, np.nan, np.float32) for shape in source.shapes]
        source.produce(start + k * source.batch_size, arrays)
        out.append(arrays)
    return [np.concatenate(column) for column in zip(*out, strict=True)]


@pytest.mark.parametrize("cache_bytes", [0, 1 << 20])
@pytest.mark.parametrize("batch", [1, 3, 10, 17])
def test_rows_in_order_over_files_and_passes(two_files, batch, cache_bytes):
    path, x, y = two_files
    source = Hdf5Source(path, ["x", "y"], batch, cache_bytes=cache_bytes)
    assert source.shapes == [(batch, 2, 3), (batch,)]
    got_x, got_y = batches(source, 0, 5)
    rows = np.arange(5 * batch) % 10
    np.testing.assert_array_equal(got_x, x[rows])
    np.testing.assert_array_equal(got_y, y[rows])


def test_shuffle_permutes_files_and_rows_and_can_be_resumed(two_files):
    path, x, _ = two_files
    source = Hdf5Source(path, ["y", "x"], 5, shuffle=True, key_names=("l",), seed=1)
    got_y, got_x = batches(source, 0, 40)
    np.testing.assert_array_equal(got_x, x[got_y.astype(int)])
    passes = got_y.reshape(20, 10)
    for rows in passes:
        np.testing.assert_array_equal(np.sort(rows), np.arange(10))
        first = rows[:4] if rows[0] < 4 else rows[6:]
        assert set(first) == {0, 1, 2, 3}  # the rows of a file stay together
    assert len({tuple(rows) for rows in passes}) > 15
    assert len({rows[0] < 4 for rows in passes}) == 2
    again = Hdf5Source(path, ["y", "x"], 5, shuffle=True, key_names=("l",), seed=1)
    np.testing.assert_array_equal(batches(again, 85, 3)[0], got_y[85:100])
    again.rekey(2)
    assert (batches(again, 0, 40)[0] != got_y).any()


def text(path, content):
    path.write_bytes(content)
    return path


ROWS = {"x": np.zeros((3, 2)), "y": np.zeros(3)}


@pytest.mark.parametrize(
    ("prepare", "reason"),
    [
        (lambda p: p / "none.txt", r'none.txt": the list .* \(No such file'),
        (lambda p: text(p / "l.txt", b"  \n"), 'l.txt": the list of HDF5 files is empty'),
        (lambda p: text(p / "l.txt", b"\xff\xfe"), "must be a text file"),
        (lambda p: text(p / "l.txt", b"gone.h5"), '"gone.h5": no such HDF5 file'),
        (lambda p: text(p / "l.txt", str(text(p / "bad.h5", b"no hdf5")).encode()), 'bad.h5" cannot be opened as HDF5'),
        (lambda p: make(p, {"a.h5": {"x": ROWS["x"]}}), 'a.h5" has no data set "y" .*it has "x"'),
        (lambda p: make(p, {"a.h5": ROWS | {"y": np.zeros(4)}}), r'as many rows as "x" \(3\), "y" has 4'),
        (
            lambda p: make(p, {"a.h5": ROWS, "b.h5": ROWS | {"x": np.zeros((3, 5))}}),
            r'b.h5": rows of "x" must be \(2,\)',
        ),
        (lambda p: make(p, {"a.h5": ROWS | {"y": np.zeros(())}}), "at least one row"),
        (lambda p: make(p, {"a.h5": {"x": np.zeros((0, 2)), "y": np.zeros(0)}}), "at least one row"),
        (lambda p: make(p, {"a.h5": ROWS | {"y": [b"a", b"b", b"c"]}}), "must be a data set of numbers"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_errors_name_the_file(tmp_path, prepare, reason):
    with pytest.raises(DataError, match=reason):
        Hdf5Source(prepare(tmp_path), ["x", "y"], 2)


def test_a_file_that_vanishes_later(two_files):
    path, _, _ = two_files
    source = Hdf5Source(path, ["x"], 5)
    (path.parent / "b.h5").unlink()
    with pytest.raises(DataError, match=r'b.h5": no such HDF5 file'):
        batches(source, 0, 1)
