import numpy as np
import pytest

from protocaffe.data import datasets
from protocaffe.data.datum_source import DatumSource
from protocaffe.data.lmdb_source import LmdbReader, write_lmdb
from protocaffe.errors import DataError, ParameterError


def contents(path):
    source = DatumSource(path)
    items, labels = source.fetch(np.arange(len(source)))
    return np.array(items)[:, 0], np.array(labels)


def test_prepare_writes_lmdbs_once(tmp_path, tiny_set, monkeypatch):
    tiny_set.fill(tmp_path / "given")
    seen = []
    paths = datasets.prepare("mnist", tmp_path / "out", tmp_path / "given", lambda *args: seen.append(args))
    assert paths == {key: tmp_path / "out" / f"mnist_{key}_lmdb" for key in ("train", "test")}
    for key, path in paths.items():
        images, labels = contents(path)
        np.testing.assert_array_equal(images, tiny_set.arrays[key][0])
        np.testing.assert_array_equal(labels, tiny_set.arrays[key][1])
        assert [file.name for file in path.iterdir()] == ["data.mdb"]
    reader = LmdbReader(paths["train"])
    assert reader.key(0) == b"00000000" and reader.key(len(reader) - 1) == b"00002499"
    assert ("writing mnist_train_lmdb", 2000, 2500) in seen
    reader.close()

    monkeypatch.setattr(datasets, "fetch", lambda *_: pytest.fail("fetched again"))
    assert datasets.prepare("MNIST", tmp_path / "out") == paths


def test_a_border_around_the_training_images(tmp_path, tiny_set):
    tiny_set.fill(tmp_path / "given")
    paths = datasets.prepare("mnist", tmp_path / "out", tmp_path / "given", border=2)
    assert paths["border"].name == "mnist_train_border2_lmdb"
    images, labels = contents(paths["border"])
    np.testing.assert_array_equal(images, np.pad(tiny_set.arrays["train"][0], ((0, 0), (2, 2), (2, 2))))
    np.testing.assert_array_equal(labels, tiny_set.arrays["train"][1])
    np.testing.assert_array_equal(contents(paths["train"])[0], tiny_set.arrays["train"][0])
    stamp = (paths["border"] / "data.mdb").stat().st_mtime_ns
    assert datasets.prepare("mnist", tmp_path / "out", tmp_path / "given", border=2) == paths
    assert (paths["border"] / "data.mdb").stat().st_mtime_ns == stamp
    with pytest.raises(ParameterError, match="border must be from 0 to 28 pixels, got 29"):
        datasets.prepare("mnist", tmp_path / "out", tmp_path / "given", border=29)


def test_prepare_makes_only_the_missing_half(tmp_path, tiny_set):
    tiny_set.fill(tmp_path / "given")
    paths = datasets.prepare("mnist", tmp_path, tmp_path / "given")
    stamp = (paths["train"] / "data.mdb").stat().st_mtime_ns
    (paths["test"] / "data.mdb").unlink()
    paths["test"].rmdir()
    datasets.prepare("mnist", tmp_path, tmp_path / "given")
    assert (paths["train"] / "data.mdb").stat().st_mtime_ns == stamp
    assert len(LmdbReader(paths["test"])) == 30


def test_what_is_there_is_not_overwritten(tmp_path, tiny_set):
    tiny_set.fill(tmp_path / "given")
    write_lmdb(tmp_path / "a" / "mnist_train_lmdb", [b"x"] * 7)
    with pytest.raises(DataError, match=r'mnist_train_lmdb" is there, but not usable'):
        datasets.prepare("mnist", tmp_path / "a", tmp_path / "given")
    datasets.offline_sample(tmp_path / "b")
    with pytest.raises(DataError, match=r"expected 2500 items .* got 2000"):
        datasets.prepare("mnist", tmp_path / "b", tmp_path / "given")
    datasets.prepare("mnist", tmp_path / "c", tmp_path / "given")
    with pytest.raises(DataError, match=r"expected 2000 items .* got 2500"):
        datasets.offline_sample(tmp_path / "c")


def test_a_failed_write_leaves_no_lmdb(tmp_path, tiny_set, monkeypatch):
    tiny_set.fill(tmp_path / "given")

    def stop(what, done, total):
        if what.startswith("writing"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        datasets.prepare("mnist", tmp_path / "out", tmp_path / "given", stop)
    assert list((tmp_path / "out").iterdir()) == []


def test_unknown_name(tmp_path):
    with pytest.raises(DataError, match=r'"fashion-mnst".*did you mean "fashion-mnist"'):
        datasets.prepare("fashion-mnst", tmp_path)


def test_sample_is_balanced_small_and_written_once(tmp_path):
    assert datasets.SAMPLE.stat().st_size < 600_000
    assert "CC BY-SA 3.0" in (datasets.SAMPLE.parent / "LICENSE").read_text()
    paths = datasets.offline_sample(tmp_path)
    for key, count in (("train", 2000), ("test", 500)):
        images, labels = datasets.load_sample()[key]
        assert images.shape == (count, 28, 28) and images.dtype == np.uint8
        np.testing.assert_array_equal(np.bincount(labels), [count // 10] * 10)
        got_images, got_labels = contents(paths[key])
        np.testing.assert_array_equal(got_images, images)
        np.testing.assert_array_equal(got_labels, labels)
    assert datasets.offline_sample(tmp_path) == paths
