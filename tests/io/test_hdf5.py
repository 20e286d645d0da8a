"""Weights and states in HDF5: round trips, Caffe's layout, and what is refused."""

from __future__ import annotations

import shutil

import h5py
import numpy as np
import pytest

import protocaffe
from protocaffe.errors import FileFormatError, ProtocaffeError, WeightsError
from protocaffe.io import hdf5, parse_net, parse_solver, schema
from protocaffe.io.solverstate import SolverState
from tests.support.goldens import GOLDENS

NET = """
layer { name: "in" type: "Input" top: "x" input_param { shape { dim: 2 dim: 9 } } }
layer { name: "block/one" type: "InnerProduct" bottom: "x" top: "one" param { name: "w" }
        inner_product_param { num_output: 9 weight_filler { type: "xavier" } } }
layer { name: "act" type: "ReLU" bottom: "one" top: "one" }
layer { name: "two" type: "InnerProduct" bottom: "one" top: "two" param { name: "w" }
        inner_product_param { num_output: 9 weight_filler { type: "xavier" } bias_filler { value: 3 } } }
layer { name: "three" type: "InnerProduct" bottom: "two" top: "three" param { name: "w" }
        inner_product_param { num_output: 9 bias_term: false } }
"""


def make(seed=1, text=NET):
    return protocaffe.Net(parse_net(text), seed=seed)


def listing(path):
    out = {}
    with h5py.File(path) as file:
        file.visititems(lambda name, o: out.update({name: (getattr(o, "shape", None), str(getattr(o, "dtype", "")))}))
    return out


@pytest.mark.parametrize("write_diff", [False, True])
def test_weights_and_masks_come_back(tmp_path, write_diff):
    net, other = make(), make(2)
    blob = net.params["two"][0]
    blob.mask = np.random.default_rng(0).random(blob.shape) > 0.7
    net.params["two"][1].diff[...] = 5
    net.save(tmp_path / "a.caffemodel.h5", write_diff)
    other.copy_from(tmp_path / "a.caffemodel.h5")
    for name, blobs in net.params.items():
        for a, b in zip(blobs, other.params[name], strict=True):
            np.testing.assert_array_equal(a.data.view(np.uint32), b.data.view(np.uint32))
            assert (a.mask is None) == (b.mask is None)
    np.testing.assert_array_equal(other.params["block/one"][0].mask, blob.mask)
    stored = {w.name: w for w in hdf5.read_weights(tmp_path / "a.caffemodel.h5")}
    assert [d is not None for d in stored["two"].diffs] == [False, write_diff]


def test_the_layout_is_caffes_and_masks_lie_beside_it(tmp_path):
    """A group for every layer; a shared parameter once, with its owner; masks where Caffe does not look."""
    net = make()
    net.save_hdf5(tmp_path / "a.h5")
    groups = {"data", "data/in", "data/act", "data/block", "data/block/one", "data/two", "data/three"}
    found = listing(tmp_path / "a.h5")
    assert {name for name, (shape, _) in found.items() if shape is None} == groups
    assert {name: shape for name, (shape, _) in found.items() if shape is not None} == {
        "data/block/one/0": (9, 9), "data/block/one/1": (9,), "data/two/1": (9,),
    }  # fmt: skip
    net.params["two"][1].mask = np.arange(9) > 3
    net.save_hdf5(tmp_path / "b.h5")
    assert set(listing(tmp_path / "b.h5")) - set(found) == {"mask", "mask/two", "mask/two/1"}


@pytest.mark.parametrize("case", ["solver_adam_inv_itersize_h5", "solver_sgd_multistep_h5"])
def test_what_is_written_has_the_members_and_types_of_caffes_own_snapshot(tmp_path, monkeypatch, case):
    for folder in (case, "solver_data"):
        shutil.copytree(GOLDENS / "files" / folder, tmp_path / folder)
    monkeypatch.chdir(tmp_path / case)
    text = (tmp_path / case / "solver.prototxt").read_text()
    (tmp_path / case / "solver.prototxt").write_text(text.replace('prefix: "snap"', 'prefix: "mine"'))
    solver = protocaffe.get_solver("solver.prototxt")
    solver.restore("snap_iter_5.solverstate.h5")
    model, state = solver.snapshot()
    solver.close()
    mine, theirs = listing(model), listing("snap_iter_5.caffemodel.h5")
    assert mine == theirs
    mine, theirs = listing(state), listing("snap_iter_5.solverstate.h5")
    assert mine.pop("learned_net")[0] == theirs.pop("learned_net")[0] == ()
    assert {name for name in mine if not name.startswith("protocaffe")} == set(theirs)
    assert all(mine[name] == theirs[name] for name in theirs)
    with h5py.File(state) as file:
        assert file["learned_net"].dtype.itemsize == len(model) + 1  # with the zero that Caffe needs


def test_states_come_back(tmp_path):
    resume = schema.ResumeState(seed=2**63 + 5, forward_count=7, type="Adam")
    history = [np.arange(6, dtype=np.float32).reshape(2, 3), np.zeros((0, 4), np.float32), np.float32(3).reshape(())]
    hdf5.write_state(tmp_path / "s.h5", SolverState(12, "weights é.h5", 3, history, resume))
    state = hdf5.read_state(tmp_path / "s.h5")
    assert (state.iter, state.learned_net, state.current_step) == (12, "weights é.h5", 3)
    assert state.resume == resume
    for a, b in zip(history, state.history, strict=True):
        np.testing.assert_array_equal(a, b)
    hdf5.write_state(tmp_path / "s.h5", SolverState(1, "", 0, []))
    assert hdf5.read_state(tmp_path / "s.h5").resume is None


def test_weights_that_do_not_fit_are_named(tmp_path):
    net = make()
    net.save_hdf5(tmp_path / "a.h5")
    with h5py.File(tmp_path / "a.h5", "a") as file:
        del file["data/two/1"]
        file["data/two/1"] = np.zeros(4, np.float32)
    with pytest.raises(WeightsError, match=r'a.h5": layer "two" \(InnerProduct\): parameter 1 must have shape \(9,\)'):
        make().copy_from(tmp_path / "a.h5")
    with h5py.File(tmp_path / "a.h5", "a") as file:
        del file["data/block/one/0"]
    with pytest.raises(WeightsError, match=r'layer "block/one" .* the file holds no parameter 0'):
        make().copy_from(tmp_path / "a.h5")


def outside(file, folder):
    with h5py.File(folder / "other.h5", "w") as other:
        other["secret"] = np.ones((9, 9), np.float32)
    file["data/two/0"] = h5py.ExternalLink(str(folder / "other.h5"), "secret")


def soft(file, folder):
    file["data/two/0"] = h5py.SoftLink("/data/block/one/0")


def in_another_file(file, folder):
    (folder / "raw.bin").write_bytes(bytes(324))
    file.create_dataset("data/two/0", (9, 9), "f4", external=[(str(folder / "raw.bin"), 0, 324)])


def virtual(file, folder):
    layout = h5py.VirtualLayout((9, 9), "f4")
    layout[:] = h5py.VirtualSource(str(folder / "other.h5"), "secret", (9, 9))
    file.create_virtual_dataset("data/two/0", layout)


def huge(file, folder):
    file.create_dataset("data/two/0", (1 << 20, 1 << 19), "f4", chunks=(1024, 1024), compression="gzip")


def deep(file, folder):
    file.create_group("data/" + "/".join("abcdefghijklmnopqrstuvwxyz"))


def links(file, folder):
    for i in range(9):
        file[f"data/more/{i}"] = file["data/block/one/0"]


def lattice(file, folder):
    """Groups that hold one group under many names: 11 ** 12 ways through them."""
    group = file["data"]
    for _ in range(12):
        inner = group.create_group("a")
        for i in range(10):
            group[f"b{i}"] = inner
        group = inner


BROKEN = {
    "a link to another file": (outside, "data/two/0\" is a link to another place"),
    "a link inside": (soft, "is a link to another place"),
    "values in another file": (in_another_file, "has its values in another file"),
    "a virtual data set": (virtual, "has its values in another file"),
    "a size that is not there": (huge, "should hold 2199023255552 bytes, 0 are stored"),
    "text for numbers": (lambda f, _: f.create_dataset("data/two/0", data="text"), "must be a data set of floats"),
    "a name": (lambda f, _: f.create_dataset("data/two/x", data=1.0), "neither a group nor a data set"),
    "a far blob": (lambda f, _: f.create_dataset("data/two/9999", data=1.0), '"/data/two" has a blob 9999'),
    "a mask of another shape": (lambda f, _: f.create_dataset("mask/two/1", data=np.ones(3, bool)), "have the shape"),
    "a mask of floats": (lambda f, _: f.create_dataset("mask/two/1", data=np.ones(9)), "data set of integers"),
    "nested groups": (deep, "nested too deeply"),
    "references": (
        lambda f, _: f.create_dataset("data/two/0", data=f["data"].ref, dtype=h5py.ref_dtype), "floats, got references"
    ),
    "no values": (lambda f, _: f.create_dataset("data/two/0", data=h5py.Empty("f4")), "holds no values"),
    "one data set under many names": (links, "is also there under another name"),
    "one group under many names": (lattice, "is also there under another name"),
    "a group in itself": (lambda f, _: f["data"].__setitem__("x", f["data"]), "is also there under another name"),
}  # fmt: skip


@pytest.mark.parametrize("what", BROKEN)
def test_a_file_that_reaches_out_or_lies_is_refused(tmp_path, what):
    change, match = BROKEN[what]
    net = make()
    net.save_hdf5(tmp_path / "a.h5")
    with h5py.File(tmp_path / "a.h5", "a") as file:
        change(file, tmp_path)
    with pytest.raises(FileFormatError, match=match):
        make().copy_from(tmp_path / "a.h5")


def test_data_sets_that_lie_upon_each_other_are_refused(tmp_path):
    """Twenty data sets at one place of the file would take twenty times its size in memory."""
    path = tmp_path / "a.h5"
    with h5py.File(path, "w", libver="earliest") as file:
        sets = [file.create_dataset(f"data/a/{i}", (1000,), "f4") for i in range(20)]
        for data_set in sets:
            data_set[...] = 1
        places = [data_set.id.get_offset() for data_set in sets]
    assert places == sorted(places)
    content = path.read_bytes()[: places[0] + 4000]
    for place in places:
        assert content.count(place.to_bytes(8, "little")) == 1
        content = content.replace(place.to_bytes(8, "little"), places[0].to_bytes(8, "little"))
    path.write_bytes(content[:40] + len(content).to_bytes(8, "little") + content[48:])  # the end in the superblock
    with h5py.File(path) as file:
        assert float(file["data/a/19"][:].sum()) == 1000
    with pytest.raises(FileFormatError, match='the data sets of "/data" claim more bytes than the file has'):
        hdf5.read_weights(path)


@pytest.mark.parametrize("bits", [[1, 0, 1], [1, 0, 0.5]])
def test_masks_of_dynamic_network_surgery_without_types(tmp_path, bits):
    """Four blobs for a layer of two: the last two are masks if they can be."""
    net = make()
    layer = net.params["two"]
    keep = np.resize(np.float32(bits), (9, 9))
    with h5py.File(tmp_path / "a.h5", "w") as file:
        for i, values in enumerate((np.ones((9, 9)), np.ones(9), keep, keep[0])):
            file[f"data/two/{i}"] = np.float32(values)
    if 0.5 in bits:
        with pytest.raises(WeightsError, match="has 2 parameters, but the file holds 4"):
            net.copy_from(tmp_path / "a.h5")
        return
    net.copy_from(tmp_path / "a.h5")
    for blob, mask in zip(layer, (keep, keep[0]), strict=True):
        np.testing.assert_array_equal(blob.mask, mask != 0)
        np.testing.assert_array_equal(blob.data, mask)


def test_what_is_no_weights_and_no_state_is_named(tmp_path):
    (tmp_path / "text.h5").write_text("data")
    for read in (hdf5.read_weights, hdf5.read_state):
        with pytest.raises(FileFormatError, match=r'text\.h5" is no HDF5 file'):
            read(tmp_path / "text.h5")
    with h5py.File(tmp_path / "empty.h5", "w"):
        pass
    with pytest.raises(FileFormatError, match='it has no group "/data"'):
        hdf5.read_weights(tmp_path / "empty.h5")
    with pytest.raises(FileFormatError, match='no "/iter" and no "/history"'):
        hdf5.read_state(tmp_path / "empty.h5")
    with pytest.raises(FileNotFoundError):
        make().copy_from(tmp_path / "gone.h5")


def test_a_state_must_not_refer_to_an_object(tmp_path):
    hdf5.write_state(tmp_path / "s.h5", SolverState(1, "x", 0, [np.ones(2, np.float32)]))
    with h5py.File(tmp_path / "s.h5", "a") as file:
        del file["learned_net"]
        file.create_dataset("learned_net", data=file["history"].ref, dtype=h5py.ref_dtype)
    with pytest.raises(FileFormatError, match='"/learned_net" must be a data set of text, got references'):
        hdf5.read_state(tmp_path / "s.h5")


@pytest.mark.parametrize(
    ("name", "value", "match"),
    [("iter", np.array([-1], np.int32), "must be one number from 0"), ("iter", np.arange(3), "must be one number"),
     ("history/1", np.ones(2, np.float32), "must hold 0, 1, 2"), ("iter", np.float32(1), "data set of integers"),
     ("protocaffe/resume", np.full(5, 255, np.uint8), "resume\" is damaged")],
)  # fmt: skip
def test_impossible_states_are_refused(tmp_path, name, value, match):
    hdf5.write_state(
        tmp_path / "s.h5", SolverState(1, "x", 0, [np.ones(2, np.float32)] * 3, schema.ResumeState(seed=1))
    )
    with h5py.File(tmp_path / "s.h5", "a") as file:
        del file[name]
        if "history" not in name:
            file[name] = value
    with pytest.raises(FileFormatError, match=match):
        hdf5.read_state(tmp_path / "s.h5")


def test_damaged_files_end_in_an_error_or_are_read(tmp_path):
    """Truncated everywhere, a bit turned at many places: never anything but our own error."""
    make().save_hdf5(tmp_path / "a.h5")
    content = (tmp_path / "a.h5").read_bytes()
    rng = np.random.default_rng(0)
    refused = 0
    cases = [content[:n] for n in rng.integers(0, len(content), 60)]
    for at in rng.integers(0, len(content), 150):
        cases.append(content[:at] + bytes([content[at] ^ 1 << int(rng.integers(8))]) + content[at + 1 :])
    for case in cases:
        (tmp_path / "b.h5").write_bytes(case)
        try:
            make().load_hdf5(tmp_path / "b.h5")
        except ProtocaffeError as error:
            assert "b.h5" in str(error)
            refused += 1
    assert refused >= 60


@pytest.mark.parametrize("name", ["a/", "/a", "a//b", ".", "a/."])
def test_names_that_hdf5_cannot_hold_are_refused_before_anything_is_written(tmp_path, name):
    net = make(text=NET.replace("block/one", name))
    with pytest.raises(WeightsError, match="its name is a path: give it another name"):
        net.save(tmp_path / "a.h5")
    assert not list(tmp_path.iterdir())
    net.save(tmp_path / "a.caffemodel")


@pytest.mark.parametrize(
    ("other", "match"), [("two", 'two layers are called "two"'), ("two/1", 'layer "two/1" has the')]
)
def test_names_that_fall_together_are_refused_and_training_does_not_begin(tmp_path, other, match):
    text = NET.replace("block/one", other)
    text = text.replace('param { name: "w" }', "")
    with pytest.raises(WeightsError, match=match):
        make(text=text).save(tmp_path / "a.h5")
    param = parse_solver(f'base_lr: 0.1 lr_policy: "fixed" snapshot_format: HDF5 snapshot_prefix: "{tmp_path}/s"')
    param.net_param.CopyFrom(parse_net(text))
    solver = protocaffe.get_solver(param)
    with pytest.raises(WeightsError, match=match):
        solver.solve()
    assert solver.iter == 0


def test_a_layer_whose_weights_another_net_shared_is_not_left_as_it_was(tmp_path):
    """The file holds a shared parameter once: a net that does not share it cannot be filled from it, and says so."""
    make().save(tmp_path / "a.h5")
    with pytest.raises(WeightsError, match=r'layer "three" .* has 1 parameters, but the file holds 0'):
        make(text=NET.replace('param { name: "w" }', "")).copy_from(tmp_path / "a.h5")


def test_a_mask_of_a_single_value_is_stored(tmp_path):
    text = NET + 'layer { name: "s" type: "Scale" bottom: "three" top: "s" scale_param { axis: 0 num_axes: 0 } }'
    net, other = make(text=text), make(2, text)
    net.params["s"][0].mask = np.zeros(())
    net.save(tmp_path / "a.h5")
    other.copy_from(tmp_path / "a.h5")
    assert other.params["s"][0].mask is not None and other.params["s"][0].data == 0
