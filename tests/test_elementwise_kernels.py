"""Copies, sums, biases and im2col against NumPy, small and large enough for several threads."""

from __future__ import annotations

import numpy as np
import pytest

from protocaffe.backends import get_backend
from tests.support.probe import elementwise, memory


@pytest.fixture(params=["float32", "float64"])
def backend(request):
    return get_backend("cpu", request.param)


def draw(backend, *shape, seed=0):
    """Small integers: their sums are exact in float32."""
    return np.random.default_rng(seed).integers(-8, 9, shape).astype(backend.real)


@pytest.mark.parametrize("n", [0, 1, 33, 50_000])
def test_copies_and_sums(backend, n):
    a, b = draw(backend, n), draw(backend, n, seed=1)
    assert (elementwise(backend, "copy", a) == a).all()
    x, y, out = memory(backend, a), memory(backend, b), backend.empty((n,))
    backend.run("add", n, x, y, out)
    assert (out.array == a + b).all()
    backend.run("axpy", n, -0.5, x, y)
    assert (y.array == b - 0.5 * a).all()
    backend.run("scale_into", n, 3, x, out)
    assert (out.array == 3 * a).all()
    backend.run("fill", n, out, -2.5)
    assert (out.array == -2.5).all()
    index = memory(backend, np.arange(n, dtype=np.int32))
    backend.run("index_to_real", n, index, out)
    assert (out.array == np.arange(n)).all()


@pytest.mark.parametrize(("images", "channels", "pixels"), [(2, 3, 5), (1, 1, 1), (9, 40, 90)])
def test_biases(backend, images, channels, pixels):
    y, b = draw(backend, images, channels, pixels), draw(backend, channels, seed=1)
    top, bias = memory(backend, y), memory(backend, b)
    backend.run("bias_add", images * channels, pixels, channels, bias, top)
    assert (top.array == y + b[:, None]).all()
    backend.run("bias_gradient", channels, images, pixels, memory(backend, y), bias)
    assert (bias.array == b + y.sum(axis=(0, 2))).all()


@pytest.mark.parametrize(("rows", "cols"), [(2, 3), (1, 1), (700, 50)])
def test_biases_of_columns(backend, rows, cols):
    y, b = draw(backend, rows, cols), draw(backend, cols, seed=1)
    top, bias = memory(backend, y), memory(backend, b)
    backend.run("bias_add_columns", rows, cols, bias, top)
    assert (top.array == y + b).all()
    backend.run("bias_gradient_columns", cols, rows, memory(backend, y), bias)
    assert (bias.array == b + y.sum(axis=0)).all()


def test_count_up(backend):
    counter = backend.from_array(np.array([2**40, 0], np.uint64))
    backend.run("count_up", 1, counter)
    assert counter.array.tolist() == [2**40 + 1, 0]


def test_im2col_and_col2im_are_each_others_transpose(backend):
    """<columns, im2col(x)> = <col2im(columns), x>, in the two-dimensional kernels and the general ones."""
    channels, size, kernel, stride, pad, dilation = 2, (6, 7), (2, 3), (2, 1), (1, 2), (1, 2)
    per_axis = zip(size, kernel, stride, pad, dilation, strict=True)
    out = tuple((n + 2 * p - d * (k - 1) - 1) // s + 1 for n, k, s, p, d in per_axis)
    names, values = ("", "o", "k", "s", "p", "d"), (size, out, kernel, stride, pad, dilation)
    flat = {name + axis: v[i] for name, v in zip(names, values, strict=True) for i, axis in enumerate("hw")}
    axes = {"in": size, "out": out, "kernel": kernel, "stride": stride, "pad": pad, "dilation": dilation}
    count = channels * int(np.prod(kernel)) * int(np.prod(out))
    x, columns = memory(backend, draw(backend, channels, *size)), memory(backend, draw(backend, count, seed=1))
    seen = []
    for end, shape, n_to, n_from in (
        ("", flat | {"channels": channels}, 1, 1),
        ("_nd", axes | {"axes": 2, "channels": channels}, count, x.count),
    ):
        to, back = backend.empty((count,)), backend.empty(x.shape)
        backend.run(f"im2col{end}", n_to, shape, x, to)
        backend.run(f"col2im{end}", n_from, shape, columns, back)
        assert (columns.array * to.array).sum() == (back.array * x.array).sum()
        seen.append((to.array.tobytes(), back.array.tobytes()))
    assert seen[0] == seen[1]
