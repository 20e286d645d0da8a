"""Magnitude criteria: exact counts, scopes, floors, ties, masks that are there already."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocaffe.errors import ParameterError
from protocaffe.pruning import Weights, magnitude_masks


def layers(seed=0, sizes=((20, 1, 5, 5), (50, 20, 5, 5), (500, 800), (10, 500))):
    rng = np.random.default_rng(seed)
    return [
        Weights(f"l{i}", (rng.standard_normal(size) / np.sqrt(np.prod(size[1:]))).astype(np.float32))
        for i, size in enumerate(sizes)
    ]


def zeros(masks):
    return sum(int((~m).sum()) for m in masks)


def test_global_scope_reaches_the_sparsity_exactly_and_keeps_the_largest():
    weights = layers()
    masks = magnitude_masks(weights, 0.9, min_keep=0)
    total = sum(w.values.size for w in weights)
    assert total == 430500
    assert zeros(masks) == 387450
    everything = np.concatenate([np.abs(w.values).ravel() for w in weights])
    kept = np.concatenate([m.ravel() for m in masks])
    assert everything[kept].min() >= everything[~kept].max()


def test_uniform_scope_takes_the_same_share_of_every_layer():
    weights = layers()
    for w, mask in zip(weights, magnitude_masks(weights, 0.9, "uniform"), strict=True):
        assert int((~mask).sum()) == round(0.9 * w.values.size)
        assert np.abs(w.values)[mask].min() >= np.abs(w.values)[~mask].max()


@pytest.mark.parametrize("scope", ["global", "uniform"])
def test_a_layer_with_a_share_of_its_own_takes_no_part(scope):
    weights = layers()
    masks = magnitude_masks(weights, 0.9, scope, {"l0": 0.5, "l3": 0.0})
    assert int((~masks[0]).sum()) == 250
    assert masks[3].all()
    rest = weights[1].values.size + weights[2].values.size
    assert zeros(masks[1:3]) == round(0.9 * rest)


def test_min_keep_stops_global_ranking_from_emptying_a_layer():
    tiny = Weights("tiny", np.full((10, 10), 1e-6, np.float32))
    large = Weights("large", np.ones((100, 100), np.float32))
    assert magnitude_masks([tiny, large], 0.5, min_keep=0)[0].sum() == 0
    assert magnitude_masks([tiny, large], 0.5)[0].sum() == 1  # 1 % by default
    assert magnitude_masks([tiny, large], 0.5, min_keep=0.2)[0].sum() == 20
    masks = magnitude_masks([tiny, large], 0.5, min_keep=30)
    assert masks[0].sum() == 30
    assert zeros(masks) == 5050


def test_min_keep_above_what_the_sparsity_leaves_is_an_error_that_says_what_is_possible():
    with pytest.raises(
        ParameterError, match=r"cannot reach a sparsity of 0.9: min_keep holds 2000 of 10000.*at most 0.8"
    ):
        magnitude_masks([Weights("a", np.ones(10000, np.float32))], 0.9, min_keep=0.2)


def test_equal_magnitudes_go_in_order_so_that_counts_stay_exact():
    weights = [Weights("a", np.ones((4, 5), np.float32)), Weights("b", -np.ones(20, np.float32))]
    masks = magnitude_masks(weights, 0.75, min_keep=0)
    assert not masks[0].any()
    assert masks[1].tolist() == [False] * 10 + [True] * 10


def test_pruned_weights_stay_pruned_and_count():
    rng = np.random.default_rng(1)
    values = rng.standard_normal(1000).astype(np.float32)
    mask = np.ones(1000, bool)
    mask[np.argsort(-np.abs(values))[:300]] = False  # the largest are gone: magnitude alone would revive them
    (again,) = magnitude_masks([Weights("a", values, mask)], 0.6)
    assert not again[~mask].any()
    assert int((~again).sum()) == 600
    (lower,) = magnitude_masks([Weights("a", values, mask)], 0.1)
    assert np.array_equal(lower, mask)


def test_nothing_is_changed_in_place():
    weights = layers()
    before = [w.values.copy() for w in weights]
    magnitude_masks(weights, 0.9)
    assert all(np.array_equal(w.values, b) for w, b in zip(weights, before, strict=True))


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(1, 60), min_size=1, max_size=4),
    st.floats(0, 0.98),
    st.sampled_from(["global", "uniform"]),
    st.integers(0, 2**31),
)
def test_any_sparsity_is_reached_and_never_overshot_by_more_than_rounding(sizes, sparsity, scope, seed):
    rng = np.random.default_rng(seed)
    weights = [Weights(str(i), rng.integers(-3, 4, n).astype(np.float32)) for i, n in enumerate(sizes)]
    masks = magnitude_masks(weights, sparsity, scope, min_keep=0)
    groups = [masks] if scope == "global" else [[m] for m in masks]
    for group in groups:
        count = sum(m.size for m in group)
        assert sparsity * count - 1e-4 <= zeros(group) < sparsity * count + 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"sparsity": 1.0}, r"sparsity must be a share in \[0, 1\), got 1"),
        ({"sparsity": -0.1}, "got -0.1"),
        ({"sparsity": 0.5, "scope": "local"}, 'scope must be "global", "uniform" or "erk", got "local"'),
        ({"sparsity": 0.5, "layer_sparsity": {"conv9": 0.5}}, 'no prunable layer "conv9"; prunable are a'),
        ({"sparsity": 0.5, "layer_sparsity": {"a": 2}}, "a must be a share"),
        ({"sparsity": 0.5, "min_keep": -1}, "min_keep"),
    ],
)
def test_impossible_arguments_are_named(arguments, message):
    with pytest.raises(ParameterError, match=message):
        magnitude_masks([Weights("a", np.ones(10, np.float32))], **arguments)


def test_weights_that_are_not_finite_are_refused():
    with pytest.raises(ParameterError, match='"a" hold NaN'):
        magnitude_masks([Weights("a", np.array([1, np.nan], np.float32))], 0.5)
