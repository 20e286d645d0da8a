"""What the layers should compute, in plain float64 NumPy: slow, short and obviously right.

``name(*bottoms, *parameters, options) -> top or tops``, and where there is one
``name_gradient(arrays, top_diffs, options) -> gradients`` of the bottoms and parameters.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import prod
from typing import Any

import numpy as np

Array = np.ndarray


# --------------------------------------------------------------------------------------------------------- convolution
def _per_axis(value: int | Sequence[int], axes: int) -> tuple[int, ...]:
    return (value,) * axes if isinstance(value, int) else tuple(value)


class Windows:
    """The windows of a convolution: for each place in the kernel, the part of the padded input under it."""

    def __init__(self, x: Array, w: Array, stride: Any, pad: Any, dilation: Any) -> None:
        axes = w.ndim - 2
        self.kernel = w.shape[2:]
        self.stride, self.pad = _per_axis(stride, axes), _per_axis(pad, axes)
        self.dilation = _per_axis(dilation, axes)
        self.padded_shape = tuple(n + 2 * p for n, p in zip(x.shape[-axes:], self.pad, strict=True))
        extent = [d * (k - 1) + 1 for d, k in zip(self.dilation, self.kernel, strict=True)]
        self.out = tuple((n - e) // s + 1 for n, e, s in zip(self.padded_shape, extent, self.stride, strict=True))

    def inside(self) -> tuple[slice, ...]:
        """The input's own part of the padded input."""
        return tuple(slice(p, n - p) for p, n in zip(self.pad, self.padded_shape, strict=True))

    def __iter__(self) -> Iterator[tuple[tuple[int, ...], tuple[slice, ...]]]:
        for at in np.ndindex(*self.kernel):
            yield (
                at,
                tuple(
                    slice(k * d, k * d + (o - 1) * s + 1, s)
                    for k, d, o, s in zip(at, self.dilation, self.out, self.stride, strict=True)
                ),
            )


def convolution(
    x: Array, w: Array, b: Array | None = None, *, stride: Any = 1, pad: Any = 0, dilation: Any = 1, group: int = 1
) -> Array:
    """y[n, f] = b[f] + sum over c, k of w[f, c, k] x[n, c, stride o + dilation k - pad]; x (N, C, spatial...)."""
    windows = Windows(x, w, stride, pad, dilation)
    padded = np.zeros((*x.shape[:2], *windows.padded_shape))
    padded[(..., *windows.inside())] = x
    y = np.zeros((x.shape[0], w.shape[0], *windows.out))
    outputs, inputs = w.shape[0] // group, w.shape[1]
    for g in range(group):
        f, c = slice(g * outputs, (g + 1) * outputs), slice(g * inputs, (g + 1) * inputs)
        for at, window in windows:
            y[:, f] += np.einsum("nc...,fc->nf...", padded[(slice(None), c, *window)], w[(f, slice(None), *at)])
    return y if b is None else y + b.reshape(-1, *(1,) * len(windows.out))


def convolution_gradient(
    arrays: Sequence[Array], top_diffs: Sequence[Array], *, stride: Any = 1, pad: Any = 0, dilation: Any = 1,
    group: int = 1,
) -> list[Array]:  # fmt: skip
    """Gradients of x, w and, if it is there, b."""
    (x, w, *bias), (dy,) = arrays, top_diffs
    windows = Windows(x, w, stride, pad, dilation)
    padded = np.zeros((*x.shape[:2], *windows.padded_shape))
    padded[(..., *windows.inside())] = x
    dpadded, dw = np.zeros_like(padded), np.zeros_like(w)
    outputs, inputs = w.shape[0] // group, w.shape[1]
    for g in range(group):
        f, c = slice(g * outputs, (g + 1) * outputs), slice(g * inputs, (g + 1) * inputs)
        for at, window in windows:
            place = (slice(None), c, *window)
            dw[(f, slice(None), *at)] = np.einsum("nfp,ncp->fc", _flat(dy[:, f]), _flat(padded[place]))
            dpadded[place] += np.einsum("nf...,fc->nc...", dy[:, f], w[(f, slice(None), *at)])
    db = [dy.sum(axis=(0, *range(2, dy.ndim)))] if bias else []
    return [dpadded[(..., *windows.inside())], dw, *db]


def _flat(x: Array) -> Array:
    return x.reshape(*x.shape[:2], prod(x.shape[2:]))


def inner_product(x: Array, w: Array, b: Array | None = None, *, axis: int = 1, transpose: bool = False) -> Array:
    """y = x W' + b, or x W + b; the axes of x from ``axis`` on are one."""
    axis %= x.ndim
    rows = x.reshape(prod(x.shape[:axis]), -1)
    y = rows @ (w if transpose else w.T)
    return (y if b is None else y + b).reshape(*x.shape[:axis], -1)


def inner_product_gradient(
    arrays: Sequence[Array], top_diffs: Sequence[Array], *, axis: int = 1, transpose: bool = False
) -> list[Array]:
    """Gradients of x, w and, if it is there, b."""
    (x, w, *bias), (dy,) = arrays, top_diffs
    axis %= x.ndim
    rows, dy = x.reshape(prod(x.shape[:axis]), -1), dy.reshape(prod(x.shape[:axis]), -1)
    dw = dy.T @ rows
    return [
        (dy @ (w.T if transpose else w)).reshape(x.shape),
        dw.T if transpose else dw,
        *([dy.sum(0)] if bias else []),
    ]


# ------------------------------------------------------------------------------------------------------------- pooling
def pooled(n: int, kernel: int, stride: int, pad: int, floor: bool, clip: bool) -> int:
    """The number of windows along an axis, by trying: the last one ends beyond the padded input by less than a stride,
    or with ``floor`` not at all. With ``clip`` (Caffe: if any axis is padded) it starts before the back padding."""
    starts = [0]
    while starts[-1] + kernel < n + 2 * pad:
        starts.append(starts[-1] + stride)
    if floor and starts[-1] + kernel > n + 2 * pad:
        starts.pop()
    if clip and starts[-1] >= n + pad:
        starts.pop()
    return len(starts)


def _pool_windows(shape: Sequence[int], kernel: Any, stride: Any, pad: Any, floor: bool) -> tuple[Any, Any]:
    kernel, stride, pad = _per_axis(kernel, 2), _per_axis(stride, 2), _per_axis(pad, 2)
    axes = zip(shape[2:], kernel, stride, pad, strict=True)
    out = tuple(pooled(n, k, s, p, floor, any(pad)) for n, k, s, p in axes)
    places = {}
    for o in np.ndindex(*out):
        begin = [i * s - p for i, s, p in zip(o, stride, pad, strict=True)]
        end = [b + k for b, k in zip(begin, kernel, strict=True)]
        size = prod(min(e, n + p) - b for b, e, n, p in zip(begin, end, shape[2:], pad, strict=True))
        inner = tuple(slice(max(b, 0), min(e, n)) for b, e, n in zip(begin, end, shape[2:], strict=True))
        places[o] = (inner, size)
    return out, places


def max_pooling(
    x: Array, *, kernel: Any, stride: Any = 1, pad: Any = 0, floor: bool = False, places: bool = False
) -> Any:
    """The largest value of each window and, with ``places``, where in its plane it is; the first of equal ones."""
    out, windows = _pool_windows(x.shape, kernel, stride, pad, floor)
    y, where = np.zeros((*x.shape[:2], *out)), np.zeros((*x.shape[:2], *out))
    for o, (inner, _) in windows.items():
        for image in np.ndindex(*x.shape[:2]):
            part = x[image][inner]
            at = np.unravel_index(int(part.argmax()), part.shape)
            y[image][o] = part[at]
            where[image][o] = (at[0] + inner[0].start) * x.shape[3] + at[1] + inner[1].start
    return (y, where) if places else y


def max_pooling_gradient(arrays: Sequence[Array], top_diffs: Sequence[Array], **options: Any) -> list[Array]:
    """Each window's diff goes to its maximum."""
    (x,), dy = arrays, top_diffs[0]
    _, where = max_pooling(x, **(options | {"places": True}))
    dx = np.zeros_like(x)
    for at in np.ndindex(*dy.shape):
        dx[at[:2]][divmod(int(where[at]), x.shape[3])] += dy[at]
    return [dx]


def ave_pooling(x: Array, *, kernel: Any, stride: Any = 1, pad: Any = 0, floor: bool = False) -> Array:
    """The sum of each window divided by its size, padding counted."""
    out, windows = _pool_windows(x.shape, kernel, stride, pad, floor)
    y = np.zeros((*x.shape[:2], *out))
    for o, (inner, size) in windows.items():
        y[(..., *o)] = x[(..., *inner)].sum(axis=(2, 3)) / size
    return y


def ave_pooling_gradient(arrays: Sequence[Array], top_diffs: Sequence[Array], **options: Any) -> list[Array]:
    """Each window's diff is spread evenly."""
    (x,), (dy,) = arrays, top_diffs
    dx = np.zeros_like(x)
    _, windows = _pool_windows(x.shape, **{"stride": 1, "pad": 0, "floor": False} | options)
    for o, (inner, size) in windows.items():
        dx[(..., *inner)] += (dy[(..., *o)] / size)[..., None, None]
    return [dx]


# ------------------------------------------------------------------------------------------------- softmax and losses
def log_softmax(x: Array, *, axis: int = 1) -> Array:
    """x - log sum exp x."""
    shifted = x - x.max(axis=axis, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=axis, keepdims=True))


def softmax(x: Array, *, axis: int = 1) -> Array:
    """exp x / sum exp x."""
    return np.exp(log_softmax(x, axis=axis))


def log_softmax_gradient(arrays: Sequence[Array], top_diffs: Sequence[Array], *, axis: int = 1) -> list[Array]:
    """dy - softmax(x) sum dy."""
    (x,), (dy,) = arrays, top_diffs
    return [dy - softmax(x, axis=axis) * dy.sum(axis=axis, keepdims=True)]


def softmax_gradient(arrays: Sequence[Array], top_diffs: Sequence[Array], *, axis: int = 1) -> list[Array]:
    """y (dy - sum y dy)."""
    (x,), (dy,) = arrays, top_diffs
    y = softmax(x, axis=axis)
    return [y * (dy - (y * dy).sum(axis=axis, keepdims=True))]


def _onehot(label: Array, like: Array, axis: int, ignore: int | None) -> tuple[Array, Array]:
    """(1 where the class is the position's label, which positions count), shaped to go with ``like``."""
    axis %= like.ndim
    rest = like.shape[:axis] + like.shape[axis + 1 :]
    label = np.expand_dims(label.reshape(rest), axis)
    classes = np.arange(like.shape[axis]).reshape([-1 if i == axis else 1 for i in range(like.ndim)])
    valid = np.ones(label.shape, bool) if ignore is None else label != ignore
    return (label == classes) & valid, valid


def _divisor(valid: Array, outer: int, normalization: str) -> float:
    return max(1, {"VALID": valid.sum(), "FULL": valid.size, "BATCH_SIZE": outer, "NONE": 1}[normalization])


def nll_loss(
    logp: Array, label: Array, *, axis: int = 1, ignore: int | None = None, normalization: str = "VALID"
) -> Array:
    """- sum of logp[label] over positions that count / divisor."""
    hot, valid = _onehot(label, logp, axis, ignore)
    return np.array(-logp[hot].sum() / _divisor(valid, prod(logp.shape[: axis % logp.ndim]), normalization))


def nll_loss_gradient(
    arrays: Sequence[Array], top_diffs: Sequence[Array], *, axis: int = 1, ignore: int | None = None,
    normalization: str = "VALID",
) -> list[Array | None]:  # fmt: skip
    """- onehot / divisor."""
    logp, label = arrays
    hot, valid = _onehot(label, logp, axis, ignore)
    divisor = _divisor(valid, prod(logp.shape[: axis % logp.ndim]), normalization)
    return [hot * (-float(top_diffs[0]) / divisor), None]


def softmax_loss(x: Array, label: Array, *, axis: int = 1, **options: Any) -> Array:
    """nll_loss of log_softmax."""
    return nll_loss(log_softmax(x, axis=axis), label, axis=axis, **options)


def softmax_loss_gradient(
    arrays: Sequence[Array], top_diffs: Sequence[Array], *, axis: int = 1, ignore: int | None = None,
    normalization: str = "VALID",
) -> list[Array | None]:  # fmt: skip
    """(softmax - onehot) / divisor where positions count."""
    x, label = arrays
    hot, valid = _onehot(label, x, axis, ignore)
    divisor = _divisor(valid, prod(x.shape[: axis % x.ndim]), normalization)
    return [(softmax(x, axis=axis) - hot) * valid * float(top_diffs[0]) / divisor, None]


def accuracy(
    x: Array, label: Array, *, axis: int = 1, top_k: int = 1, ignore: int | None = None, per_class: bool = False
) -> Any:
    """The share of counted positions where fewer than top_k other classes score at least as much as the label."""
    scores = np.moveaxis(x, axis, -1).reshape(-1, x.shape[axis])
    right, all_ = np.zeros(x.shape[axis]), np.zeros(x.shape[axis])
    for row, k in zip(scores, label.ravel().astype(int), strict=True):
        if k != ignore:
            all_[k] += 1
            right[k] += sum(score >= row[k] for i, score in enumerate(row) if i != k) < top_k
    mean = np.array(right.sum() / all_.sum() if all_.sum() else 0.0)
    each = np.divide(right, all_, out=np.zeros_like(right), where=all_ > 0)
    return (mean, each) if per_class else mean


# --------------------------------------------------------------------------------------------------------- activations
def relu(x: Array, *, slope: float = 0.0) -> Array:
    """max(0, x) + slope min(0, x)."""
    return np.maximum(x, 0) + slope * np.minimum(x, 0)


def relu_gradient(arrays: Sequence[Array], top_diffs: Sequence[Array], *, slope: float = 0.0) -> list[Array]:
    """1 or slope."""
    return [top_diffs[0] * np.where(arrays[0] > 0, 1.0, slope)]


def sigmoid(x: Array) -> Array:
    """1 / (1 + exp -x)."""
    return 1 / (1 + np.exp(-x))


def sigmoid_gradient(arrays: Sequence[Array], top_diffs: Sequence[Array]) -> list[Array]:
    """y (1 - y)."""
    y = sigmoid(arrays[0])
    return [top_diffs[0] * y * (1 - y)]


def tanh(x: Array) -> Array:
    """tanh x."""
    return np.tanh(x)


def tanh_gradient(arrays: Sequence[Array], top_diffs: Sequence[Array]) -> list[Array]:
    """1 - y^2."""
    return [top_diffs[0] * (1 - np.tanh(arrays[0]) ** 2)]
