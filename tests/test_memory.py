"""Storages whose host and device copies are apart: which is current, and that a net computes the same on them."""

from __future__ import annotations

import numpy as np
import pytest

from protocaffe.backends import get_backend
from protocaffe.blob import Blob
from protocaffe.io import prototxt
from protocaffe.memory import Memory, Slot, Storage
from protocaffe.net import Net
from tests.support.split_backend import SplitBackend


@pytest.fixture
def split():
    return SplitBackend()


def double(backend, memory):
    backend.run("scale_into", memory.count, 2.0, memory, memory)


def test_stale_current_dirty(split):
    memory = split.empty((3,))
    storage = memory.storage
    assert split.copies == [], "nothing is copied before anyone looks"
    memory.array[...] = (1, 2, 3)  # dirty: Python may have written to the view
    assert split.copies == [("down", storage)] and not split.on_device(storage).any()
    split.copies.clear()
    double(split, memory)  # uploads it, and makes the host copy stale
    assert split.copies == [("up", storage)] and split.on_device(storage).tolist() == [2, 4, 6]
    split.copies.clear()
    assert memory.array.tolist() == [2, 4, 6]  # downloads it: current on both sides
    assert memory.array.tolist() == [2, 4, 6]
    assert split.copies == [("down", storage)], "a current copy is not fetched again"


def test_what_nobody_looked_at_is_not_copied(split):
    one, other = split.empty((2,)), split.empty((2,))
    one.array[...] = 1
    double(split, one)
    split.copies.clear()
    double(split, one)
    double(split, one)
    assert split.copies == []
    assert one.array.tolist() == [8, 8] and {s for _, s in split.copies} == {one.storage}
    assert not split.on_device(other.storage).any()


def test_a_run_makes_every_host_copy_stale(split):
    x, y = split.empty((2,)), split.empty((2,))
    x.array[...], y.array[...] = 3, 5
    split.run("copy", 2, x, y)
    assert y.array.tolist() == [3, 3]
    y.array[0] = 7
    split.run("copy", 2, y, x)
    assert x.array.tolist() == [7, 3] and y.array.tolist() == [7, 3]


def test_what_a_run_did_before_it_was_cut_short_is_seen(split):
    """An interrupt may come between two calls: the host's copy is stale all the same, and does not undo the first."""
    x = split.from_array(np.ones(3, np.float32))
    split.replay(())
    assert x.read().tolist() == [1, 1, 1]

    def interrupt():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        split.replay((split.bind_launch("scale_into", 3, (2.0, x, x)), interrupt))
    assert x.array.tolist() == [2, 2, 2]
    split.replay(())
    assert x.read().tolist() == [2, 2, 2]


def test_pieces_of_one_storage_share_its_copy(split):
    whole = split.empty((4,))
    first, last = whole.at(0, 2), whole.at(2, 2)
    first.array[...], last.array[...] = 1, 2
    double(split, first)
    assert whole.array.tolist() == [2, 2, 2, 2]


def test_assigning_the_whole_brings_nothing_and_what_does_not_fit_changes_nothing(split):
    memory = split.empty((2, 2))
    memory.assign([[1, 2], [3, 4]])
    double(split, memory)
    assert [what for what, _ in split.copies] == ["up"]
    for wrong in (np.ones(3), [["a", "b"]] * 2):
        with pytest.raises(ValueError, match="could not"):
            memory.assign(wrong)
        double(split, memory)
    assert [what for what, _ in split.copies] == ["up"]
    assert memory.array.tolist() == [[8, 16], [24, 32]]
    fresh = split.empty((3,))
    with pytest.raises(ValueError, match="could not"):
        fresh.assign(np.ones(2))
    assert fresh.array.tolist() == [0, 0, 0]


def test_unified_memory_is_never_copied(cpu):
    memory = cpu.from_array(np.arange(3, dtype=np.float32))
    view = memory.array
    double(cpu, memory)
    assert view.tolist() == [0, 2, 4] and not cpu.dirty


@pytest.mark.parametrize("make", [SplitBackend, lambda: get_backend("cpu")], ids=["split", "cpu"])
def test_slots_grow_and_keep(make):
    slot = Slot(make(), np.dtype(np.float32))
    slot.memory((4,), 4).array[...] = 1
    storage = slot.storage
    assert slot.memory((2,), 2).array.tolist() == [1, 1] and slot.storage is storage
    assert slot.memory((2, 4), 8).array.tolist() == [[0] * 4] * 2 and slot.storage is not storage
    slot.place(Storage(slot.backend, 10, np.float32), 3)
    assert slot.memory((7,), 7).offset == 3


def test_blobs_on_split_memory(split):
    blob = Blob(split, "w", (2, 3))
    blob.data = 1
    blob.mask = [[1, 0, 1], [0, 1, 1]]
    double(split, blob.data_mem)
    assert blob.data.tolist() == [[2, 0, 2], [0, 2, 2]]
    assert blob.mask.tolist() == [[True, False, True], [False, True, True]]
    other = Blob(split, "v", (6,))
    other.share_data(blob)
    other.data[0] = 9
    double(split, blob.data_mem)
    assert blob.data[0, 0] == 18 and isinstance(blob.data_mem, Memory)


LENET = """
layer { name: "in" type: "Input" top: "data" top: "label"
        input_param { shape { dim: 6 dim: 1 dim: 28 dim: 28 } shape { dim: 6 } } }
layer { name: "conv1" type: "Convolution" bottom: "data" top: "conv1"
        convolution_param { num_output: 20 kernel_size: 5 weight_filler { type: "xavier" } } }
layer { name: "pool1" type: "Pooling" bottom: "conv1" top: "pool1" pooling_param { kernel_size: 2 stride: 2 } }
layer { name: "conv2" type: "Convolution" bottom: "pool1" top: "conv2"
        convolution_param { num_output: 50 kernel_size: 5 weight_filler { type: "xavier" } } }
layer { name: "pool2" type: "Pooling" bottom: "conv2" top: "pool2" pooling_param { kernel_size: 2 stride: 2 } }
layer { name: "ip1" type: "InnerProduct" bottom: "pool2" top: "ip1"
        inner_product_param { num_output: 50 weight_filler { type: "xavier" } } }
layer { name: "relu1" type: "ReLU" bottom: "ip1" top: "ip1" }
layer { name: "drop1" type: "Dropout" bottom: "ip1" top: "ip1" }
layer { name: "ip2" type: "InnerProduct" bottom: "ip1" top: "ip2"
        inner_product_param { num_output: 10 weight_filler { type: "xavier" } } }
layer { name: "accuracy" type: "Accuracy" bottom: "ip2" bottom: "label" top: "accuracy" }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip2" bottom: "label" top: "loss" }
"""


def run_lenet(backend):
    """Two passes; between them Python prunes a layer, changes a bias and the number of images."""
    net = Net(prototxt.parse_net("force_backward: true" + LENET), 0, backend=backend, seed=3)
    rng, out = np.random.default_rng(0), []
    for images in (6, 4):
        net.blobs["data"].reshape(images, 1, 28, 28)
        net.blobs["label"].reshape(images)
        net.forward(data=rng.random((images, 1, 28, 28)), label=rng.integers(0, 10, images))
        net.clear_param_diffs()
        net.backward()
        for blob in net.blobs.values():
            out += [blob.data.tobytes(), blob.diff.tobytes()]
        for blobs in net.params.values():
            out += [values.tobytes() for blob in blobs for values in (blob.data, blob.diff)]
        out.append(net.loss())
        net.params["conv1"][1].data[3] = 0.5
        net.params["ip1"][0].mask = net.params["ip1"][0].data > 0
    return out


def test_lenet_on_split_memory_has_the_same_bits(split):
    assert run_lenet(split) == run_lenet(get_backend("cpu"))


HOST = """
layer { name: "noise" type: "DummyData" top: "x" dummy_data_param {
          shape { dim: 4 dim: 3 } data_filler { type: "gaussian" std: 1 } } }
layer { name: "ip" type: "InnerProduct" bottom: "x" top: "y"
        inner_product_param { num_output: 2 weight_filler { type: "xavier" } } }
"""


def test_host_calls_see_and_change_the_device(split):
    nets = [Net(prototxt.parse_net(HOST), 0, backend=b, seed=3) for b in (split, get_backend("cpu"))]
    for _ in range(3):
        first, second = (net.forward()["y"].copy() for net in nets)
        assert first.tobytes() == second.tobytes()
        assert nets[0].blobs["x"].data.tobytes() == nets[1].blobs["x"].data.tobytes()
