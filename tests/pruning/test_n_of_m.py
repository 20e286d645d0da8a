"""N:M: the pattern along the inputs of each output, for every way in which weights lie."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocaffe.errors import ParameterError
from protocaffe.layout import WeightLayout
from protocaffe.pruning import Weights, n_of_m_masks

KINDS = ["inner", "turned", "conv", "deconv", "legacy", "legacy_turned"]


def make(kind, outputs, inputs, kernel, groups):
    """Shape, layout, and for each output the places of its inputs in order, from loops alone."""
    if kind in ("inner", "legacy"):
        rows = [[o * inputs + i for i in range(inputs)] for o in range(outputs)]
        layout = WeightLayout((outputs, inputs))
        return (outputs, inputs) if kind == "inner" else (1, 1, outputs, inputs), layout, rows
    if kind in ("turned", "legacy_turned"):
        rows = [[i * outputs + o for i in range(inputs)] for o in range(outputs)]
        layout = WeightLayout((inputs, outputs), 1)
        return (inputs, outputs) if kind == "turned" else (1, 1, inputs, outputs), layout, rows
    if kind == "conv":  # (outputs, inputs of a group, kernel): no group looks beyond its own
        shape = (groups * outputs, inputs, kernel)
        size = inputs * kernel
        rows = [[o * size + i for i in range(size)] for o in range(groups * outputs)]
        return shape, WeightLayout(shape), rows
    shape = (groups * inputs, outputs, kernel)
    rows = [
        [((g * inputs + i) * outputs + o) * kernel + k for i in range(inputs) for k in range(kernel)]
        for g in range(groups)
        for o in range(outputs)
    ]
    return shape, WeightLayout(shape, 1, groups), rows


@settings(max_examples=200, deadline=None)
@given(
    st.sampled_from(KINDS), st.integers(1, 4), st.integers(1, 13), st.integers(1, 3), st.integers(1, 3),
    st.integers(2, 9).flatmap(lambda m: st.tuples(st.integers(1, m - 1), st.just(m))),
    st.booleans(), st.integers(0, 2**31),
)  # fmt: skip
def test_every_block_of_m_keeps_the_best_n(kind, outputs, inputs, kernel, groups, pattern, masked, seed):
    n, m = pattern
    shape, layout, rows = make(kind, outputs, inputs, kernel, groups)
    rng = np.random.default_rng(seed)
    values = rng.integers(-3, 4, shape).astype(np.float32)  # many ties
    score = np.abs(values)
    mask = rng.random(shape) < 0.6 if masked else None
    (got,) = n_of_m_masks([Weights("w", values, mask, layout)], [score], n, m)
    assert got.shape == shape and got.dtype == bool
    alive = np.ones(shape, bool) if mask is None else mask
    assert not (got & ~alive).any()
    assert sorted(i for row in rows for i in row) == list(range(values.size))
    flat, live, left = score.ravel(), alive.ravel(), got.ravel()
    for row in rows:
        for start in range(0, len(row), m):
            block = np.array(row[start : start + m])
            most = n if len(block) == m else -(-len(block) * n // m)
            assert left[block].sum() == min(most, live[block].sum())
            gone = block[live[block] & ~left[block]]
            kept = block[left[block]]
            if len(gone) and len(kept):
                assert flat[kept].min() >= flat[gone].max()
                same = [i for i in gone if flat[i] == flat[kept].min()]
                assert all(i < j for i in same for j in kept if flat[j] == flat[i])  # the first ones go


def test_what_is_left_over_at_the_end_of_a_row():
    w = np.array([[9, 8, 7, 6, 5, 4, 3], [1, 2, 3, 4, 5, 6, 7]], np.float32)
    (mask,) = n_of_m_masks([Weights("ip", w)], [w], 2, 4)
    assert mask.tolist() == [
        [True, True, False, False, True, True, False],  # of three one goes
        [False, False, True, True, False, True, True],
    ]
    (mask,) = n_of_m_masks([Weights("ip", w[:, :3])], [w[:, :3]], 1, 8)
    assert mask.sum(axis=1).tolist() == [1, 1]  # rows shorter than m keep one at least


def test_layers_in_exclude_stay():
    w = np.ones((2, 8), np.float32)
    mask = np.arange(16).reshape(2, 8) % 3 > 0
    weights = [Weights("a", w, mask), Weights("b", w), Weights("c", w)]
    a, b, c = n_of_m_masks(weights, [w, w, w], 2, 4, exclude=["a", "b"])
    assert np.array_equal(a, mask) and b.all() and c.sum() == 8


@pytest.mark.parametrize("pattern", [(0, 4), (4, 4), (5, 4), (-1, 2)])
def test_impossible_patterns(pattern):
    w = np.ones((2, 8), np.float32)
    with pytest.raises(ParameterError, match=f"1 <= n < m, such as 2:4, got {pattern[0]}:{pattern[1]}"):
        n_of_m_masks([Weights("a", w)], [w], *pattern)
    with pytest.raises(ParameterError, match='no prunable layer "ab"'):
        n_of_m_masks([Weights("a", w)], [w], 2, 4, exclude=["ab"])
