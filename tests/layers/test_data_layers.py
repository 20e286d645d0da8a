"""Data, HDF5Data, DummyData and Input against Caffe's own output, and going on from a position."""

import gc
import json
import threading
from pathlib import Path

import h5py
import numpy as np
import pytest

from protocaffe.data.datum import encode_datum
from protocaffe.data.lmdb_source import write_lmdb
from protocaffe.errors import DataError, ParameterError
from protocaffe.io import prototxt
from protocaffe.net import Net

GOLDENS = Path(__file__).resolve().parent.parent / "goldens"
TYPES = ("Data", "HDF5Data", "DummyData", "Input", "MemoryData")
CASES = [
    case
    for case in json.loads((GOLDENS / "cases.json").read_text())["cases"]
    if case["kind"] == "data" and case["layer_type"] in TYPES
]
RNG = np.random.default_rng(0)


def build(text, phase="TRAIN", seed=1):
    return Net(prototxt.parse_net(text), ("TRAIN", "TEST").index(phase), seed=seed)


def steps(net, count):
    out = []
    for _ in range(count):
        net.forward()
        out.append({name: np.array(blob.data) for name, blob in net.blobs.items()})
    return out


def assert_same(first, second):
    for a, b in zip(first, second, strict=True):
        for name in a:
            np.testing.assert_array_equal(a[name], b[name])


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
def test_golden(case, monkeypatch):
    monkeypatch.chdir(GOLDENS / (case["dir"] or "."))
    atol = 1.0 if "force_gray" in case["name"] else 1e-5
    with np.load(GOLDENS / case["npz"]) as expected:
        net = build(case["prototxt"], case["phase"])
        if case["layer_type"] == "MemoryData":
            net.set_input_arrays(expected["feed/data"], expected["feed/label"])
        for k, got in enumerate(steps(net, case["iterations"])):
            for top in case["tops"]:
                wanted = expected[f"iter{k}/{top}"]
                assert got[top].shape == wanted.shape
                np.testing.assert_allclose(got[top], wanted, rtol=1e-5, atol=atol if top == "data" else 1e-5)
        net.close()


def test_the_goldens_of_each_type_are_there():
    assert {case["layer_type"] for case in CASES} == set(TYPES) and len(CASES) == 19


def test_the_backend_must_be_the_right_one(monkeypatch, tmp_path):
    case = next(c for c in CASES if c["name"] == "Data_leveldb_uint8")
    monkeypatch.chdir(GOLDENS / case["dir"])
    with pytest.raises(DataError, match=r'layer "data" \(Data\): "db" is a LevelDB, but .* write backend: LEVELDB'):
        build(case["prototxt"].replace("LEVELDB", "LMDB"))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match=r'"db": no such folder \(expected a LevelDB'):
        build(case["prototxt"])
    (tmp_path / "db").mkdir()
    with pytest.raises(DataError, match='"db" is not a LevelDB: it has no CURRENT'):
        build(case["prototxt"])
    write_lmdb(tmp_path / "lmdb", [encode_datum(np.zeros((1, 2, 2), np.uint8), 0)])
    with pytest.raises(DataError, match=r'"lmdb" is an LMDB, but .* write backend: LMDB'):
        build(case["prototxt"].replace('"db"', '"lmdb"'))


# ------------------------------------------------------------------------------------------------------------ Data
@pytest.fixture
def digits(tmp_path):
    items = RNG.integers(0, 256, (23, 2, 6, 7), np.uint8)
    write_lmdb(tmp_path / "db", (encode_datum(item, i) for i, item in enumerate(items)))
    return tmp_path / "db", items


def data_layer(path, batch=5, more="", transform="", tops=("data", "label"), backend="LMDB"):
    names = " ".join(f'top: "{top}"' for top in tops)
    return (
        f'layer {{ name: "source" type: "Data" {names} transform_param {{ {transform} }}'
        f' data_param {{ source: "{path}" batch_size: {batch} backend: {backend} {more} }} }}'
    )


@pytest.mark.parametrize("more", ["", "prefetch: 0", "prefetch: 1", "shuffle: true", "rand_skip: 11"])
@pytest.mark.parametrize("transform", ["", "crop_size: 4 mirror: true scale: 0.5"])
def test_going_on_from_a_position_gives_the_same_batches(digits, more, transform):
    text = data_layer(digits[0], 5, more, transform)
    net = build(text)
    whole = steps(net, 16)
    source = net.layers[0]
    assert source.position() == 80
    source.seek(30)
    assert_same(steps(net, 5), whole[6:11])
    net.close()
    again = build(text)
    again.layers[0].seek(45)
    assert_same(steps(again, 7), whole[9:])
    again.close()


def test_another_seed_draws_otherwise_and_a_seed_may_come_with_the_position(digits):
    text = data_layer(digits[0], 5, "shuffle: true")
    first, other = steps(build(text, seed=1), 5), build(text, seed=2)
    assert (steps(other, 1)[0]["label"] != first[0]["label"]).any()
    other.layers[0].rng_seed = 1
    other.layers[0].seek(5)
    assert_same(steps(other, 4), first[1:])


def test_shuffle_shows_every_item_once_in_a_pass(digits):
    labels = np.concatenate([got["label"] for got in steps(build(data_layer(digits[0], 23, "shuffle: true")), 3)])
    for labels_of_pass in labels.reshape(3, 23):
        np.testing.assert_array_equal(np.sort(labels_of_pass), np.arange(23))


def test_rand_skip_starts_within_its_range(digits):
    starts = {steps(build(data_layer(digits[0], 1, "rand_skip: 4"), seed=seed), 1)[0]["label"][0] for seed in range(30)}
    assert starts == {0, 1, 2, 3}


def test_labels_are_optional(digits):
    net = build(data_layer(digits[0], 3, tops=("data",)))
    np.testing.assert_array_equal(steps(net, 1)[0]["data"], digits[1][:3])
    assert list(net.blobs) == ["data"]


def test_two_nets_read_one_folder(digits):
    train, test = build(data_layer(digits[0])), build(data_layer(digits[0], 3), "TEST")
    for k in range(6):
        np.testing.assert_array_equal(steps(train, 1)[0]["label"], np.arange(5 * k, 5 * k + 5) % 23)
        np.testing.assert_array_equal(steps(test, 1)[0]["label"], np.arange(3 * k, 3 * k + 3) % 23)


def test_items_of_differing_size_are_cropped(tmp_path):
    write_lmdb(tmp_path / "db", (encode_datum(np.full((1, 5 + i, 9 - i), i, np.uint8), i) for i in range(4)))
    got = steps(build(data_layer(tmp_path / "db", 4, transform="crop_size: 5")), 1)[0]
    np.testing.assert_array_equal(got["data"], np.arange(4).reshape(4, 1, 1, 1) * np.ones((1, 1, 5, 5)))


def test_closing_and_collecting_a_net_ends_its_thread(digits):
    def running():
        return [thread for thread in threading.enumerate() if thread.name == "protocaffe-prefetch"]

    gc.collect()
    before = len(running())
    net = build(data_layer(digits[0], more="cache: NONE"))
    assert len(running()) == before
    net.forward()
    assert len(running()) == before + 1
    net.close()
    assert len(running()) == before
    other = build(data_layer(digits[0], more="cache: NONE"))
    other.forward()
    del other
    gc.collect()
    assert len(running()) == before


@pytest.mark.parametrize(
    ("text", "error", "reason"),
    [
        (data_layer("db/none"), DataError, '"db/none": no such folder'),
        (data_layer("db", backend="LEVELDB"), DataError, "is an LMDB, but .* write backend: LMDB"),
        (data_layer(".", backend="LEVELDB"), DataError, "not a LevelDB"),
        (data_layer("."), DataError, "not an LMDB"),
        (data_layer("unlabelled"), DataError, "no item has a label"),
        (data_layer("db", 0), ParameterError, "batch_size must be 1 or more"),
        (data_layer(""), ParameterError, "source must name a folder"),
        (data_layer("db", transform="crop_size: 7"), DataError, '"db": crop_size is 7'),
        (data_layer("db", transform="mean_value: 1 mean_value: 2 mean_value: 3"), DataError, "once or 2 times"),
        (data_layer("db", transform="force_color: true force_gray: true"), ParameterError, "expected one of them"),
    ],
    ids=lambda value: "",
)
def test_errors_name_layer_and_path(digits, monkeypatch, text, error, reason):
    monkeypatch.chdir(digits[0].parent)
    write_lmdb("unlabelled", [encode_datum(digits[1][0])])
    with pytest.raises(error, match=rf'layer "source" \(Data\): .*{reason}'):
        build(text)


def test_an_error_in_the_thread_comes_with_its_batch(tmp_path):
    good = encode_datum(np.zeros((1, 2, 2), np.uint8), 1)
    write_lmdb(tmp_path / "db", [good] * 7 + [encode_datum(np.zeros((1, 2, 3), np.uint8), 1)])
    net = build(data_layer(tmp_path / "db", 3))
    steps(net, 2)
    for _ in range(2):
        with pytest.raises(DataError, match=r'layer "source" \(Data\): ".*/db": record 7 .*expected \(1, 2, 2\)'):
            net.forward()
    net.close()


# -------------------------------------------------------------------------------------------------------- HDF5Data
@pytest.fixture
def rows(tmp_path):
    for name, start, stop in (("a", 0, 5), ("b", 5, 12)):
        with h5py.File(tmp_path / f"{name}.h5", "w") as file:
            file["x"] = np.arange(start, stop)[:, None] * np.ones((1, 3))
            file["y"] = np.arange(start, stop)
    (tmp_path / "list.txt").write_text(f"{tmp_path}/a.h5 {tmp_path}/b.h5")
    return tmp_path / "list.txt"


def hdf5_layer(path, more="", tops=("x", "y"), batch=4):
    names = " ".join(f'top: "{top}"' for top in tops)
    param = f'hdf5_data_param {{ source: "{path}" batch_size: {batch} {more} }}'
    return f'layer {{ name: "rows" type: "HDF5Data" {names} {param} }}'


@pytest.mark.parametrize("more", ["", "shuffle: true"])
def test_hdf5_goes_on_from_a_position(rows, more):
    net = build(hdf5_layer(rows, more))
    whole = steps(net, 12)
    for got in whole:
        np.testing.assert_array_equal(got["x"], got["y"][:, None] * np.ones((1, 3)))
    for labels in np.concatenate([got["y"] for got in whole]).reshape(4, 12):
        np.testing.assert_array_equal(np.sort(labels), np.arange(12))
    net.close()
    again = build(hdf5_layer(rows, more))
    again.layers[0].seek(20)
    assert_same(steps(again, 7), whole[5:])
    assert again.layers[0].position() == 48
    again.close()


def test_hdf5_errors_name_the_layer(rows):
    with pytest.raises(DataError, match=r'layer "rows" \(HDF5Data\): ".*a.h5" has no data set "z"'):
        build(hdf5_layer(rows, tops=("x", "z")))
    with pytest.raises(ParameterError, match=r'layer "rows" \(HDF5Data\): .*batch_size'):
        build(hdf5_layer(rows, batch=0))
    with pytest.raises(ParameterError, match="source must name"):
        build(hdf5_layer(""))
    with pytest.raises(ParameterError, match="does not transform"):
        build(hdf5_layer(rows)[:-1] + "transform_param { scale: 2 } }")


# ------------------------------------------------------------------------------------------------ DummyData, Input
NOISE = """layer { name: "noise" type: "DummyData" top: "a" top: "b" dummy_data_param {
  shape { dim: 3 dim: 4 } shape { dim: 1000 }
  data_filler { type: "constant" value: 2 } data_filler { type: "gaussian" mean: 5 std: 2 } } }"""


def test_dummy_data_refills_what_is_random():
    net = build(NOISE)
    got = steps(net, 3)
    assert all((step["a"] == 2).all() for step in got)
    assert all((got[i]["b"] != got[j]["b"]).any() for i, j in ((0, 1), (0, 2), (1, 2)))
    assert abs(got[0]["b"].mean() - 5) < 0.3 and abs(got[0]["b"].std() - 2) < 0.2
    assert net.layers[0].position() == 3
    again = build(NOISE)
    again.layers[0].seek(1)
    assert_same(steps(again, 2), got[1:])


def test_dummy_data_legacy_shapes_for_each_top():
    param = "num: 2 num: 3 channels: 1 height: 4 width: 5"
    text = f'layer {{ name: "d" type: "DummyData" top: "a" top: "b" dummy_data_param {{ {param} }} }}'
    net = build(text)
    assert [net.blobs[name].shape for name in "ab"] == [(2, 1, 4, 5), (3, 1, 4, 5)]


@pytest.mark.parametrize(
    ("param", "reason"),
    [
        ("", "shape must be given once or 3 times .* got 0"),
        ("shape { dim: 1 } shape { dim: 2 }", "shape must be given once or 3 times .* got 2"),
        ("shape { dim: 1 } num: 1", "both shape and num"),
        ("num: 1 channels: 2 height: 3", "width must be given once or 3 times"),
        ("shape { dim: 1 }" + ' data_filler { type: "constant" }' * 2, "data_filler must be given once or 3 times"),
    ],
    ids=lambda value: "",
)
def test_dummy_data_errors(param, reason):
    with pytest.raises(ParameterError, match=rf'layer "d" \(DummyData\): .*{reason}'):
        build(f'layer {{ name: "d" type: "DummyData" top: "a" top: "b" top: "c" dummy_data_param {{ {param} }} }}')


def test_dummy_data_unknown_filler():
    with pytest.raises(ParameterError, match=r'layer "d" \(DummyData\).*gausian'):
        build(
            'layer { name: "d" type: "DummyData" top: "a" dummy_data_param '
            '{ shape { dim: 1 } data_filler { type: "gausian" } } }'
        )


def test_input_keeps_what_the_caller_wrote_and_can_be_reshaped():
    net = build('layer { name: "in" type: "Input" top: "x" input_param { shape { dim: 2 dim: 3 } } }')
    assert not net.blobs["x"].data.any()
    net.blobs["x"].data[...] = 7
    net.forward()
    assert (net.blobs["x"].data == 7).all()
    net.blobs["x"].reshape(4, 3)
    net.forward()
    assert net.blobs["x"].shape == (4, 3)


def test_input_errors():
    with pytest.raises(ParameterError, match=r'layer "in" \(Input\): .*once or 3 times, got 2'):
        build(
            'layer { name: "in" type: "Input" top: "x" top: "y" top: "z" '
            "input_param { shape { dim: 2 } shape { dim: 3 } } }"
        )
