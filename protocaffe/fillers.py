"""Initial values of parameters: Caffe's seven fillers.

Source: Caffe's include/caffe/filler.hpp. The distributions are Caffe's, the generator is not: values depend only on
the seed, the layer's name and the parameter's index.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from .errors import ParameterError, did_you_mean


def layer_rng(seed: int, layer_name: str, index: int) -> np.random.Generator:
    """The generator for parameter `index` of a layer: the same numbers whatever else the net holds.

    >>> a, b = (layer_rng(1, "conv1", 0).random() for _ in range(2))
    >>> a == b
    True
    """
    key = hashlib.blake2b(f"{seed}/{index}/{layer_name}".encode(), digest_size=16).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(key, "little")))


def fill(
    filler_param: Any, shape: Sequence[int], rng: np.random.Generator, fan: tuple[int, int] | None = None
) -> np.ndarray:
    """A float32 array of `shape` as a FillerParameter says.

    ==================  ==========================================================================================
    constant            `value`
    uniform             uniform in [`min`, `max`)
    gaussian            normal with `mean`, `std`; with `sparse` >= 0 kept with probability sparse / shape[0], else 0
    positive_unitball   uniform in [0, 1), each row (first axis) divided by its sum
    xavier              uniform in [-s, s), s = sqrt(3 / n)
    msra                normal with mean 0, std = sqrt(2 / n)
    bilinear            interpolation weights of a square kernel (4 axes), for upsampling by Deconvolution
    ==================  ==========================================================================================

    n is the fan-in (count / shape[0]), the fan-out (count / shape[1]) or their average, by `variance_norm`.

    Parameters
    ----------
    fan : (fan-in, fan-out) of a layer whose shape does not tell them

    Raises
    ------
    ParameterError : unknown type, or values that the type cannot take
    """
    shape = tuple(int(d) for d in shape)
    kind = filler_param.type
    if kind not in _FILLERS:
        raise ParameterError(f'unknown filler type "{kind}"' + (did_you_mean(kind, _FILLERS) or f", expected {_KNOWN}"))
    if filler_param.sparse != -1 and kind != "gaussian":
        raise ParameterError(f'filler "{kind}": sparse is only for "gaussian"')
    values = _FILLERS[kind](filler_param, shape, rng, fan)
    return np.asarray(values).astype(np.float32, order="C", copy=False)


_Fan = tuple[int, int] | None


def _constant(p: Any, shape: tuple[int, ...], rng: np.random.Generator, fan: _Fan) -> np.ndarray:
    return np.full(shape, p.value, np.float32)


def _uniform(p: Any, shape: tuple[int, ...], rng: np.random.Generator, fan: _Fan) -> np.ndarray:
    if p.min > p.max:
        raise ParameterError(f'filler "uniform": min {p.min:g} is above max {p.max:g}')
    return _between(rng, shape, p.min, p.max)


def _between(rng: np.random.Generator, shape: tuple[int, ...], low: float, high: float) -> np.ndarray:
    values = rng.random(shape, dtype=np.float32)
    values *= np.float32(high - low)
    values += np.float32(low)
    return values


def _normal(rng: np.random.Generator, shape: tuple[int, ...], mean: float, std: float) -> np.ndarray:
    values = rng.standard_normal(shape, dtype=np.float32)
    values *= np.float32(std)
    values += np.float32(mean)
    return values


def _gaussian(p: Any, shape: tuple[int, ...], rng: np.random.Generator, fan: _Fan) -> np.ndarray:
    if p.std < 0:
        raise ParameterError(f'filler "gaussian": std must not be negative, got {p.std:g}')
    values = _normal(rng, shape, p.mean, p.std)
    if p.sparse != -1:
        outputs = shape[0] if shape else 1
        if not 0 <= p.sparse <= outputs:
            raise ParameterError(f'filler "gaussian": sparse must be in 0 ... {outputs} (outputs), got {p.sparse}')
        values[rng.random(shape, dtype=np.float32) >= p.sparse / max(outputs, 1)] = 0
    return values


def _positive_unitball(p: Any, shape: tuple[int, ...], rng: np.random.Generator, fan: _Fan) -> np.ndarray:
    values = np.asarray(rng.random(shape, dtype=np.float32))
    if values.size == 0:
        return values
    rows = values.reshape(shape[0] if shape else 1, -1)
    sums = rows.sum(axis=1, keepdims=True, dtype=np.float64)
    rows /= np.where(sums > 0, sums, 1).astype(np.float32)
    return values


def _n(p: Any, shape: tuple[int, ...], fan: _Fan) -> float:
    count = math.prod(shape)
    if fan is None:
        fan = (count // (shape[0] if shape else 1), count // shape[1] if len(shape) > 1 else count) if count else (1, 1)
    mode = type(p).VarianceNorm.Name(p.variance_norm)
    return {"FAN_IN": fan[0], "FAN_OUT": fan[1], "AVERAGE": (fan[0] + fan[1]) / 2}[mode]


def _xavier(p: Any, shape: tuple[int, ...], rng: np.random.Generator, fan: _Fan) -> np.ndarray:
    scale = math.sqrt(3.0 / _n(p, shape, fan))
    return _between(rng, shape, -scale, scale)


def _msra(p: Any, shape: tuple[int, ...], rng: np.random.Generator, fan: _Fan) -> np.ndarray:
    return _normal(rng, shape, 0.0, math.sqrt(2.0 / _n(p, shape, fan)))


def _bilinear(p: Any, shape: tuple[int, ...], rng: np.random.Generator, fan: _Fan) -> np.ndarray:
    if len(shape) != 4 or shape[2] != shape[3]:
        raise ParameterError(f'filler "bilinear": needs 4 axes and a square kernel, got {shape}')
    size = shape[3]
    f = (size + 1) // 2
    c = (size - 1) / (2.0 * f)
    line = 1 - np.abs(np.arange(size) / f - c)
    return np.broadcast_to(np.outer(line, line), shape)


_FILLERS: dict[str, Callable[[Any, tuple[int, ...], np.random.Generator, _Fan], np.ndarray]] = {
    "constant": _constant,
    "uniform": _uniform,
    "gaussian": _gaussian,
    "positive_unitball": _positive_unitball,
    "xavier": _xavier,
    "msra": _msra,
    "bilinear": _bilinear,
}
_KNOWN = ", ".join(_FILLERS)
