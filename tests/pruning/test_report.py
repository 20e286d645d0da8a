"""The two figures of a report: zeros over prunable weights, non-zeros over all parameters."""

import numpy as np

from protocaffe.pruning import Weights, sparsity_report


def test_figures_are_kept_apart():
    w1 = np.array([[0, 1], [2, 0]], np.float32)
    w2 = np.array([3, 4, 5, 6], np.float32)
    bias = np.zeros(2, np.float32)
    report = sparsity_report([Weights("a", w1), Weights("b", w2)], [w1, bias, w2])
    assert [layer.zeros for layer in report.layers] == [2, 0]
    assert report.layers[0].sparsity == 0.5
    assert (report.zeros, report.prunable, report.sparsity) == (2, 8, 0.25)
    assert (report.nonzeros, report.parameters) == (6, 10)
    assert report.ratio == 10 / 6
    assert report.lines()[-2:] == [
        "sparsity 25.00%: 2 zeros of 8 prunable weights",
        "non-zeros 6 of 10 parameters (1.7x fewer)",
    ]


def test_minus_zero_and_masked_values_count_as_zero():
    w = np.array([-0.0, 1.0, 2.0], np.float32)
    assert sparsity_report([Weights("a", w, np.array([True, True, False]))], [w]).zeros == 2


def test_a_net_without_prunable_weights():
    report = sparsity_report([], [np.zeros(3)])
    assert report.sparsity == 0
    assert report.ratio == float("inf")


def test_a_net_of_zeros_says_that_nothing_is_left():
    report = sparsity_report([Weights("ip", np.zeros(4, np.float32))], [np.zeros(4, np.float32)])
    assert report.lines()[-1] == "non-zeros 0 of 4 parameters (nothing is left)"
