"""time: what the clock sees of a device that works on its own."""

from __future__ import annotations

import pytest

from protocaffe import TRAIN, Layer, register
from protocaffe.cli import time
from tests.support.nets import LABEL, LOSS, SMALL, make
from tests.support.split_backend import SplitBackend


@register("TimedTwice")
class TimedTwice(Layer):
    """A layer in Python that may give its top another shape when it runs."""

    exact_bottoms = exact_tops = 1

    def reshape(self, bottom, top):
        top[0].reshape(bottom[0].shape)

    def forward(self, bottom, top):
        def double():
            top[0].data[...] = 2 * bottom[0].data

        self.ops.host(double, bottom, top)

    def backward(self, top, propagate_down, bottom):
        def double():
            bottom[0].diff[...] = 2 * top[0].diff

        self.ops.host(double, top, bottom)


class Watched(SplitBackend):
    """Notes what happens, in order: "run", "copy", "wait"."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def replay(self, calls):
        if calls:
            self.seen.append("run")
        super().replay(calls)

    def upload(self, storage):
        self.seen.append("copy")
        super().upload(storage)

    def download(self, storage):
        self.seen.append("copy")
        return super().download(storage)

    def synchronize(self):
        self.seen.append("wait")


@pytest.mark.parametrize("kind", ["calls", "host", "dynamic"])
def test_the_clock_is_read_when_the_device_is_done_and_nothing_is_fetched(monkeypatch, kind):
    backend = Watched()
    monkeypatch.setattr(time, "perf_counter", lambda: backend.seen.append("clock") or float(len(backend.seen)))
    monkeypatch.setattr(TimedTwice, "dynamic_tops", kind == "dynamic")
    text = SMALL
    if kind != "calls":
        text = SMALL.replace('type: "ReLU" bottom: "conv" top: "conv"', 'type: "TimedTwice" bottom: "conv" top: "relu"')
        text = text.replace('type: "Pooling" bottom: "conv"', 'type: "Pooling" bottom: "relu"')
    net = make(LABEL + text + LOSS, TRAIN, backend=backend)
    times = time.measure(net, 3)
    assert list(times.forward) == list(times.backward) == [layer.name for layer in net.layers]
    seen, clocks = backend.seen, [i for i, what in enumerate(backend.seen) if what == "clock"]
    assert len(clocks) > 8 and all(seen[i - 1] == "wait" for i in clocks)
    for start, end in zip(clocks[::2], clocks[1::2], strict=True):
        assert "run" in seen[start:end] or kind == "dynamic"
        assert ("copy" in seen[start:end]) <= (kind != "calls"), "only layers in Python look at their blobs"
    assert times.net_forward > 0 and times.forward["conv"] > 0 and times.backward["conv"] > 0
    assert times.forward["data"] == 0 or kind == "dynamic"
