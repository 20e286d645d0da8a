"""Least squares under a mask: against NumPy's own solver, exactness, monotony, errors."""

import numpy as np
import pytest

from protocaffe.errors import ParameterError, ShapeError
from protocaffe.pruning.least_squares import Sums, refit, work


def problem(n=200, groups=2, inputs=7, outputs=5, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.normal(1, 1, (n, groups, inputs))
    y = rng.normal(2, 1, (n, groups, outputs)) + x @ np.ones((inputs, 1))
    w = rng.normal(size=(groups, outputs, inputs))
    return x, y, w, rng.normal(size=(groups, outputs)), rng.random(w.shape) < 0.6


def summed(x, y, parts=3):
    sums = Sums.empty(*x.shape[1:], y.shape[2])
    for a, b in zip(np.array_split(x, parts), np.array_split(y, parts), strict=True):
        sums.add(a, b)
    return sums


def squared_error(x, y, w, b):
    got = np.einsum("ngk,grk->ngr", x, w) + (0 if b is None else b)
    return ((y - got) ** 2).sum(0)


@pytest.mark.parametrize("with_bias", [True, False])
def test_against_lstsq_row_by_row(with_bias):
    x, y, w, b, mask = problem()
    mask[0, 3] = mask[0, 1]  # equal masks are solved together
    mask[1, 2] = False
    b = b if with_bias else None
    fit = refit(summed(x, y), w, b, mask, ridge=1e-12)
    assert not fit.weights[~mask].any()
    for g in range(2):
        for r in range(5):
            columns = np.column_stack([x[:, g][:, mask[g, r]], *([np.ones(len(x))] if with_bias else [])])
            best = np.linalg.lstsq(columns, y[:, g, r], rcond=None)[0] if columns.size else np.zeros(0)
            kept = int(mask[g, r].sum())
            np.testing.assert_allclose(fit.weights[g, r][mask[g, r]], best[:kept], rtol=1e-6, atol=1e-8)
            if with_bias:
                np.testing.assert_allclose(fit.bias[g, r], best[kept], rtol=1e-6)
    masked = np.where(mask, w, 0)
    np.testing.assert_allclose(fit.before, squared_error(x, y, masked, b), rtol=1e-9)
    np.testing.assert_allclose(fit.after, squared_error(x, y, fit.weights, fit.bias), rtol=1e-9)


def test_what_kept_inputs_can_say_is_said_exactly():
    rng = np.random.default_rng(1)
    kept = rng.normal(size=(300, 1, 4))
    x = np.concatenate([kept, kept @ rng.normal(size=(4, 3))], axis=2)  # the last three are made of the first four
    w, b = rng.normal(size=(1, 6, 7)), rng.normal(size=(1, 6))
    y = np.einsum("ngk,grk->ngr", x, w) + b
    mask = np.broadcast_to(np.arange(7) < 4, w.shape)
    fit = refit(summed(x, y), w, b, mask, ridge=1e-9)
    np.testing.assert_allclose(np.einsum("ngk,grk->ngr", x, fit.weights) + fit.bias, y, atol=1e-6)
    assert fit.before.min() > 1


@pytest.mark.parametrize("n", [1, 3, 50])
@pytest.mark.parametrize("ridge", [1e-9, 1e-3, 1.0, 100.0])
@pytest.mark.parametrize("with_bias", [True, False])
def test_never_worse_on_its_own_samples(n, ridge, with_bias):
    x, y, w, b, mask = problem(n, inputs=20, seed=n)
    x[:, 0, 5] = 0  # a dead input
    b = b if with_bias else None
    before = squared_error(x, y, np.where(mask, w, 0), b)
    fit = refit(summed(x, y, 1), w, b, mask, ridge)
    after = squared_error(x, y, fit.weights, fit.bias)
    assert (after <= before * (1 + 1e-9) + 1e-9).all()
    assert after.sum() < before.sum()


def test_weights_that_are_best_already_stay():
    x, _, w, b, mask = problem()
    w = np.where(mask, w, 0)
    fit = refit(summed(x, np.einsum("ngk,grk->ngr", x, w) + b), w, b, mask)
    np.testing.assert_allclose(fit.weights, w, atol=1e-9)
    np.testing.assert_allclose(fit.bias, b, atol=1e-9)


def test_dead_inputs_leave_the_weights_and_refit_the_bias():
    _, y, w, b, mask = problem()
    fit = refit(summed(np.zeros((len(y), 2, 7)), y), w, b, mask)
    assert np.array_equal(fit.weights, np.where(mask, w, 0))
    np.testing.assert_allclose(fit.bias, y.mean(0))


def test_work_counts_distinct_masks_once():
    mask = np.array([[[1, 1, 0], [1, 1, 0], [0, 1, 1], [0, 0, 0]]], bool)
    assert work(mask) == pytest.approx(2 / 3 * (8 + 8))


def test_errors():
    x, y, w, b, mask = problem()
    with pytest.raises(ParameterError, match="ridge must be above 0, got 0"):
        refit(summed(x, y), w, b, mask, 0)
    with pytest.raises(ParameterError, match="no samples"):
        refit(Sums.empty(2, 7, 5), w, b, mask)
    with pytest.raises(ShapeError, match=r"shapes \(n, 2, 7\) and \(n, 2, 5\), got \(200, 2, 6\)"):
        Sums.empty(2, 7, 5).add(x[..., 1:], y)
