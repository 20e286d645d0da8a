"""The learning rate at each iteration: Caffe's seven policies, cosine, and a linear warm-up for any of them.

Source: Caffe's src/caffe/solvers/sgd_solver.cpp; cosine: Loshchilov and Hutter, arXiv 1608.03983.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from .errors import ParameterError, did_you_mean


def learning_rate(solver_param: Any, iter: int, current_step: int = 0) -> tuple[float, int]:
    """The learning rate of an iteration, and the policy's step count after it.

    ==========  ===========================================================================================
    fixed       base_lr
    step        base_lr * gamma ^ floor(iter / stepsize)
    exp         base_lr * gamma ^ iter
    inv         base_lr * (1 + gamma * iter) ^ -power
    multistep   base_lr * gamma ^ (number of `stepvalue` reached)
    poly        base_lr * (1 - iter / max_iter) ^ power
    sigmoid     base_lr / (1 + exp(-gamma * (iter - stepsize)))
    cosine      min_lr + (base_lr - min_lr) * (1 + cos(pi * (iter - warmup_iter) / (max_iter - warmup_iter))) / 2
    ==========  ===========================================================================================

    In the first `warmup_iter` iterations the rate goes in a straight line from `warmup_start_lr` (if absent: base_lr /
    warmup_iter) to what the policy says: rate = start + (policy - start) * iter / warmup_iter.

    Parameters
    ----------
    current_step : what the previous iteration returned (stored in a solver's state); only multistep and step use it

    Raises
    ------
    ParameterError : unknown policy, or a parameter that it needs is missing

    >>> from protocaffe.io.prototxt import parse_solver
    >>> param = parse_solver('base_lr: 0.1 lr_policy: "step" gamma: 0.5 stepsize: 10')
    >>> rate, step = learning_rate(param, 25)
    >>> f"{rate:g}", step
    ('0.025', 2)
    """
    policy = solver_param.lr_policy
    if not solver_param.HasField("base_lr"):
        raise ParameterError("base_lr is missing")
    if policy not in _POLICIES:
        known = ", ".join(_POLICIES)
        said = f'unknown lr_policy "{policy}"' if policy else "lr_policy is missing"
        raise ParameterError(f"{said}{did_you_mean(policy, _POLICIES) or f', expected one of {known}'}")
    rate, current_step = _POLICIES[policy](solver_param, iter, current_step)
    warmup = solver_param.warmup_iter
    if iter < warmup:
        given = solver_param.HasField("warmup_start_lr")
        start = solver_param.warmup_start_lr if given else solver_param.base_lr / warmup
        rate = start + (rate - start) * (iter / warmup)
    return rate, current_step


def _need(p: Any, *names: str) -> None:
    for name in names:
        if not p.HasField(name):
            raise ParameterError(f'lr_policy "{p.lr_policy}" needs {name}')


def _positive(p: Any, name: str) -> int:
    _need(p, name)
    value = getattr(p, name)
    if value <= 0:
        raise ParameterError(f'lr_policy "{p.lr_policy}": {name} must be positive, got {value}')
    return value


def _power(p: Any, base: float, exponent: float) -> float:
    try:
        return math.pow(base, exponent)
    except (OverflowError, ValueError):
        raise ParameterError(f'lr_policy "{p.lr_policy}": {base:g} ^ {exponent:g} is no finite number') from None


def _fixed(p: Any, it: int, step: int) -> tuple[float, int]:
    return p.base_lr, step


def _step(p: Any, it: int, step: int) -> tuple[float, int]:
    _need(p, "gamma")
    step = it // _positive(p, "stepsize")
    return p.base_lr * _power(p, p.gamma, step), step


def _exp(p: Any, it: int, step: int) -> tuple[float, int]:
    _need(p, "gamma")
    return p.base_lr * _power(p, p.gamma, it), step


def _inv(p: Any, it: int, step: int) -> tuple[float, int]:
    _need(p, "gamma")
    return p.base_lr * _power(p, 1 + p.gamma * it, -p.power), step


def _multistep(p: Any, it: int, step: int) -> tuple[float, int]:
    _need(p, "gamma")
    while step < len(p.stepvalue) and it >= p.stepvalue[step]:
        step += 1
    return p.base_lr * _power(p, p.gamma, step), step


def _poly(p: Any, it: int, step: int) -> tuple[float, int]:
    left = 1 - it / _positive(p, "max_iter")
    return p.base_lr * _power(p, max(left, 0.0), p.power), step


def _sigmoid(p: Any, it: int, step: int) -> tuple[float, int]:
    _need(p, "gamma", "stepsize")
    x = min(-p.gamma * (it - p.stepsize), 700.0)
    return p.base_lr / (1 + math.exp(x)), step


def _cosine(p: Any, it: int, step: int) -> tuple[float, int]:
    span = _positive(p, "max_iter") - p.warmup_iter
    if span <= 0:
        raise ParameterError(f'lr_policy "cosine": warmup_iter {p.warmup_iter} must be below max_iter {p.max_iter}')
    t = min(max((it - p.warmup_iter) / span, 0.0), 1.0)
    return p.min_lr + 0.5 * (p.base_lr - p.min_lr) * (1 + math.cos(math.pi * t)), step


_POLICIES: dict[str, Callable[[Any, int, int], tuple[float, int]]] = {
    "fixed": _fixed,
    "step": _step,
    "exp": _exp,
    "inv": _inv,
    "multistep": _multistep,
    "poly": _poly,
    "sigmoid": _sigmoid,
    "cosine": _cosine,
}
