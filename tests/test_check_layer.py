"""check_layer itself: it passes a good layer, and tells what is wrong with each bad one."""

from __future__ import annotations

import pytest

from protocaffe import Layer, register
from protocaffe.backends import get_backend
from tests.support.check_layer import check_layer


@register("Checked")
class Checked(Layer):
    """y = w x^2, in Python; each fault breaks one promise."""

    exact_bottoms = 1
    exact_tops = 1
    fault = ""

    def setup(self, bottom, top):
        self.inplace_ok = self.fault == "claims in place"
        self.runs = 0
        self.add_param((1,))
        self.count = bottom[0].count

    def reshape(self, bottom, top):
        if self.fault != "keeps its first shape" or not top[0].count > 1:
            top[0].reshape(bottom[0].shape)
        if self.fault == "forgets when reshaped":
            self.seen = 0.0

    def forward(self, bottom, top):
        def run():
            x = bottom[0].data
            self.runs, self.seen = self.runs + 1, 1.0
            y = self.blobs[0].data[0] * x**2
            y *= {"is wrong forward": 1.001, "depends on the past": 1 + 1e-6 * self.runs,
                  "depends on threads": 1 + 1e-6 * getattr(self.backend, "threads", 1)}.get(self.fault, 1)  # fmt: skip
            if self.fault == "reads its top" and self.runs == 1:
                y = y + 0 * top[0].data
            top[0].data[...] = y
            if self.fault == "writes its bottom" and bottom[0] is not top[0]:
                bottom[0].data[...] *= 2

        self.ops.host(run)

    def backward(self, top, propagate_down, bottom):
        def run():
            x, dy, w = bottom[0].data, top[0].diff, self.blobs[0]
            dw = (x**2 * dy).sum()
            dw *= {"has a wrong parameter gradient": 1.001}.get(self.fault, 1)
            if self.param_propagate_down[0] or self.fault == "always writes parameter diffs":
                w.diff[...] = dw if self.fault == "sets parameter diffs" else w.diff + dw
            if propagate_down[0] or self.fault == "always writes bottom diffs":
                dx = self.seen * 2 * w.data[0] * x * dy * {"has a wrong gradient": 1.001}.get(self.fault, 1)
                bottom[0].diff[...] = bottom[0].diff + dx if self.fault == "adds to bottom diffs" else dx

        self.ops.host(run)


def check(**more):
    def gradient(arrays, diffs):
        (x, w), (dy,) = arrays, diffs
        return [2 * w[0] * x * dy, (x**2 * dy).sum(keepdims=True).reshape(1)]

    check_layer('layer { type: "Checked" bottom: "x" top: "y" }', {"x": (3, 4)}, lambda x, w: w[0] * x**2, gradient,
                large={"x": (5, 6)}, **more)  # fmt: skip


def test_a_good_layer_passes():
    check()
    threads = get_backend("cpu").threads
    check(reshaped=None, backend="cpu")
    assert get_backend("cpu").threads == threads


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("is wrong forward", 'cpu: top "y": .* of 12 are off'),
        ("has a wrong gradient", 'cpu: diff of bottom "x": .* of 12 are off'),
        ("has a wrong parameter gradient", r'cpu: diff of parameter "L\[0\]" added to what was there'),
        ("sets parameter diffs", r'cpu: diff of parameter "L\[0\]" added to what was there'),
        ("adds to bottom diffs", 'cpu: diff of bottom "x"'),
        ("always writes bottom diffs", 'the diff of bottom "x", which is not wanted,'),
        ("always writes parameter diffs", r'the diff of parameter "L\[0\]", which is not wanted,'),
        ("depends on the past", "a second forward pass"),
        ("depends on threads", "a result with . threads instead of 1"),
        ("reads its top", 'cpu: top "y"'),
        ("writes its bottom", r"a second forward pass|a bottom"),
        ("claims in place", "in place"),
        ("forgets when reshaped", "a second backward pass"),
        ("keeps its first shape", "shape"),
    ],
)
def test_a_bad_layer_does_not(fault, said, monkeypatch):
    monkeypatch.setattr(Checked, "fault", fault)
    with pytest.raises((AssertionError, ValueError), match=said):
        check(tolerance={"float32": (1e-5, 1e-6), "float64": (1e-5, 1e-6)} if "depends" in fault else None)


def test_a_wrong_reference_is_found_by_the_numeric_gradient():
    def gradient(arrays, diffs):
        (x, w), (dy,) = arrays, diffs
        return [1.001 * 2 * w[0] * x * dy, (x**2 * dy).sum(keepdims=True).reshape(1)]

    with pytest.raises(AssertionError, match='diff of bottom "x"'):
        check_layer('layer { type: "Checked" bottom: "x" top: "y" }', {"x": (3, 4)}, lambda x, w: w[0] * x**2, gradient)


def test_gradient_and_layer_wrong_alike_are_found_by_the_numeric_gradient(monkeypatch):
    monkeypatch.setattr(Checked, "fault", "has a wrong gradient")

    def gradient(arrays, diffs):
        (x, w), (dy,) = arrays, diffs
        return [1.001 * 2 * w[0] * x * dy, (x**2 * dy).sum(keepdims=True).reshape(1)]

    with pytest.raises(AssertionError, match='cpu-float64: numeric gradient of "x"'):
        check_layer('layer { type: "Checked" bottom: "x" top: "y" }', {"x": (3, 4)}, lambda x, w: w[0] * x**2, gradient)
