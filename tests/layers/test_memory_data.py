"""MemoryData: batches from arrays (Caffe's own batches are compared in test_data_layers)."""

import numpy as np
import pytest

import protocaffe
from protocaffe.errors import DataError, NetError, ParameterError, ShapeError
from protocaffe.io import parse_net
from tests.support.check_layer import check_error

TEXT = """layer { name: "L" type: "MemoryData" top: "data" top: "label"
        memory_data_param { batch_size: 2 channels: 1 height: 2 width: 3 } }"""
DATA = np.arange(36.0).reshape(6, 1, 2, 3)


@pytest.fixture
def net():
    return protocaffe.Net(parse_net(TEXT))


def test_batches_in_turn_from_the_arrays_themselves(net):
    data = DATA.copy()
    net.set_input_arrays(data, np.arange(6))
    for k in range(4):
        net.forward()
        items = slice(2 * k % 6, 2 * k % 6 + 2)
        np.testing.assert_array_equal(net.blobs["data"].data, DATA[items])
        np.testing.assert_array_equal(net.blobs["label"].data.ravel(), np.arange(6)[items])
    data[2] = 7  # seen: nothing was copied
    net.forward()
    assert (net.blobs["data"].data[0] == 7).all()


def test_labels_may_be_left_out_and_arrays_set_anew(net):
    net.set_input_arrays(DATA)
    net.forward()
    assert not net.blobs["label"].data.any() and net.blobs["label"].shape == (2, 1, 1, 1)
    net.set_input_arrays(DATA + 100, np.ones((6, 1, 1, 1)))
    net.forward()
    np.testing.assert_array_equal(net.blobs["data"].data, DATA[:2] + 100)
    assert net.blobs["label"].data.all()


def test_position_and_seek(net):
    net.set_input_arrays(DATA)
    net.forward()
    assert net.layers[0].position() == 2
    net.layers[0].seek(4)
    net.forward()
    np.testing.assert_array_equal(net.blobs["data"].data, DATA[4:])


def test_a_position_sought_before_there_are_arrays_holds_for_the_first(net):
    net.layers[0].seek(4)
    net.set_input_arrays(DATA)
    net.forward()
    np.testing.assert_array_equal(net.blobs["data"].data, DATA[4:])


def test_errors(net):
    with pytest.raises(DataError, match=r'layer "L" \(MemoryData\): has no arrays yet: call net.set_input_arrays'):
        net.forward()
    for data, labels, match in (
        (DATA[:, :, :1], None, r"data must have shape \(N, 1, 2, 3\), got \(6, 1, 1, 3\)"),
        (DATA[:5], None, "multiple of batch_size 2 and not 0, got 5"),
        (DATA[:0], None, "got 0"),
        (DATA, np.ones(5), r"a label for each of the 6 items, got shape \(5,\)"),
    ):
        with pytest.raises(ShapeError, match=match):
            net.set_input_arrays(data, labels)
    check_error(ParameterError, r"must be given and at least 1, got \(2, 1, 2, 0\)", TEXT.replace("width: 3", ""), {})
    other = protocaffe.Net(parse_net('layer { type: "Input" top: "x" input_param { shape { dim: 2 } } }'))
    with pytest.raises(NetError, match="has no MemoryData layer"):
        other.set_input_arrays(DATA)


def test_a_transformation_is_said_not_to_be_applied(caplog):
    protocaffe.Net(parse_net(TEXT.replace("memory_data_param", "transform_param { scale: 2 } memory_data_param")))
    assert "transform_param is not applied" in caplog.text
