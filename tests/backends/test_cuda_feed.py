"""Feeding the GPU. That its batches are the CPU's, for all options, is in tests/data/test_device_feed.py."""

from __future__ import annotations

import gc
import time

import numpy as np
import pytest

import protocaffe
from protocaffe.backends import get_backend
from protocaffe.data.ring import SLOTS
from protocaffe.io import prototxt
from tests.support.backends import has_gpu
from tests.support.feeds import assert_same, batches, data_layer, feed_of, make, random_items, write_items
from tests.support.held import Held

pytestmark = pytest.mark.skipif(not has_gpu(), reason="there is no GPU here")

TRANSFORM = "crop_size: 200 mirror: true scale: 0.017 mean_value: 3.3 mean_value: 101.7 mean_value: 7"
#: work that keeps the GPU behind the host
SLOW = """
layer { name: "conv" type: "Convolution" bottom: "data" top: "conv"
        convolution_param { num_output: 64 kernel_size: 7 weight_filler { type: "xavier" } } }
layer { name: "sum" type: "Reduction" bottom: "conv" top: "sum" reduction_param { axis: 1 } }
"""


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return write_items(tmp_path_factory.mktemp("images") / "db", random_items(150, (3, 224, 230)))


@pytest.mark.parametrize("cache", ["DEVICE", "HOST", "NONE"])
@pytest.mark.parametrize("prefetch", [0, 1, 4])
def test_the_host_may_be_far_ahead_of_the_gpu(images, cache, prefetch):
    more = f"shuffle: true prefetch: {prefetch} cache: {cache}"
    text = data_layer(images, 32, more, TRANSFORM)
    wanted = batches(make(text), 24)
    net = make(text + SLOW, get_backend("cuda"))
    copy = get_backend("cuda").empty((24, *net.blobs["data"].shape))
    labels = get_backend("cuda").empty((24, 32))
    for k in range(24):  # nothing here waits for the GPU
        net.run_forward()
        for kept, blob in ((copy, net.blobs["data"]), (labels, net.blobs["label"])):
            get_backend("cuda").run("scale_into", blob.count, 1.0, blob.data_mem, kept.at(k * blob.count, blob.count))
    for k, (got, label) in enumerate(zip(copy.array, labels.array, strict=True)):
        np.testing.assert_array_equal(label, wanted[k]["label"])
        np.testing.assert_array_equal(got, wanted[k]["data"])
    net.close()


@pytest.mark.parametrize("cache", ["DEVICE", "NONE"])
def test_a_slow_source_is_waited_for(images, cache, monkeypatch):
    from protocaffe.data.datum_feed import DatumFeed

    cut = DatumFeed.cut
    monkeypatch.setattr(DatumFeed, "cut", lambda *args: (time.sleep(0.02), cut(*args)))
    text = data_layer(images, 16, f"cache: {cache}", TRANSFORM)
    assert_same(batches(make(text, get_backend("cuda")), 12), batches(make(text), 12))


@pytest.mark.parametrize("cache", ["DEVICE", "NONE"])
def test_a_pass_is_one_captured_graph(images, cache):
    from protocaffe.backends.cuda_graph import Segment

    net = make(data_layer(images, 8, f"cache: {cache}", TRANSFORM) + SLOW, get_backend("cuda"))
    batches(net, 3)
    plan = net._forward()
    calls = plan.calls(range(len(net.layers)))
    assert not any(call.host for call in calls) and sum(call.ahead for call in calls) == 1
    ((_, bound, _),) = plan._flat.values()
    assert len(bound) == 1 and isinstance(bound[0], Segment) and bound[0]._graph is not None


def test_pinned_memory_and_events_are_given_back(images, monkeypatch):
    backend = get_backend("cuda")
    held = Held(monkeypatch, backend.device)
    text = data_layer(images, 32, "cache: NONE", TRANSFORM)
    size = 32 * 3 * 200 * 200

    def use():
        net = make(text, backend)
        net.forward()
        assert len(feed_of(net)._used) == SLOTS
        assert held.memory >= (SLOTS + 4) * size and held.pinned > SLOTS and held.events > SLOTS
        net.close()
        del net
        gc.collect()
        backend.device.collect()

    use()
    kept = held.all
    for _ in range(3):
        use()
    assert held.all == kept
    assert kept[0] < size and kept[1:] == (0, 0)
    assert not backend.device.trash


LEARN = """
layer { name: "ip" type: "InnerProduct" bottom: "data" top: "ip"
        inner_product_param { num_output: 150 weight_filler { type: "xavier" } } }
layer { name: "relu" type: "ReLU" bottom: "ip" top: "ip" }
layer { name: "drop" type: "Dropout" bottom: "ip" top: "ip" }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip" bottom: "label" top: "loss" }
"""


@pytest.mark.parametrize("cache", ["DEVICE", "NONE"])
def test_a_resumed_training_is_the_same_as_one_that_went_on(images, tmp_path, cache):
    def solver():
        param = protocaffe.io.schema.SolverParameter(
            base_lr=1e-4, lr_policy="fixed", momentum=0.9, random_seed=3, max_iter=100, type="SGD",
            snapshot_prefix=str(tmp_path / "s"), test_iter=[2], test_interval=10, snapshot_after_train=False,
        )  # fmt: skip
        text = data_layer(images, 32, f"shuffle: true rand_skip: 9 cache: {cache}", TRANSFORM)
        param.net_param.CopyFrom(prototxt.parse_net(text + LEARN))
        return protocaffe.get_solver(param, backend=get_backend("cuda"))

    first, second = solver(), solver()
    first.step(20)
    _, state = first.snapshot()
    first.step(30)
    second.step(3)
    second.restore(state)
    second.step(30)
    for one, other in zip(first.net.learnable_params, second.net.learnable_params, strict=True):
        np.testing.assert_array_equal(one.data, other.data)
    for one, other in zip((first.net, *first.test_nets), (second.net, *second.test_nets), strict=True):
        assert one.layers[0].position() == other.layers[0].position()
    first.close()
    second.close()
