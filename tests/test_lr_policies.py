"""Learning rates by policy, at the iterations of Caffe's own recorded runs and elsewhere."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from protocaffe.errors import ParameterError
from protocaffe.io.prototxt import parse_solver
from protocaffe.lr_policies import learning_rate

GOLDENS = Path(__file__).resolve().parent / "goldens"
SOLVERS = {c["name"]: c for c in json.loads((GOLDENS / "cases.json").read_text())["cases"] if c["kind"] == "solver"}


def rates(text, n=10):
    param, step, out = parse_solver(text), 0, []
    for iteration in range(n):
        rate, step = learning_rate(param, iteration, step)
        out.append(rate)
    return out


def test_policies_of_the_golden_solvers_are_all_covered():
    assert {parse_solver(c["solver"]).lr_policy for c in SOLVERS.values()} == {
        "fixed", "step", "exp", "inv", "multistep", "poly", "sigmoid"
    }  # fmt: skip


@pytest.mark.parametrize("name", SOLVERS)
def test_golden_solvers(name):
    """Caffe's formulas, written down once more."""
    text = SOLVERS[name]["solver"]
    p = parse_solver(text)
    base, gamma, power = p.base_lr, p.gamma, p.power
    expected = {
        "fixed": lambda i: base,
        "step": lambda i: base * gamma ** (i // p.stepsize),
        "exp": lambda i: base * gamma**i,
        "inv": lambda i: base / (1 + gamma * i) ** power,
        "multistep": lambda i: base * gamma ** sum(i >= s for s in p.stepvalue),
        "poly": lambda i: base * (1 - i / p.max_iter) ** power,
        "sigmoid": lambda i: base / (1 + math.exp(-gamma * (i - p.stepsize))),
    }[p.lr_policy]
    assert rates(text) == pytest.approx([expected(i) for i in range(10)], rel=1e-6)


def test_step_counts():
    p = parse_solver('base_lr: 1 lr_policy: "multistep" gamma: 0.1 stepvalue: 2 stepvalue: 5')
    step, steps = 0, []
    for i in range(7):
        _, step = learning_rate(p, i, step)
        steps.append(step)
    assert steps == [0, 0, 1, 1, 1, 2, 2]
    assert learning_rate(p, 6, 0)[1] == 2  # a resumed run whose state says nothing


def test_cosine():
    text = 'base_lr: 1 min_lr: 0.1 lr_policy: "cosine" max_iter: 10'
    got = rates(text, 12)
    assert got[0] == pytest.approx(1) and got[5] == pytest.approx(0.55) and got[10] == got[11] == pytest.approx(0.1)
    assert sorted(got, reverse=True) == got


def test_cosine_with_warm_up():
    got = rates('base_lr: 1 lr_policy: "cosine" max_iter: 14 warmup_iter: 4', 14)
    assert got[:5] == pytest.approx([0.25, 0.4375, 0.625, 0.8125, 1])
    assert got[9] == pytest.approx(0.5)


@pytest.mark.parametrize("policy", ['"fixed"', '"step" gamma: 0.5 stepsize: 100', '"poly" power: 0 max_iter: 9'])
def test_warm_up_of_any_policy(policy):
    got = rates(f"base_lr: 2 lr_policy: {policy} warmup_iter: 2 warmup_start_lr: 1", 4)
    assert got == pytest.approx([1, 1.5, 2, 2])


def test_poly_ends_at_zero():
    assert rates('base_lr: 1 lr_policy: "poly" power: 0.5 max_iter: 2', 4)[2:] == [0, 0]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("base_lr: 1", "lr_policy is missing"),
        ('lr_policy: "fixed"', "base_lr is missing"),
        ('base_lr: 1 lr_policy: "stepp"', 'did you mean "step"'),
        ('base_lr: 1 lr_policy: "plateau"', "expected one of fixed"),
        ('base_lr: 1 lr_policy: "step" stepsize: 3', "needs gamma"),
        ('base_lr: 1 lr_policy: "step" gamma: 1', "needs stepsize"),
        ('base_lr: 1 lr_policy: "step" gamma: 1 stepsize: 0', "positive"),
        ('base_lr: 1 lr_policy: "poly" power: 1', "max_iter"),
        ('base_lr: 1 lr_policy: "cosine" max_iter: 3 warmup_iter: 3', "below max_iter"),
        ('base_lr: 1 lr_policy: "inv" gamma: -1 power: 0.5', "no finite number"),
    ],
)
def test_mistakes(text, said):
    with pytest.raises(ParameterError, match=said):
        rates(text)
