"""Deconvolution against adding the kernel up, place by place."""

import numpy as np
import pytest

from protocaffe.backends import get_backend
from protocaffe.errors import ParameterError, ShapeError
from tests.support.bench import Bench
from tests.support.check_layer import check_error, check_layer

#: options as the prototxt has them, shape of the bottom, (stride, pad, dilation, group)
CASES = {
    "plain": ("num_output: 4 kernel_size: 3", (2, 3, 4, 5), (1, 0, 1, 1)),
    "stride_pad": ("num_output: 4 kernel_size: 3 stride: 2 pad: 1", (2, 3, 3, 4), (2, 1, 1, 1)),
    "group": ("num_output: 6 kernel_size: 4 stride: 2 pad: 1 group: 3", (2, 3, 3, 2), (2, 1, 1, 3)),
    "depthwise_no_bias": ("num_output: 4 kernel_size: 2 group: 4 bias_term: false", (2, 4, 3, 3), (1, 0, 1, 4)),
    "dilation": ("num_output: 2 kernel_size: 3 dilation: 2", (1, 2, 3, 4), (1, 0, 2, 1)),
    "1x1": ("num_output: 5 kernel_size: 1", (2, 3, 4, 3), (1, 0, 1, 1)),
    "gaps": ("num_output: 2 kernel_size: 2 stride: 3", (2, 2, 3, 3), (3, 0, 1, 1)),
    "one_axis": ("num_output: 3 kernel_size: 3 stride: 2", (2, 2, 5), (2, 0, 1, 1)),
    "three_axes": ("num_output: 2 kernel_size: 2 stride: 2 pad: 1", (1, 2, 2, 3, 2), (2, 1, 1, 1)),
    "force_nd": ("num_output: 4 kernel_size: 3 stride: 2 pad: 1 force_nd_im2col: true", (2, 3, 3, 4), (2, 1, 1, 1)),
}  # fmt: skip


def layer(options, bottoms="x", tops="y"):
    blobs = "".join(f' bottom: "{b}"' for b in bottoms) + "".join(f' top: "{t}"' for t in tops)
    return f'layer {{ type: "Deconvolution"{blobs} convolution_param {{ {options} }} }}'


def places(in_dims, kernel, stride, pad, dilation):
    """Each input pixel with each place of the kernel, and the output pixel that they meet, if it is there."""
    out = [stride * (n - 1) + dilation * (k - 1) + 1 - 2 * pad for n, k in zip(in_dims, kernel, strict=True)]
    found = []
    for i in np.ndindex(*in_dims):
        for k in np.ndindex(*kernel):
            o = tuple(stride * a + dilation * b - pad for a, b in zip(i, k, strict=True))
            if all(0 <= a < n for a, n in zip(o, out, strict=True)):
                found.append((i, k, o))
    return out, found


def formulas(stride, pad, dilation, group):
    every = slice(None)

    def groups(x, w):
        c, f = x.shape[1] // group, w.shape[1]
        return [(slice(g * c, (g + 1) * c), slice(g * f, (g + 1) * f)) for g in range(group)]

    def forward(x, w, b=None):
        out, found = places(x.shape[2:], w.shape[2:], stride, pad, dilation)
        y = np.zeros((x.shape[0], w.shape[1] * group, *out))
        for c, f in groups(x, w):
            for i, k, o in found:
                y[(every, f, *o)] += x[(every, c, *i)] @ w[(c, every, *k)]
        return y if b is None else y + b.reshape(-1, *[1] * len(out))

    def gradient(arrays, diffs):
        (x, w, *bias), (dy,) = arrays, diffs
        _, found = places(x.shape[2:], w.shape[2:], stride, pad, dilation)
        dx, dw = np.zeros_like(x), np.zeros_like(w)
        for c, f in groups(x, w):
            for i, k, o in found:
                dx[(every, c, *i)] += dy[(every, f, *o)] @ w[(c, every, *k)].T
                dw[(c, every, *k)] += x[(every, c, *i)].T @ dy[(every, f, *o)]
        return [dx, dw, *([dy.sum(axis=(0, *range(2, dy.ndim)))] if bias else [])]

    return forward, gradient


@pytest.mark.parametrize(("options", "shape", "how"), CASES.values(), ids=CASES)
def test_against_the_oracle(options, shape, how):
    check_layer(layer(options), {"x": shape}, *formulas(*how))


def test_threads_change_nothing():
    big = {"x": (5, 3, 20, 20)}
    options, shape, how = CASES["stride_pad"]
    check_layer(layer(options), {"x": shape}, *formulas(*how), large=big, backend="cpu", reshaped=None)


def test_several_bottoms_share_the_weights():
    forward, _ = formulas(1, 0, 1, 1)
    check_layer(layer("num_output: 2 kernel_size: 2", "ab", "yz"), {"a": (1, 2, 2, 3), "b": (1, 2, 2, 3)},
                lambda a, b, w, bias: (forward(a, w, bias), forward(b, w, bias)))  # fmt: skip


def test_weights_are_prunable_and_bilinear_doubles():
    text = layer('num_output: 1 kernel_size: 4 stride: 2 pad: 1 bias_term: false weight_filler { type: "bilinear" }')
    bench = Bench(text, {"x": (1, 1, 4, 4)}, get_backend("cpu"))
    (y,) = bench.forward([np.arange(16.0).reshape(1, 1, 4, 4)])
    assert bench.params[0].prunable and y.shape == (1, 1, 8, 8)
    # line 3 lies at 1.25 of the input's, which begin with 0, 4, 8; pixels 1 to 6 at 0.25, 0.75 ...
    np.testing.assert_allclose(y[0, 0, 3, 1:7], 4 * 1.25 + 0.25 + 0.5 * np.arange(6), atol=1e-5)


def test_errors():
    check_error(ParameterError, "group 2 must divide the 3 input channels",
                layer("num_output: 4 kernel_size: 3 group: 2"), {"x": (1, 3, 2, 2)})  # fmt: skip
    check_error(ShapeError, r"the output would have extents \(-1, -1\): pad \(2, 2\)",
                layer("num_output: 4 kernel_size: 3 pad: 2"), {"x": (1, 3, 1, 1)})  # fmt: skip
    check_error(ShapeError, "needs a top for each of its 2 bottoms, got 1",
                layer("num_output: 4 kernel_size: 3", "ab"), {"a": (1, 1, 2, 2), "b": (1, 1, 2, 2)})  # fmt: skip
