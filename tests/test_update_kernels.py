"""The update rules' kernels against their formulas in float64: masks, multipliers, both kinds of decay, clipping."""

from __future__ import annotations

import numpy as np
import pytest

from protocaffe.backends import get_backend
from tests.support.probe import memory

BLOCK, BLOCKS = 64, 5
RATE, MOMENTUM, SECOND, DELTA, DECAY, SHARE, CORRECTION, CLIP = 0.1, 0.9, 0.99, 1e-3, 0.01, 0.5, 0.7, 3.0
HYPER = np.array([RATE, MOMENTUM, SECOND, DELTA, DECAY, SHARE, CORRECTION, CLIP])


def sgd(g, rate, h):
    v = MOMENTUM * h + rate * g
    return v, [v]


def nesterov(g, rate, h):
    v = MOMENTUM * h + rate * g
    return (1 + MOMENTUM) * v - MOMENTUM * h, [v]


def adagrad(g, rate, h):
    v = h + g**2
    return rate * g / (np.sqrt(v) + DELTA), [v]


def rmsprop(g, rate, h):
    v = SECOND * h + (1 - SECOND) * g**2
    return rate * g / (np.sqrt(v) + DELTA), [v]


def adadelta(g, rate, h, h2):
    v = MOMENTUM * h + (1 - MOMENTUM) * g**2
    u = g * np.sqrt((h2 + DELTA) / (v + DELTA))
    return rate * u, [v, MOMENTUM * h2 + (1 - MOMENTUM) * u**2]


def adam(g, rate, h, h2):
    v, v2 = MOMENTUM * h + (1 - MOMENTUM) * g, SECOND * h2 + (1 - SECOND) * g**2
    return rate * CORRECTION * v / (np.sqrt(v2) + DELTA), [v, v2]


RULES = {"sgd": (sgd, 1), "nesterov": (nesterov, 1), "adagrad": (adagrad, 1), "rmsprop": (rmsprop, 1),
         "adadelta": (adadelta, 2), "adam": (adam, 2)}  # fmt: skip


class State:
    """Random weights, gradients and histories, on the device and as float64."""

    def __init__(self, backend, histories, masked, seed=0):
        rng, n = np.random.default_rng(seed), BLOCK * BLOCKS
        self.backend = backend
        values = [rng.standard_normal(n), rng.standard_normal(n), *(rng.random(n) for _ in range(histories))]
        self.memories = [memory(backend, v) for v in values]
        self.values = [m.array.astype(np.float64) for m in self.memories]
        self.keep = rng.random(n) < 0.7 if masked else np.ones(n, bool)
        self.mask = memory(backend, self.keep.astype(np.uint8)) if masked else None
        self.lr_mult, self.decay_mult = rng.choice([0, 1, 2.0], BLOCKS), rng.choice([0, 1, 2.0], BLOCKS)

    def run(self, kernel, l1=0, clip=1.0, halted=0.0):
        self.backend.run(
            kernel, BLOCKS, *self.memories, self.mask, int(self.mask is not None),
            memory(self.backend, self.lr_mult), memory(self.backend, self.decay_mult), l1,
            memory(self.backend, HYPER), memory(self.backend, np.array([clip, halted])),
        )  # fmt: skip
        return [m.array.astype(np.float64) for m in self.memories]


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("l1", [0, 1])
@pytest.mark.parametrize("real", ["float32", "float64"])
def test_rules(rule, masked, l1, real):
    formula, histories = RULES[rule]
    state = State(get_backend("cpu", real), histories, masked)
    w, diff, *history = state.values
    lr_mult, decay_mult = np.repeat(state.lr_mult, BLOCK), np.repeat(state.decay_mult, BLOCK)
    g = diff * 0.25 * SHARE + DECAY * decay_mult * (np.sign(w) if l1 else w)
    step, new = formula(g, RATE * lr_mult, *history)
    got = state.run(f"{rule}_update", l1, 0.25)
    tolerance = {"rtol": 2e-5, "atol": 1e-6} if real == "float32" else {"rtol": 1e-12, "atol": 1e-14}
    np.testing.assert_allclose(got[0], np.where(state.keep, w - step, 0), **tolerance)
    np.testing.assert_array_equal(got[1], diff)
    for mine, its in zip(got[2:], new, strict=True):
        np.testing.assert_allclose(mine, np.where(state.keep, its, 0), **tolerance)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_not_finite_shows_in_kept_weights_only(rule, bad):
    state = State(get_backend("cpu"), RULES[rule][1], True)
    state.lr_mult[:] = 1
    state.memories[1].array[...] = bad
    w, _, *history = state.run(f"{rule}_update")
    assert not np.isfinite(w[state.keep]).any()
    for values in (w, *history):
        assert (values[~state.keep] == 0).all() and not np.signbit(values[~state.keep]).any()


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("scale", [0.01, 10])
@pytest.mark.parametrize("real", ["float32", "float64"])
def test_clipping(masked, scale, real):
    backend, n, pieces = get_backend("cpu", real), 5000, 64
    rng = np.random.default_rng(0)
    diff, keep = memory(backend, rng.standard_normal(n) * scale), rng.random(n) < 0.5
    mask, exact = (memory(backend, keep.astype(np.uint8)) if masked else None), diff.array.astype(np.float64)
    partial, clip = backend.empty((pieces,)), backend.empty((2,))
    results = []
    before = backend.threads
    try:
        for backend.threads in (1, 3):
            backend.run("square_sums", pieces, n, diff, mask, int(masked), partial)
            backend.run("clip_scale", 1, pieces, partial, memory(backend, HYPER), clip)
            results.append((partial.array.tobytes(), float(clip.array[0])))
    finally:
        backend.threads = before
    norm = np.sqrt((exact[keep] ** 2).sum() if masked else (exact**2).sum())
    assert results[0] == results[1]
    assert results[0][1] == pytest.approx(min(1, CLIP / norm), rel=1e-5)


def test_clipping_of_what_is_not_finite_is_not_finite(cpu):
    partial, clip = memory(cpu, np.array([1.0, np.nan])), cpu.empty((2,))
    cpu.run("clip_scale", 1, 2, partial, memory(cpu, HYPER), clip)
    step = memory(cpu, np.array([np.nan] * 64))
    cpu.run("sgd_update", 1, memory(cpu, np.ones(64)), step, out := memory(cpu, np.zeros(64)), None, 0,
            memory(cpu, np.ones(1)), memory(cpu, np.ones(1)), 0, memory(cpu, HYPER), clip)  # fmt: skip
    assert np.isnan(out.array).all()


@pytest.mark.parametrize("rule", RULES)
def test_nothing_is_updated_once_a_loss_was_not_finite(rule, cpu):
    state = State(cpu, RULES[rule][1], True)
    before = [memory.array.copy() for memory in state.memories]
    state.run(f"{rule}_update", halted=1.0)
    for held, old in zip(state.memories, before, strict=True):
        np.testing.assert_array_equal(held.array, old)
