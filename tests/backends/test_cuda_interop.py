"""A blob's memory in other tools' hands on the GPU."""

from __future__ import annotations

import gc
import shutil

import numpy as np
import pytest

import protocaffe
from protocaffe.backends import get_backend
from protocaffe.blob import Blob
from protocaffe.io import prototxt
from tests.support.backends import has_gpu

pytestmark = pytest.mark.skipif(not has_gpu(), reason="there is no GPU here")

NET = """
layer { name: "in" type: "Input" top: "x" input_param { shape { dim: 64 dim: 512 } } }
layer { name: "ip" type: "InnerProduct" bottom: "x" top: "y" inner_product_param { num_output: 512
        weight_filler { type: "constant" value: 1 } } }
layer { name: "twice" type: "Power" bottom: "y" top: "z" power_param { scale: 2 } }
"""


@pytest.fixture
def cuda():
    return get_backend("cuda")


@pytest.fixture
def net(cuda):
    net = protocaffe.Net(prototxt.parse_net("force_backward: true" + NET), protocaffe.TRAIN, backend=cuda)
    net.forward(x=np.ones((64, 512)))
    return net


def filled(array, value):
    """The whole of a GPUArray set by a memset on the default stream."""
    from pycuda.driver import memset_d32

    memset_d32(array.gpudata, int(np.float32(value).view(np.uint32)), array.size)


def test_gpu_arrays_are_on_the_blobs_own_memory(net):
    blob = net.blobs["x"]
    array = blob.gpu_data
    assert type(array).__module__ == "pycuda.gpuarray" and (array.shape, array.dtype) == ((64, 512), np.float32)
    assert int(array.gpudata) == int(blob.gpu_data.gpudata) and (array.get() == 1).all()
    assert net.params["ip"][0].gpu_mask is None
    for _ in range(3):  # call by call, captured, replayed
        for value in (2, 3):
            filled(array, value)
            assert (net.forward()["z"] == 1024 * value).all() and (blob.data == value).all()


def test_writes_of_both_sides_meet(net):
    blob = net.blobs["x"]
    array = blob.gpu_data
    blob.data[0] = 5
    filled(array[1], 7)
    net.forward()
    assert net.blobs["y"].data[:3, 0].tolist() == [5 * 512, 7 * 512, 512]
    assert array.get()[:3, 0].tolist() == [5, 7, 1]


def test_what_is_not_held_any_more_is_waited_for(net):
    for value in range(1, 50):
        filled(net.blobs["x"].gpu_data, value)
        assert net.forward()["z"][0, 0] == 1024 * value


def test_results_are_there_for_who_reads_them_on_the_default_stream(net):
    array = net.blobs["z"].gpu_data
    x = np.ones((64, 512), np.float32)
    for value in range(1, 50):
        net.blobs["x"].data = x * value
        net.forward()
        assert (array.get() == 1024 * value).all()


def test_diff_and_mask(net):
    weights = net.params["ip"][0]
    weights.mask = np.arange(512 * 512).reshape(512, 512) % 3 == 0
    mask = weights.gpu_mask
    assert mask.dtype == np.uint8 and (mask.get() == weights.mask).all()
    assert (weights.gpu_data.get()[~weights.mask] == 0).all()
    net.forward()
    diff = net.blobs["z"].gpu_diff
    filled(diff, 1)
    net.clear_param_diffs()
    net.backward()
    assert (weights.gpu_diff.get() == np.where(weights.mask, 128, 0)).all()


@pytest.mark.skipif(shutil.which("nvcc") is None, reason="PyCUDA's own kernels need nvcc")
def test_pycudas_arithmetic(net):
    array = net.blobs["x"].gpu_data
    array += 3
    array *= 2
    assert (net.forward()["z"] == 16 * 512).all() and (net.blobs["x"].data == 8).all()


@pytest.mark.parametrize("shape", [(), (0, 3), (1,), (2, 1, 3, 1, 2)], ids=str)
def test_any_shape(cuda, shape):
    blob = Blob(cuda, "x", shape)
    blob.data = 3
    assert blob.gpu_data.shape == shape and (blob.gpu_data.get() == 3).all()
    interface = blob.__cuda_array_interface__
    assert interface["version"] == 3 and interface["stream"] == cuda.device.stream.handle
    assert (
        interface["shape"] == shape
        and interface["typestr"] == "<f4"
        and (interface["data"][0] != 0) == bool(blob.count)
    )


def test_arrays_outlive_blob_and_net(cuda):
    blob = Blob(cuda, "x", (1 << 20,))
    blob.data = 4
    array = blob.gpu_data
    del blob
    gc.collect()
    others = [cuda.empty((1 << 20,)) for _ in range(4)]
    for other in others:
        other.array[...] = 9
    cuda.flush()
    assert (array.get() == 4).all()


# -------------------------------------------------------------------------------------------------------------- PyTorch
@pytest.mark.parametrize("way", ["from_dlpack", "as_tensor", "from_dlpack on a stream"])
def test_torch_shares_the_memory(net, way):
    torch = pytest.importorskip("torch")
    blob = net.blobs["x"]
    if way == "as_tensor":
        tensor = torch.as_tensor(blob, device="cuda")
        assert torch.as_tensor(blob, device="cuda").data_ptr() == tensor.data_ptr()
    elif way == "from_dlpack":
        tensor = torch.from_dlpack(blob)
    else:
        stream = torch.cuda.Stream()
        with torch.cuda.stream(stream):
            tensor = torch.from_dlpack(blob)
            assert (tensor == 1).all()
        stream.synchronize()
    assert tensor.is_cuda and tensor.shape == (64, 512) and tensor.data_ptr() == int(blob.gpu_data.gpudata)
    for value in range(2, 30):
        tensor.fill_(value)
        assert (net.forward()["z"] == 1024 * value).all()
        assert (blob.data == value).all()
    z = torch.from_dlpack(net.blobs["z"])
    for value in range(2, 30):
        tensor.copy_(torch.full_like(tensor, value))
        net.forward()
        assert (z == 1024 * value).all().item()


def test_torch_learns_from_a_nets_gradient(net):
    torch = pytest.importorskip("torch")
    net.forward()
    y = torch.from_dlpack(net.blobs["z"]).requires_grad_()
    (y.sum() / 2).backward()
    torch.from_dlpack(net.blobs["z"].view("diff")).copy_(y.grad)
    net.backward()
    assert (net.blobs["x"].diff == 512).all()


def test_torch_lets_go(net):
    torch = pytest.importorskip("torch")
    from protocaffe.backends.dlpack import _held

    before = len(_held)
    tensor = torch.from_dlpack(net.blobs["x"])
    assert len(_held) == before + 1
    del tensor
    gc.collect()
    assert len(_held) == before
    net.forward()
    assert not net.backend.loans


def test_streams_that_dlpack_knows(net):
    blob = net.blobs["x"]
    for stream in (None, -1, 1, 2, net.backend.device.stream.handle):
        assert "dltensor" in repr(blob.__dlpack__(stream=stream))
    with pytest.raises(BufferError, match="0 names no stream"):
        blob.__dlpack__(stream=0)
    assert blob.__dlpack_device__() == (2, 0)


def test_cupy_shares_the_memory(net):
    cupy = pytest.importorskip("cupy")
    array = cupy.asarray(net.blobs["x"])
    array[...] = 3
    assert (net.forward()["z"] == 3072).all()
