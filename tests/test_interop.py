"""A blob's memory in other tools' hands, on the CPU and on a device that the CPU plays; the GPU: tests/backends."""

from __future__ import annotations

import gc

import numpy as np
import pytest

import protocaffe
from protocaffe.backends.dlpack import _held, capsule
from protocaffe.blob import Blob
from protocaffe.errors import BackendError, NetError, ParameterError
from protocaffe.io import prototxt
from tests.support.nets import PROB, SMALL, images, make
from tests.support.split_backend import SplitBackend


@pytest.fixture
def split():
    return SplitBackend()


def double(backend, blob):
    backend.run("scale_into", blob.count, 2.0, blob.data_mem, blob.data_mem)


# ---------------------------------------------------------------------------------------------------------- on the CPU
def test_dlpack_shares_the_memory(cpu):
    blob = Blob(cpu, "w", (2, 3))
    blob.data = np.arange(6).reshape(2, 3)
    blob.mask = np.arange(6).reshape(2, 3) % 2
    data, diff, mask = np.from_dlpack(blob), np.from_dlpack(blob.view("diff")), np.from_dlpack(blob.view("mask"))
    assert data.tolist() == [[0, 1, 0], [3, 0, 5]] and mask.tolist() == [[0, 1, 0], [1, 0, 1]]
    assert (data.dtype, mask.dtype) == (np.float32, np.uint8) and not diff.any()
    assert np.shares_memory(data, blob.data) and np.shares_memory(diff, blob.diff)
    assert np.shares_memory(mask, blob.mask)
    assert blob.__dlpack_device__() == blob.view("mask").__dlpack_device__() == (1, 0)
    del blob
    gc.collect()
    assert data.sum() == 9


@pytest.mark.parametrize("shape", [(), (0, 3), (1,), (2, 1, 3, 1, 2)], ids=str)
def test_dlpack_of_any_shape(cpu, shape):
    blob = Blob(cpu, "x", shape)
    blob.data = 3
    got = np.from_dlpack(blob)
    assert got.shape == shape and (got == 3).all()


def test_the_cpu_has_no_gpu_arrays(cpu):
    blob = Blob(cpu, "w", (2, 3))
    assert not hasattr(blob, "__cuda_array_interface__") and not hasattr(blob.view("diff"), "__cuda_array_interface__")
    assert blob.view("mask") is None and blob.gpu_mask is None
    for name in ("gpu_data", "gpu_diff"):
        with pytest.raises(BackendError, match=r"gpu_data, gpu_diff and gpu_mask are for nets on a GPU, .* the cpu"):
            getattr(blob, name)
    with pytest.raises(ParameterError, match='blob "w": a view is of "data", "diff" or "mask", got "hist"'):
        blob.view("hist")


def test_torch_takes_a_blob(cpu):
    torch = pytest.importorskip("torch")
    blob = Blob(cpu, "w", (2, 3))
    tensor = torch.from_dlpack(blob)
    tensor += 1
    assert blob.data.tolist() == [[1, 1, 1], [1, 1, 1]]


def test_memory_that_is_not_kept_is_not_handed_out(cpu):
    net = make(SMALL + PROB, reuse_memory=True, backend=cpu)
    net.forward(data=images())
    with pytest.raises(NetError, match='blob "conv" of net "small" does not keep its data'):
        net.blobs["conv"].view()
    assert np.from_dlpack(net.blobs["prob"]).shape == (4, 5)


# -------------------------------------------------------------------------- on a device that has memory of its own
def test_a_device_array_and_the_net_see_each_others_writes(split):
    blob = Blob(split, "x", (3,))
    blob.data = (1, 2, 3)
    array = split.device_array(blob.view())
    assert array.tolist() == [1, 2, 3]  # what Python wrote was brought over
    array[0] = 10
    double(split, blob)
    assert array.tolist() == [20, 4, 6] == blob.data.tolist()
    array[1] = 7  # no run in between, and the host's copy was current
    assert blob.data.tolist() == [20, 7, 6]
    double(split, blob)
    assert blob.data.tolist() == [40, 14, 12]


def test_looking_does_not_undo_what_others_write(split):
    blob = Blob(split, "x", (4,))
    array = split.device_array(blob.view())
    seen = blob.data  # Python might write to it
    array[...] = (1, 2, 3, 4)
    double(split, blob)
    assert array.tolist() == [2, 4, 6, 8]
    seen = blob.data
    array[0], seen[3] = 100, 50
    double(split, blob)
    assert array.tolist() == [200, 8, 12, 100]
    seen = blob.data
    seen[0] = -0.0  # of one that both wrote Python's stays; the sign of a zero is a write, too
    array[0], array[1] = 0, 5
    assert blob.data.tolist() == [0, 5, 12, 100] and np.signbit(blob.data[0]) and np.signbit(array[0])


def test_views_that_python_had_before_stay_good(split):
    blob = Blob(split, "x", (2,))
    seen = blob.data
    array = split.device_array(blob.view())
    seen[0] = 3
    array[1] = 4
    double(split, blob)
    assert array.tolist() == [6, 8]


def test_whole_assignments_win(split):
    blob = Blob(split, "x", (2,))
    array = split.device_array(blob.view())
    blob.data = 5
    array[...] = 7
    blob.data = 6
    assert blob.data.tolist() == [6, 6]
    double(split, blob)
    assert array.tolist() == [12, 12]


def test_who_is_gone_may_have_written(split):
    blob = Blob(split, "x", (2,))
    array = split.device_array(blob.view())
    assert blob.data.tolist() == [0, 0]
    array[...] = 4
    del array
    gc.collect()
    assert blob.data.tolist() == [4, 4]
    split.copies.clear()
    assert blob.data.tolist() == [4, 4] and split.copies == [], "nobody has it any more"
    split.device_array(blob.view())[...] = 9
    gc.collect()
    double(split, blob)
    assert blob.data.tolist() == [18, 18]


def test_the_order_of_streams(split):
    blob = Blob(split, "x", (2,))
    double(split, blob)
    assert split.order == [], "nobody has anything"
    array = split.device_array(blob.view())
    assert split.order[-1] == "let wait"
    split.order.clear()
    double(split, blob)
    assert split.order == ["wait", "let wait"]
    split.order.clear()
    assert blob.data.tolist() == [0, 0] and split.order == ["wait"]
    del array
    gc.collect()
    split.order.clear()
    double(split, blob)
    assert split.order == ["wait"]
    double(split, blob)
    assert split.order == ["wait"]


def test_old_arrays_keep_what_the_blob_has_left(split):
    blob = Blob(split, "x", (2,))
    blob.data = 1
    array = split.device_array(blob.view())
    blob.reshape(64)
    blob.data = 2
    double(split, blob)
    assert array.tolist() == [1, 1] and split.device_array(blob.view()).shape == (64,)


def test_parameters_lie_in_one_piece_of_memory(split):
    text = 'layer { name: "in" type: "Input" top: "x" input_param { shape { dim: 1 dim: 3 } } }'
    for name in "ab":
        text += f'layer {{ name: "{name}" type: "InnerProduct" bottom: "x" top: "{name}" '
        text += "inner_product_param { num_output: 2 } }"
    net = protocaffe.Net(prototxt.parse_net(text), protocaffe.TRAIN, backend=split)
    weights = [net.params[name][0] for name in "ab"]
    array = split.device_array(weights[0].view())
    weights[1].data[...] = 1
    array[...] = 2
    out = net.forward(x=np.ones((1, 3)))
    assert out["a"].tolist() == [[6, 6]] and out["b"].tolist() == [[3, 3]]


# ------------------------------------------------------------------------------------------------------------- DLPack
class Exporter:
    def __init__(self, array, holder=None):
        self.array, self.holder = array, holder

    def __dlpack_device__(self):
        return 1, 0

    def __dlpack__(self, **options):
        return capsule(self.holder, self.array.ctypes.data, self.array.shape, self.array.dtype, (1, 0))


@pytest.mark.parametrize("dtype", ["float32", "float64", "uint8", "int32"])
@pytest.mark.parametrize("shape", [(), (3,), (2, 3, 4), (0, 2)], ids=str)
def test_a_capsule_is_what_numpy_expects(dtype, shape):
    array = np.arange(np.prod(shape, dtype=int), dtype=dtype).reshape(shape)
    got = np.from_dlpack(Exporter(array))
    assert (got.dtype, got.shape) == (array.dtype, shape) and got.tolist() == array.tolist()
    assert not array.size or got.ctypes.data == array.ctypes.data


def test_a_capsule_holds_its_array_until_it_is_let_go():
    class Holder:
        pass

    array, before = np.zeros(3), len(_held)
    got = np.from_dlpack(Exporter(array, Holder()))
    gc.collect()
    assert len(_held) == before + 1 and any(isinstance(h, Holder) for _, _, h in _held.values())
    del got
    assert len(_held) == before
    unused = Exporter(array, Holder()).__dlpack__()
    assert len(_held) == before + 1
    del unused
    assert len(_held) == before


def test_a_copy_or_another_device_is_refused(split):
    view = Blob(split, "x", (2,)).view()
    for wrong in ({"copy": True}, {"dl_device": (2, 0)}):
        with pytest.raises(BufferError, match=r"handed out where it is, device \(1, 0\), without a copy"):
            view.__dlpack__(**wrong)
