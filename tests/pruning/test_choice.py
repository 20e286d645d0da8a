"""The choice of masks by any score: scopes, ERK by hand, masks that are there, excluded layers, ties, errors."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocaffe.errors import ParameterError
from protocaffe.pruning import Weights, choose_masks, erk_densities

SCOPES = ["global", "uniform", "erk"]
SHAPES = [(8, 2, 3, 3), (40, 30), (10, 40)]


def layers(seed=0, masked=False):
    rng = np.random.default_rng(seed)
    names = ["conv1", "ip1", "ip2"]
    masks = [rng.random(s) < 0.7 if masked else None for s in SHAPES]
    return [
        Weights(n, rng.standard_normal(s).astype(np.float32), m) for n, s, m in zip(names, SHAPES, masks, strict=True)
    ]


def scores_of(weights, seed=1):
    rng = np.random.default_rng(seed)
    return [rng.standard_normal(w.values.shape) for w in weights]


def zeros(masks):
    return [int((~m).sum()) for m in masks]


def test_scores_decide_and_not_the_weights():
    weights = layers()
    scores = scores_of(weights)  # negative ones too
    masks = choose_masks(weights, scores, 0.6, min_keep=0)
    flat, kept = (np.concatenate([a.ravel() for a in arrays]) for arrays in (scores, masks))
    assert int((~kept).sum()) == np.ceil(0.6 * flat.size)
    assert flat[kept].min() > flat[~kept].max()


def test_erk_by_hand():
    # 102 / 18432 and 192 / 8192 of the weights, times one e: e (102 + 192) = 0.1 * 26624
    got = erk_densities([(64, 32, 3, 3), (128, 64)], 0.9)
    np.testing.assert_allclose(got, [2662.4 / 294 * 102 / 18432, 2662.4 / 294 * 192 / 8192], rtol=1e-12)
    np.testing.assert_allclose(got, [0.05011, 0.21224], atol=1e-5)


def test_erk_holds_a_layer_at_one_and_gives_the_rest_to_the_others():
    # e = 241.6 / 147 would keep 1.44 of the first, so that it stays whole: e = (241.6 - 8) / 140
    shapes = [(2, 1, 2, 2), (10, 20), (100, 10)]
    np.testing.assert_allclose(erk_densities(shapes, 0.8), [1, 233.6 / 140 * 0.15, 233.6 / 140 * 0.11], rtol=1e-12)
    weights = [Weights(str(i), np.ones(s, np.float32)) for i, s in enumerate(shapes)]
    masks = choose_masks(weights, [w.values for w in weights], 0.8, "erk")
    assert zeros(masks) == [0, 150, 817]  # 149.94 and 816.46, rounded up


@settings(max_examples=80, deadline=None)
@given(st.lists(st.lists(st.integers(1, 40), min_size=1, max_size=4), min_size=1, max_size=5), st.floats(0, 0.99))
def test_erk_keeps_the_total_and_its_proportions(shapes, sparsity):
    densities = np.array(erk_densities(shapes, sparsity))
    sizes = np.array([np.prod(s) for s in shapes], float)
    raw = np.array([sum(s) for s in shapes]) / sizes
    assert (densities >= 0).all() and (densities <= 1).all()
    assert densities @ sizes == pytest.approx((1 - sparsity) * sizes.sum())
    part = densities < 1
    if part.any():
        ratio = densities[part] / raw[part]
        np.testing.assert_allclose(ratio, ratio[0], rtol=1e-9)
        assert (raw[~part] * ratio[0] >= 1 - 1e-9).all()  # who is held at 1 would have passed it


@pytest.mark.parametrize("scope", SCOPES)
def test_nothing_that_is_pruned_comes_back(scope):
    weights = layers(masked=True)
    scores = [np.where(w.mask, s, 100.0) for w, s in zip(weights, scores_of(weights), strict=True)]
    for sparsity in (0.1, 0.5, 0.9):
        masks = choose_masks(weights, scores, sparsity, scope)
        total = sum(m.size for m in masks)
        assert sum(zeros(masks)) >= sparsity * total
        for w, mask in zip(weights, masks, strict=True):
            assert not mask[~w.mask].any()
            assert mask.any()


@pytest.mark.parametrize("scope", SCOPES)
def test_excluded_layers_stay_and_do_not_count(scope):
    weights, masked = layers(), layers(masked=True)
    weights = [weights[0], masked[1], weights[2]]
    for name in ("conv1", "ip1"):
        masks = choose_masks(weights, scores_of(weights), 0.8, scope, exclude=[name])
        at = ["conv1", "ip1"].index(name)
        assert np.array_equal(masks[at], np.ones(SHAPES[0], bool) if at == 0 else weights[1].mask)
        rest = [m for i, m in enumerate(masks) if i != at]
        count = sum(m.size for m in rest)
        assert 0.8 * count <= sum(zeros(rest)) <= 0.8 * count + 2


@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int32])
def test_ties_go_in_stored_order_whatever_the_scope(scope, dtype):
    weights = [Weights("a", np.ones((4, 10), np.float32)), Weights("b", np.ones((4, 10), np.float32))]
    masks = choose_masks(weights, [np.zeros((4, 10), dtype)] * 2, 0.5, scope, min_keep=0)
    first, second = [40, 0] if scope == "global" else [20, 20]
    for mask, count in zip(masks, (first, second), strict=True):
        assert mask.ravel().tolist() == [False] * count + [True] * (40 - count)


@pytest.mark.parametrize("scope", SCOPES)
def test_no_layer_collapses_by_itself(scope):
    weights = layers()
    scores = [np.full(w.values.shape, float(i)) for i, w in enumerate(weights)]  # the first layer is worth least
    for sparsity in (0.9, 0.99, 0.999, 1 - 1e-9):
        masks = choose_masks(weights, scores, sparsity, scope)
        assert all(mask.any() for mask in masks)
        assert sum(zeros(masks)) >= min(1741, sparsity * 1744)  # of 1744 weights one stays in each layer
    assert not choose_masks(weights, scores, 0.9, "global", min_keep=0)[0].any()


@pytest.mark.parametrize("scope", SCOPES)
def test_min_keep_holds_in_every_scope(scope):
    weights = layers()
    scores = scores_of(weights)
    for keep, counts in ((12, [12, 12, 12]), (0.05, [8, 60, 20])):
        for mask, count in zip(choose_masks(weights, scores, 0.9, scope, min_keep=keep), counts, strict=True):
            assert mask.sum() >= count
    if scope != "global":
        with pytest.raises(ParameterError, match=r'layer "conv1" cannot reach a sparsity of 0.95: min_keep holds 20'):
            choose_masks(weights, scores, 0.95, "uniform", min_keep=20)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"exclude": ["conv2"]}, 'no prunable layer "conv2"; did you mean "conv1"'),
        ({"layer_sparsity": {"zzz": 0.5}}, 'no prunable layer "zzz"; prunable are conv1, ip1, ip2'),
        ({"layer_sparsity": {"ip1": 0.5}, "exclude": ["ip1"]}, '"ip1" is excluded and has a share of its own'),
        ({"scope": "local"}, 'scope must be "global", "uniform" or "erk", got "local"'),
        ({"layer_sparsity": {"ip1": 1.0}}, r"ip1 must be a share in \[0, 1\), got 1"),
        ({"min_keep": float("nan")}, "min_keep must be a share or a number of weights, got nan"),
        ({"sparsity": float("nan")}, "got nan"),
    ],
)
def test_impossible_arguments_are_named(arguments, message):
    weights = layers()
    with pytest.raises(ParameterError, match=message):
        choose_masks(weights, scores_of(weights), **({"sparsity": 0.5} | arguments))


def test_scores_must_be_finite_and_fit():
    weights = layers()
    scores = scores_of(weights)
    with pytest.raises(ParameterError, match=r'scores of "ip1" must have its shape \(40, 30\), got \(30, 40\)'):
        choose_masks(weights, [scores[0], scores[1].T, scores[2]], 0.5)
    scores[2][0, 0] = np.inf
    with pytest.raises(ParameterError, match='the scores of "ip2" hold NaN or infinity'):
        choose_masks(weights, scores, 0.5)
