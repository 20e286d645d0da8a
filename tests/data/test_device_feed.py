"""Batches made on devices with memory of their own: bit for bit those of the CPU, whichever way they come."""

import gc
import threading
import time

import h5py
import numpy as np
import pytest

import protocaffe
from protocaffe.data import datum_source, order_table, resident
from protocaffe.data.resident import Resident
from protocaffe.data.ring import Ring
from protocaffe.errors import DataError, ParameterError
from protocaffe.io import write_mean
from protocaffe.io.prototxt import parse_net
from tests.support.feeds import DEVICES, assert_same, batches, data_layer, feed_of, make, random_items, write_items

TRAIN, TEST = 0, 1
CHANNEL_MEANS = "mean_value: 3.3 mean_value: 101.7"


@pytest.fixture(params=DEVICES)
def device(request):
    return DEVICES[request.param]()


@pytest.fixture
def items(tmp_path):
    return write_items(tmp_path / "db", random_items(23, (2, 6, 7)))


def check(text, device, way, count=14, phase=TRAIN):
    """The device's batches, before and after a jump, are the CPU's; they came the given way, without a host call."""
    net, cpu = make(text, device, phase), make(text, None, phase)
    assert_same(batches(net, count), batches(cpu, count))
    position = net.layers[0].position()
    assert position == cpu.layers[0].position() == count * net.blobs["data"].shape[0]
    for target in (7, 10**12 + 3, position):
        for one in (net, cpu):
            one.layers[0].seek(target)
        assert_same(batches(net, 3), batches(cpu, 3))
    assert type(feed_of(net)) is way
    calls = net._forward().parts[0]
    assert [call.name for call in calls if call.ahead] == ["load"] and not any(call.host for call in calls)
    net.close()
    cpu.close()


@pytest.mark.parametrize("cache", ["AUTO", "NONE"])
@pytest.mark.parametrize(
    "transform",
    [
        "",
        "scale: 0.00390625",
        "mirror: true mean_value: 33.3 scale: 0.017",
        f"crop_size: 4 {CHANNEL_MEANS}",
        f"crop_size: 6 mirror: true scale: 0.3 {CHANNEL_MEANS}",
        "crop_size: 3 mirror: true scale: 1.7 mean_file",
        "mirror: true scale: 0.1 mean_file",
    ],
)
@pytest.mark.parametrize("phase", [TRAIN, TEST])
def test_transforms(items, device, tmp_path, cache, transform, phase):
    mean = tmp_path / "mean.binaryproto"
    write_mean(mean, np.random.default_rng(1).uniform(0, 255, (2, 6, 7)).astype(np.float32))
    transform = transform.replace("mean_file", f'mean_file: "{mean}"')
    text = data_layer(items, 5, f"shuffle: true cache: {cache}", transform)
    check(text, device, {"AUTO": Resident, "NONE": Ring}[cache], phase=phase)


@pytest.mark.parametrize("cache", ["DEVICE", "HOST"])
@pytest.mark.parametrize("more", ["", "rand_skip: 17", "shuffle: true rand_skip: 17", "prefetch: 0", "prefetch: 1"])
@pytest.mark.parametrize("batch", [1, 5, 23, 60])
def test_orders(items, device, cache, more, batch):
    text = data_layer(items, batch, f"{more} cache: {cache}", "crop_size: 5 mirror: true")
    check(text, device, {"DEVICE": Resident, "HOST": Ring}[cache])


@pytest.mark.parametrize("batch", [7, 60])
def test_a_thread_makes_the_next_permutation(items, device, monkeypatch, batch):
    monkeypatch.setattr(order_table, "WORTH_A_THREAD", 1)
    check(data_layer(items, batch, "shuffle: true"), device, Resident, 30)
    net = make(data_layer(items, batch, "shuffle: true"), device)
    wanted = batches(make(data_layer(items, batch, "shuffle: true")), 40)
    for target in (3, 1, 30, 2, 1, 0):
        net.layers[0].seek(target * batch)
        assert_same(batches(net, 6), wanted[target : target + 6])


@pytest.mark.parametrize("cache", ["AUTO", "NONE"])
def test_items_of_floats_and_without_labels(device, tmp_path, cache):
    path = write_items(tmp_path / "db", random_items(9, (3, 5, 4), np.float32))
    text = data_layer(path, 4, f"cache: {cache}", "crop_size: 3 mirror: true scale: 0.3 mean_value: 0.2", label=False)
    check(text, device, {"AUTO": Resident, "NONE": Ring}[cache])


def test_items_of_more_than_one_piece(device, tmp_path, monkeypatch):
    path = write_items(tmp_path / "db", random_items(5, (3, 70, 61)))
    monkeypatch.setattr("protocaffe.data.item_set.PIECE_BYTES", 30000)
    for cache, way in (("AUTO", Resident), ("NONE", Ring)):
        check(data_layer(path, 3, f"cache: {cache}", "crop_size: 50 mirror: true"), device, way, 4)


@pytest.mark.parametrize("cache", ["DEVICE", "HOST", "NONE"])
@pytest.mark.parametrize("transform", ["", "crop_size: 60 mirror: true mean_value: 9"])
def test_large_items_are_not_gathered_first(device, tmp_path, cache, transform):
    items = random_items(7, (3, 80, 90))
    assert items[0].nbytes > datum_source.LARGE
    path = write_items(tmp_path / "db", items, (1, 300, 127, 128, 70000, 0, 5))
    way = Resident if cache == "DEVICE" else Ring
    check(data_layer(path, 4, f"shuffle: true cache: {cache}", transform), device, way, 5)


def test_items_of_differing_shapes(device, tmp_path):
    path = write_items(tmp_path / "db", [np.full((1, 5 + i, 9 - i), i, np.uint8) for i in range(4)])
    check(data_layer(path, 3, transform="crop_size: 4 mirror: true scale: 2 mean_value: 1"), device, Ring)
    net = make(data_layer(path, 3, "cache: DEVICE", transform="crop_size: 4"), device)
    with pytest.raises(DataError, match=r"DEVICE needs items of one shape .*record 1 .*expected \(1, 5, 9\).*got"):
        net.forward()


def test_resized_items(device, items):
    resize = "resize_param { height: 9 width: 8 }"
    check(data_layer(items, 4, "", f"{resize} crop_size: 5 mirror: true scale: 0.3 mean_value: 9"), device, Ring)
    with pytest.raises(ParameterError, match=r'layer "source" \(Data\): .*DEVICE .* resize_param .*cache: HOST'):
        make(data_layer(items, 4, "cache: DEVICE", resize), device)


def test_hdf5(device, tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["data"], file["label"] = random_items(12, (3, 2), np.float32), np.arange(12)
    (tmp_path / "list.txt").write_text(f"{tmp_path}/a.h5")
    param = f'hdf5_data_param {{ source: "{tmp_path}/list.txt" batch_size: 5 shuffle: true }}'
    check(f'layer {{ name: "rows" type: "HDF5Data" top: "data" top: "label" {param} }}', device, Ring)


# -------------------------------------------------------------------------------------------- where items are kept
def test_a_set_stays_on_the_host_where_it_would_take_too_much(items, device, monkeypatch):
    size = 23 * 2 * 6 * 7
    monkeypatch.setattr(type(device), "free_memory", lambda self: 4 * size - 1)
    check(data_layer(items), device, Ring)
    check(data_layer(items, more="cache: DEVICE"), device, Resident)
    gc.collect()  # or the set would still be there for the next net
    monkeypatch.setattr(type(device), "free_memory", lambda self: size - 1)
    with pytest.raises(ParameterError, match=r"cache: DEVICE needs 0 MiB .* of the device's memory are free"):
        make(data_layer(items, more="cache: DEVICE"), device).forward()
    monkeypatch.undo()
    gc.collect()
    monkeypatch.setattr(resident, "AUTO_BYTES", size - 1)
    check(data_layer(items), device, Ring)


def test_nets_share_a_set(items, device, monkeypatch):
    first, second, other = (
        make(data_layer(items, batch, transform=transform), device, phase)
        for batch, transform, phase in ((5, "crop_size: 4", TRAIN), (3, "", TEST), (3, "force_gray: true", TEST))
    )
    for net in (first, second, other):
        net.forward()
    assert feed_of(first)._items is feed_of(second)._items is not feed_of(other)._items
    monkeypatch.setattr(type(device), "free_memory", lambda self: 0)
    for cache in ("AUTO", "DEVICE"):  # what is there takes nothing more
        net = make(data_layer(items, 4, f"cache: {cache}"), device)
        net.forward()
        assert feed_of(net)._items is feed_of(first)._items


def test_too_much_for_the_host(items, monkeypatch):
    monkeypatch.setattr("protocaffe.data.datum_feed.MEMORY_BYTES", 100)
    make(data_layer(items))
    with pytest.raises(ParameterError, match="cache: HOST needs 0 MiB for the items of"):
        make(data_layer(items, more="cache: HOST"))


def test_on_the_cpu_device_means_host(items):
    for cache, kept in (("NONE", False), ("HOST", True), ("DEVICE", True), ("AUTO", True)):
        net = make(data_layer(items, 23, f"prefetch: 0 cache: {cache}"))
        batches(net, 2)
        assert net.layers[0].feed.source.cached == kept


# ------------------------------------------------------------------------------------------------- when things go wrong
def broken_set(path, at=7, count=9):
    items = list(random_items(count, (1, 2, 2)))
    items[at] = np.zeros((1, 2, 3), np.uint8)
    return write_items(path, items)


@pytest.mark.parametrize("more", ["", "cache: NONE", "cache: HOST prefetch: 0", "cache: NONE prefetch: 1"])
def test_an_error_comes_with_its_batch(device, tmp_path, more):
    text = data_layer(broken_set(tmp_path / "db"), 3, more)
    cpu, net = make(text), make(text, device)
    assert_same(batches(net, 2), batches(cpu, 2))
    with pytest.raises(DataError) as wanted:
        cpu.forward()
    for _ in range(3):
        with pytest.raises(DataError) as got:
            net.forward()
        assert str(got.value) == str(wanted.value) and 'layer "source" (Data)' in str(got.value)
    assert net.layers[0].position() == 6
    net.layers[0].seek(0)
    cpu.layers[0].seek(0)
    assert_same(batches(net, 2), batches(cpu, 2))


@pytest.mark.parametrize("cache", ["AUTO", "NONE"])
def test_a_batch_whose_replay_never_came_is_taken_all_the_same(items, device, tmp_path, cache):
    bad = data_layer(broken_set(tmp_path / "bad", at=3), 3).replace('"source" type', '"bad" type')
    bad = bad.replace('"data"', '"other"').replace('"label"', '"other_label"')
    text = data_layer(items, 5, f"shuffle: true cache: {cache}")
    net = make(text + bad, device)
    wanted = batches(make(text), 12)

    def good(count):
        out = batches(net, count)
        return [{name: batch[name] for name in ("data", "label")} for batch in out]

    assert_same(good(1), wanted[:1])
    for _ in range(2):
        with pytest.raises(DataError, match="record 3"):
            net.forward()
    net.layers[1].seek(0)
    assert_same(good(1), wanted[3:4])
    assert net.layers[0].position() == 20


@pytest.mark.parametrize("cache", ["AUTO", "NONE"])
def test_a_batch_whose_replay_never_came_is_taken_whatever_ran_meanwhile(items, device, tmp_path, cache):
    bad = data_layer(broken_set(tmp_path / "bad", at=3), 3).replace('"source" type', '"bad" type')
    bad = bad.replace('"data"', '"other"').replace('"label"', '"other_label"')
    text = data_layer(items, 5, f"shuffle: true cache: {cache}")
    net, other = make(text + bad, device), make(text, device)
    wanted = batches(make(text), 12)
    net.forward()
    with pytest.raises(DataError, match="record 3"):
        net.forward()
    other.forward()
    net.layers[1].seek(0)
    got = net.forward()
    for name in ("data", "label"):
        np.testing.assert_array_equal(got[name], wanted[2][name])
    net.close()
    other.close()


@pytest.mark.parametrize("cache", ["AUTO", "NONE"])
@pytest.mark.parametrize("method", ["put", "send", "reach", "follow"])
def test_an_interrupt_loses_no_batch(items, device, cache, method, monkeypatch):
    text = data_layer(items, 5, f"shuffle: true cache: {cache}", "mirror: true")
    net, wanted = make(text, device), batches(make(text), 12)
    assert_same(batches(net, 4), wanted[:4])

    def interrupt(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(type(device), method, interrupt)
        try:
            net.forward()
            taken = 5  # this way it does not come by there
        except KeyboardInterrupt:
            taken = 4
    assert net.layers[0].position() == 5 * taken
    assert_same(batches(net, 4), wanted[taken : taken + 4])


def test_closing(items, device):
    for more in ("", "cache: NONE"):
        for passes in (0, 2):
            net = make(data_layer(items, more=more), device)
            batches(net, passes)
            net.close()
            net.close()
            with pytest.raises(DataError, match=r'layer "source" \(Data\): the data source was closed'):
                net.forward()


def test_a_net_that_is_gone_leaves_no_thread(items, device):
    def running():
        return [thread for thread in threading.enumerate() if thread.name == "protocaffe-prefetch"]

    gc.collect()
    before = len(running())
    net = make(data_layer(items, more="cache: NONE"), device)
    net.forward()
    assert len(running()) == before + 1
    del net
    gc.collect()
    end = time.monotonic() + 5  # should the thread itself have collected the net, nobody has waited for it
    while len(running()) > before and time.monotonic() < end:
        time.sleep(0.01)
    assert len(running()) == before


# -------------------------------------------------------------------------------------------------------------- nets
LEARN = """
layer { name: "ip" type: "InnerProduct" bottom: "data" top: "ip"
        inner_product_param { num_output: 23 weight_filler { type: "xavier" } } }
layer { name: "drop" type: "Dropout" bottom: "ip" top: "ip" }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip" bottom: "label" top: "loss" }
"""


def solver(device, folder, text, iter_size):
    param = protocaffe.io.schema.SolverParameter(
        base_lr=0.01, lr_policy="fixed", momentum=0.9, random_seed=3, iter_size=iter_size, max_iter=60,
        snapshot_prefix=str(folder / "s"), type="SGD", test_iter=[2], test_interval=7, snapshot_after_train=False,
    )  # fmt: skip
    param.net_param.CopyFrom(parse_net(text + LEARN))
    return protocaffe.get_solver(param, backend=device)


@pytest.mark.parametrize("cache", ["AUTO", "NONE"])
@pytest.mark.parametrize("iter_size", [1, 2])
def test_a_resumed_training_is_the_same_as_one_that_went_on(items, device, tmp_path, cache, iter_size):
    if device.real != np.float32:
        pytest.skip("snapshots hold floats")
    transform = "crop_size: 4 mirror: true scale: 0.01"
    text = data_layer(items, 5, f"shuffle: true rand_skip: 9 cache: {cache}", transform)
    first = solver(device, tmp_path, text, iter_size)
    first.step(20)
    _, state = first.snapshot()
    first.step(30)
    second = solver(device, tmp_path, text, iter_size)
    second.step(3)
    second.restore(state)
    second.step(30)
    assert first.iter == second.iter == 50
    for one, other in zip(first.net.learnable_params, second.net.learnable_params, strict=True):
        np.testing.assert_array_equal(one.data, other.data)
    assert first.net.layers[0].position() == second.net.layers[0].position() == 250 * iter_size
    assert [net.layers[0].position() for net in first.test_nets] == [
        net.layers[0].position() for net in second.test_nets
    ]
    first.close()
    second.close()


@pytest.mark.parametrize("cache", ["AUTO", "NONE"])
def test_parts_of_a_net_and_hooks(items, device, cache):
    text = data_layer(items, 5, f"cache: {cache}") + 'layer { name: "p" type: "Power" bottom: "data" top: "p" }'
    net, wanted = make(text, device, TEST), batches(make(text, None, TEST), 8)
    np.testing.assert_array_equal(net.forward()["p"], wanted[0]["p"])
    np.testing.assert_array_equal(net.forward(start="p")["p"], wanted[0]["p"])
    np.testing.assert_array_equal(net.forward(end="source")["data"], wanted[1]["p"])
    seen = []
    net.after_forward(seen.append, "source")
    np.testing.assert_array_equal(net.forward()["p"], wanted[2]["p"])
    net.blobs["data"].reshape(2, 2, 6, 7)  # the layer gives it its shape again
    np.testing.assert_array_equal(net.forward()["p"], wanted[3]["p"])
    net.reseed(5)
    np.testing.assert_array_equal(net.forward()["p"], wanted[4]["p"])
    assert seen == ["source"] * 3
