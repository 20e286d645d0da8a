"""Curves of accuracy against sparsity, shares that a drop allows, and a net that is as it was afterwards."""

from __future__ import annotations

import numpy as np
import pytest

from protocaffe import TEST
from protocaffe.errors import ParameterError
from protocaffe.pruning.sensitivity import Curve, Scan
from tests.support.nets import make
from tests.test_fusion import entry, layer

NET = entry((1, 20)) + "".join(
    layer(
        "InnerProduct",
        name,
        below,
        name,
        f'inner_product_param {{ num_output: {n} weight_filler {{ type: "xavier" }} }}',
    )
    for name, below, n in (("a", "data", 100), ("b", "a", 10))
)
WEIGHTS = {"a": 2000, "b": 1000}


def small(bears):
    """A net, and a score that falls by 0.1 for each layer that is sparser than it ``bears``."""
    net = make(NET, TEST)
    scored = []

    def score():
        zeros = {name: float((blobs[0].data == 0).mean()) for name, blobs in net.params.items()}
        scored.append(zeros)
        return 0.9 - sum(0.1 * max(0.0, zeros[name] - limit) / (1 - limit) for name, limit in bears.items())

    return net, score, scored


def everything(net):
    return [blob.data.copy() for blobs in net.params.values() for blob in blobs] + [
        None if blob.mask is None else blob.mask.copy() for blobs in net.params.values() for blob in blobs
    ]


def same(a, b):
    for x, y in zip(a, b, strict=True):
        assert (x is None) == (y is None) and (x is None or np.array_equal(x, y))


def test_one_layer_at_a_time_is_pruned_and_the_net_is_as_it_was():
    net, score, scored = small({"a": 0.5, "b": 0.9})
    before = everything(net)
    curves = Scan(net, score).run([0.9, 0.5])
    same(before, everything(net))
    assert [(c.name, c.weights, c.sparsity) for c in curves] == [(n, WEIGHTS[n], [0, 0.5, 0.9]) for n in "ab"]
    assert curves[0].accuracy == pytest.approx([0.9, 0.9, 0.82], abs=1e-3)
    assert curves[1].accuracy == pytest.approx([0.9, 0.9, 0.9], abs=1e-3)
    for zeros in scored[1:]:
        assert sorted(share > 0 for share in zeros.values()) == [False, True]


def test_masks_that_are_there_stay_and_count():
    net, score, _ = small({"a": 0.99, "b": 0.99})
    blob = net.params["a"][0]
    blob.mask = gone = np.arange(2000).reshape(blob.shape) % 4 > 0
    before = everything(net)
    curves = Scan(net, score).run([0.1, 0.5])
    same(before, everything(net))
    assert curves[0].sparsity == [0.25, 0.5] and np.array_equal(net.params["a"][0].mask, gone)


@pytest.mark.parametrize("drop", [0.0, 0.01, 0.05, 0.15])
def test_budgets_cost_no_more_than_they_may_and_not_much_less(drop):
    net, score, _ = small({"a": 0.5, "b": 0.8})
    scan = Scan(net, score)
    scan.run([0.25, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95])
    before = everything(net)
    shares, accuracy = scan.budgets(drop)
    same(before, everything(net))
    assert accuracy >= 0.9 - drop - 1e-12 and accuracy == pytest.approx(scan.with_shares(shares))
    assert accuracy <= 0.9 - 0.6 * drop or drop == 0.15  # there the points end
    assert shares["b"] >= 0.78 and shares["a"] >= 0.48


def test_a_layer_that_bears_nothing_gets_nothing():
    net, score, _ = small({"a": 0.0, "b": 0.9})
    scan = Scan(net, score)
    scan.run([0.5, 0.9])
    shares, _ = scan.budgets(0.0)
    assert shares["a"] == pytest.approx(0, abs=0.01) and shares["b"] == 0.9


def test_a_budget_lies_where_the_straight_line_crosses():
    curve = Curve("x", 1, [0.0, 0.5, 0.9], [0.9, 0.8, 0.4])
    assert [curve.budget(f) for f in (0.95, 0.9, 0.85, 0.8, 0.6, 0.3)] == [0, 0, 0.25, 0.5, 0.7, 0.9]


@pytest.mark.parametrize("shares", [[], [0.5, 1.0], [0.0]])
def test_shares_that_cannot_be(shares):
    net, score, _ = small({"a": 0.5, "b": 0.5})
    with pytest.raises(ParameterError, match=r"sparsities must be shares in \(0, 1\)"):
        Scan(net, score).run(shares)
