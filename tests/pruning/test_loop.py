"""The search by rounds: where it stops, what it keeps, and how it goes back."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocaffe.errors import ParameterError
from protocaffe.pruning.loop import search


class Model:
    """A net whose accuracy falls to 0.5 beyond ``limit``, with what was kept."""

    def __init__(self, limit):
        self.limit = limit
        self.tried, self.kept = 0.0, [0.0]

    def attempt(self, sparsity):
        self.tried = sparsity
        return 0.99 if sparsity <= self.limit else 0.5

    def run(self, **options):
        return list(search(self.attempt, lambda: self.kept.append(self.tried), 0.99, **options))


@given(st.floats(0.05, 0.995))
def test_it_ends_near_the_sparsest_net_that_is_good_enough(limit):
    model = Model(limit)
    rounds = model.run(max_drop=0.005)
    best = model.kept[-1]
    assert best <= limit
    assert (1 - best) * (1 - 0.04) <= 1 - limit + 1e-9  # the smallest part that was tried, 0.0375, was too much
    assert [r.sparsity for r in rounds if r.kept] == model.kept[1:]
    assert [r.number for r in rounds] == list(range(1, len(rounds) + 1)) and len(rounds) < 40


@given(st.floats(0.001, 0.2))
def test_no_net_is_kept_that_lost_more_than_was_allowed(drop):
    """Accuracy falls evenly, so that the budget and not a cliff ends the search."""
    kept = [0.0]
    tried = 0.0

    def attempt(sparsity):
        nonlocal tried
        tried = sparsity
        return 0.99 - 0.5 * sparsity**4

    rounds = list(search(attempt, lambda: kept.append(tried), 0.99, max_drop=drop))
    limit = (2 * drop) ** 0.25
    assert 0.5 * kept[-1] ** 4 <= drop + 1e-12 and (1 - kept[-1]) * (1 - 0.04) <= 1 - limit + 1e-9
    assert [r.accuracy >= 0.99 - drop for r in rounds] == [r.kept for r in rounds]


@given(st.floats(0.01, 0.999), st.floats(0.05, 0.9))
def test_a_target_is_met_exactly(target, part):
    model = Model(1.0)
    rounds = model.run(target=target, part=part)
    assert model.kept[-1] == target and all(r.kept for r in rounds)
    left = [1 - s for s in model.kept]
    assert all(b >= a * (1 - part) * (1 - 0.04) - 1e-9 for a, b in pairwise(left[:-1]))


def test_a_target_alone_is_reached_whatever_the_accuracy():
    model = Model(0.3)
    assert model.run(target=0.9)[-1].accuracy == 0.5 and model.kept[-1] == 0.9


def test_with_both_the_first_bound_ends_it():
    model = Model(0.8)
    model.run(target=0.95, max_drop=0.01)
    assert 0.75 < model.kept[-1] <= 0.8
    easy = Model(0.99)
    easy.run(target=0.95, max_drop=0.01)
    assert easy.kept[-1] == 0.95


def test_it_goes_on_from_a_net_that_is_sparse():
    model = Model(1.0)
    rounds = model.run(sparsity=0.9, target=0.95, part=0.3)
    assert [round(r.sparsity, 4) for r in rounds] == [0.93, 0.95]
    assert Model(1.0).run(sparsity=0.96, target=0.95) == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "needs a target sparsity, a largest drop of accuracy, or both"),
        ({"target": 1.0}, r"target sparsity must be a share in \(0, 1\), got 1"),
        ({"max_drop": -0.1}, r"largest drop must be a share in \[0, 1\), got -0.1"),
        ({"target": 0.5, "part": 1}, r"part must be a share in \(0, 1\), got 1"),
    ],
)
def test_bounds_that_cannot_be(options, message):
    with pytest.raises(ParameterError, match=message):
        Model(1.0).run(**options)
