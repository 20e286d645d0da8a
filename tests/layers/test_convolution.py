"""Convolution against windows and einsum."""

from functools import partial

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocaffe.backends import get_backend
from protocaffe.errors import NetError, ParameterError, ShapeError
from tests.support import oracles
from tests.support.bench import Bench
from tests.support.check_layer import check_error, check_layer

#: options as the prototxt has them, shape of the bottom, options as the oracle has them
CASES = {
    "plain": ("num_output: 4 kernel_size: 3", (2, 3, 6, 5), {}),
    "pad_stride": ("num_output: 4 kernel_size: 3 pad: 1 stride: 2", (2, 3, 7, 8), {"pad": 1, "stride": 2}),
    "5x5": ("num_output: 2 kernel_size: 5 pad: 2", (1, 2, 6, 7), {"pad": 2}),
    "no_bias": ("num_output: 3 kernel_size: 2 bias_term: false", (2, 2, 4, 5), {}),
    "1x1": ("num_output: 5 kernel_size: 1", (2, 3, 4, 3), {}),
    "1x1_stride": ("num_output: 5 kernel_size: 1 stride: 2", (2, 3, 5, 4), {"stride": 2}),
    "1x1_pad": ("num_output: 2 kernel_size: 1 pad: 1", (2, 3, 3, 4), {"pad": 1}),
    "1x1_group": ("num_output: 4 kernel_size: 1 group: 2", (2, 4, 3, 3), {"group": 2}),
    "rectangular": (
        "num_output: 3 kernel_h: 3 kernel_w: 2 stride_h: 2 stride_w: 1 pad_h: 0 pad_w: 1",
        (2, 2, 7, 4), {"stride": (2, 1), "pad": (0, 1)},
    ),
    "per_axis": (
        "num_output: 3 kernel_size: 1 kernel_size: 3 stride: 1 stride: 2 pad: 0 pad: 1 dilation: 1 dilation: 2",
        (2, 2, 4, 8), {"stride": (1, 2), "pad": (0, 1), "dilation": (1, 2)},
    ),
    "dilation": ("num_output: 3 kernel_size: 3 dilation: 2 pad: 2", (1, 2, 7, 6), {"dilation": 2, "pad": 2}),
    "group": ("num_output: 6 kernel_size: 3 group: 3 pad: 1", (2, 6, 4, 5), {"group": 3, "pad": 1}),
    "depthwise": ("num_output: 4 kernel_size: 3 group: 4", (2, 4, 5, 4), {"group": 4}),
    "whole_input": ("num_output: 3 kernel_h: 4 kernel_w: 5", (2, 2, 4, 5), {}),
    "one_axis": ("num_output: 4 kernel_size: 3 pad: 1 stride: 2", (2, 3, 9), {"pad": 1, "stride": 2}),
    "one_axis_group": ("num_output: 4 kernel_size: 3 dilation: 2 group: 2", (2, 4, 9), {"dilation": 2, "group": 2}),
    "three_axes": (
        "num_output: 3 kernel_size: 2 kernel_size: 3 kernel_size: 2 stride: 1 stride: 2 stride: 1 pad: 0 pad: 1 pad: 1",
        (2, 2, 3, 5, 3), {"stride": (1, 2, 1), "pad": (0, 1, 1)},
    ),
    "three_axes_group": (
        "num_output: 4 kernel_size: 2 dilation: 2 group: 2", (1, 2, 4, 3, 4), {"dilation": 2, "group": 2},
    ),
    "four_axes": ("num_output: 2 kernel_size: 2", (1, 2, 3, 2, 3, 2), {}),
    "more_rows_out_than_pixels_in": (
        "num_output: 8 kernel_h: 3 kernel_w: 1 pad_h: 2 pad_w: 0", (4, 8, 8, 1), {"pad": (2, 0)},
    ),
    "one_pixel_in": ("num_output: 8 kernel_size: 3 pad: 2", (5, 8, 1, 1), {"pad": 2}),
    "four_pixels_in": ("num_output: 16 kernel_size: 2 pad: 2", (4, 16, 2, 2), {"pad": 2}),
    "force_nd": (
        "num_output: 4 kernel_size: 3 pad: 1 stride: 2 dilation: 1 group: 2 force_nd_im2col: true",
        (2, 4, 5, 6), {"pad": 1, "stride": 2, "group": 2},
    ),
}  # fmt: skip


def layer(options, bottoms=("x",), tops=("y",)):
    blobs = "".join(f' bottom: "{b}"' for b in bottoms) + "".join(f' top: "{t}"' for t in tops)
    return f'layer {{ type: "Convolution"{blobs} convolution_param {{ {options} }} }}'


@pytest.mark.parametrize(("options", "shape", "oracle"), CASES.values(), ids=CASES)
def test_against_the_oracle(options, shape, oracle):
    reference, gradient = partial(oracles.convolution, **oracle), partial(oracles.convolution_gradient, **oracle)
    check_layer(layer(options), {"x": shape}, reference, gradient)


@pytest.mark.parametrize("case", ["pad_stride", "group", "1x1", "three_axes"])
def test_threads_change_nothing(case):
    options, shape, oracle = CASES[case]
    big = {"x": (7, shape[1], *(24 if len(shape) == 4 else 9 for _ in shape[2:]))}
    check_layer(layer(options), {"x": shape}, partial(oracles.convolution, **oracle),
                partial(oracles.convolution_gradient, **oracle), backend="cpu", reshaped=big, large=big,
                tolerance={"float32": (1e-4, 1e-5)})  # fmt: skip


def test_spatial_shapes_may_change():
    reference, gradient = partial(oracles.convolution, pad=1), partial(oracles.convolution_gradient, pad=1)
    text = layer("num_output: 3 kernel_size: 3 pad: 1")
    for shape in ((2, 3, 8, 4), (1, 3, 1, 9)):
        check_layer(text, {"x": (2, 3, 5, 5)}, reference, gradient, reshaped={"x": shape})


def test_channels_along_another_axis():
    def reference(x, w, b):
        return oracles.convolution(x.reshape(-1, 4, 5), w, b, pad=1).reshape(-1, 3, 2, 5)

    check_layer(layer("num_output: 2 kernel_size: 3 pad: 1 axis: 2"), {"x": (2, 3, 4, 5)}, reference)


def test_several_bottoms_share_the_weights():
    def reference(a, b, w, bias):
        return oracles.convolution(a, w, bias), oracles.convolution(b, w, bias)

    def gradient(arrays, top_diffs):
        a, b, *params = arrays
        first = oracles.convolution_gradient((a, *params), top_diffs[:1])
        second = oracles.convolution_gradient((b, *params), top_diffs[1:])
        return [first[0], second[0], *(f + s for f, s in zip(first[1:], second[1:], strict=True))]

    shapes = {"a": (2, 3, 5, 4), "b": (2, 3, 5, 4)}
    check_layer(layer("num_output: 2 kernel_size: 3", "ab", "yz"), shapes, reference, gradient)


@given(data=st.data())
def test_any_shape(data):
    axes = data.draw(st.integers(1, 3))
    per_axis = st.lists(st.integers(1, 3), min_size=axes, max_size=axes)
    kernel, stride, dilation = data.draw(per_axis), data.draw(per_axis), data.draw(per_axis)
    pad = data.draw(st.lists(st.integers(0, 2), min_size=axes, max_size=axes))
    group, outputs, inputs = (data.draw(st.integers(1, n)) for n in (3, 5, 3))
    extents = [max(1, d * (k - 1) + 1 - 2 * p) + data.draw(st.integers(0, 5))
               for k, d, p in zip(kernel, dilation, pad, strict=True)]  # fmt: skip
    names = {"kernel_size": kernel, "stride": stride, "pad": pad, "dilation": dilation}
    options = f"num_output: {outputs * group} group: {group} "
    options += " ".join(f"{name}: {v}" for name, values in names.items() for v in values)
    options += " bias_term: false" * data.draw(st.booleans())
    oracle = {"stride": stride, "pad": pad, "dilation": dilation, "group": group}
    check_layer(layer(options), {"x": (data.draw(st.integers(1, 3)), inputs * group, *extents)},
                partial(oracles.convolution, **oracle), partial(oracles.convolution_gradient, **oracle),
                backend="cpu", reshaped=None)  # fmt: skip


def test_the_generic_path_agrees_with_the_cores():
    x = np.random.default_rng(0).standard_normal((2, 4, 9, 8))
    options = "num_output: 6 kernel_size: 3 pad: 1 stride: 2 group: 2"
    got = []
    for more in ("", " force_nd_im2col: true"):
        bench = Bench(layer(options + more), {"x": x.shape}, get_backend("cpu"))
        for blob in bench.params:
            blob.data[...] = np.random.default_rng(1).standard_normal(blob.shape)
        tops = bench.forward([x])
        bottom_diffs, param_diffs = bench.backward([np.ones((2, 6, 5, 4))], [True], before=[0, 0])
        got.append([*tops, *bottom_diffs, *param_diffs])
    for a, b in zip(*got, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def test_no_images():
    bench = Bench(layer("num_output: 2 kernel_size: 3"), {"x": (0, 3, 5, 5)}, get_backend("cpu"))
    assert bench.forward()[0].shape == (0, 2, 3, 3)
    assert not bench.backward([np.zeros((0, 2, 3, 3))], [True], before=[0, 0])[1][0].any()


def test_parameters_say_what_is_prunable():
    bench = Bench(layer("num_output: 4 kernel_size: 3 group: 2"), {"x": (1, 4, 5, 5)}, get_backend("cpu"))
    assert [b.shape for b in bench.params] == [(4, 2, 3, 3), (4,)]
    assert [b.prunable for b in bench.params] == [True, False]


def test_mask_filler():
    options = 'num_output: 8 kernel_size: 3 weight_filler { type: "xavier" } mask_filler { type: "constant" value: 0 }'
    weights, bias = Bench(layer(options), {"x": (1, 4, 5, 5)}, get_backend("cpu")).params
    assert not weights.mask.any() and not weights.data.any() and bias.mask is None


@pytest.mark.parametrize(
    ("error", "match", "options", "shape"),
    [
        (ParameterError, "num_output must be given", "kernel_size: 3", (2, 3, 5, 5)),
        (ParameterError, "kernel_size", "num_output: 2", (2, 3, 5, 5)),
        (ParameterError, "group", "num_output: 4 kernel_size: 1 group: 2", (2, 3, 5, 5)),
        (ParameterError, "group", "num_output: 3 kernel_size: 1 group: 2", (2, 4, 5, 5)),
        (ParameterError, "either kernel_size or", "num_output: 2 kernel_size: 3 kernel_h: 3 kernel_w: 3", (2, 3, 5, 5)),
        (ParameterError, "two spatial axes", "num_output: 2 kernel_h: 3 kernel_w: 3", (2, 3, 5)),
        (ParameterError, "once per spatial axis", "num_output: 2 kernel_size: [3, 3, 3]", (2, 3, 5, 5)),
        (ParameterError, "at least 1", "num_output: 2 kernel_size: 0", (2, 3, 5, 5)),
        (ParameterError, "at least 1", "num_output: 2 kernel_size: 3 stride: 0", (2, 3, 5, 5)),
        (ParameterError, "at least 1", "num_output: 2 kernel_size: 3 dilation: 0", (2, 3, 5, 5)),
        (ShapeError, "kernel extent 6 is larger", "num_output: 2 kernel_size: 6", (2, 3, 5, 5)),
        (ShapeError, "spatial axes", "num_output: 2 kernel_size: 1", (2, 3)),
        (ShapeError, "spatial axes", "num_output: 2 kernel_size: 1", (1,) * 9),
        (ShapeError, "axis 5", "num_output: 2 kernel_size: 1 axis: 5", (2, 3, 5, 5)),
    ],
)
def test_errors(error, match, options, shape):
    check_error(error, match, layer(options), {"x": shape})


def test_errors_of_several_bottoms():
    text = layer("num_output: 2 kernel_size: 3", "ab", "yz")
    check_error(ShapeError, "must have the first one's shape", text, {"a": (2, 3, 5, 5), "b": (2, 3, 5, 4)})
    check_error(NetError, "takes at least 1 bottom", layer("num_output: 2", "", "y"), {})
    text = layer("num_output: 2 kernel_size: 3", "ab", "y")
    check_error(ShapeError, "needs a top for each", text, {"a": (2, 3, 5, 5), "b": (2, 3, 5, 5)})


@pytest.mark.parametrize(("shape", "match"), [((2, 4, 5, 5), "3 channels"), ((2, 3, 5), "number of axes")])
def test_errors_of_later_shapes(shape, match):
    bench = Bench(layer("num_output: 2 kernel_size: 3"), {"x": (2, 3, 5, 5)}, get_backend("cpu"))
    with pytest.raises(ShapeError, match=f'layer "L".*{match}'):
        bench.reshape({"x": shape})
