"""Scale and Bias against their formulas."""

import numpy as np
import pytest

from protocaffe.backends import get_backend
from protocaffe.errors import NetError, ParameterError, ShapeError
from tests.support.bench import Bench
from tests.support.check_layer import check_error, check_layer

#: options, shape of x, shape of the smaller blob, its axes in x
CASES = {
    "channel": ("", (4, 3, 2, 5), (3,), (1,)),
    "two_axes": ("axis: 0 num_axes: 2", (2, 3, 4), (2, 3), (0, 1)),
    "all": ("axis: 0 num_axes: -1", (2, 3, 2), (2, 3, 2), (0, 1, 2)),
    "rest": ("axis: 1 num_axes: -1", (20, 3, 2), (3, 2), (1, 2)),
    "one_value": ("num_axes: 0", (3, 4, 2), (), ()),
    "last": ("axis: -1", (5, 3, 4), (4,), (2,)),
    "flat": ("", (6, 4), (4,), (1,)),
}


def spread(values, x, axes):
    """``values`` with axes of extent 1 where they have none of x."""
    return values.reshape([x.shape[a] if a in axes else 1 for a in range(x.ndim)])


def others(x, axes):
    return tuple(a for a in range(x.ndim) if a not in axes)


def text(kind, options, bottoms=("x",)):
    names = " ".join(f'bottom: "{b}"' for b in bottoms)
    return f'layer {{ type: "{kind}" {names} top: "y" {kind.lower()}_param {{ {options} }} }}'


@pytest.mark.parametrize(("options", "shape", "small", "axes"), CASES.values(), ids=CASES)
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("own", [True, False])
def test_scale(options, shape, small, axes, bias, own):
    def formula(x, g, b=None):
        return x * spread(g, x, axes) + (0 if b is None else spread(b, x, axes))

    def gradient(arrays, diffs):
        x, g, *rest = arrays
        grads = [diffs[0] * spread(g, x, axes), (diffs[0] * x).sum(others(x, axes)).reshape(g.shape)]
        return grads + [diffs[0].sum(others(x, axes)).reshape(g.shape) for _ in rest]

    if bias:
        options += " bias_term: true"
    shapes = {"x": shape} if own else {"x": shape, "g": small}
    other = None if own and 0 in axes else "batch" if own else {"x": (shape[0] + 1, *shape[1:]), "g": small}
    if 0 in axes:
        other = None
    check_layer(text("Scale", options, shapes), shapes, formula, gradient, reshaped=other)


@pytest.mark.parametrize(("options", "shape", "small", "axes"), CASES.values(), ids=CASES)
@pytest.mark.parametrize("own", [True, False])
def test_bias(options, shape, small, axes, own):
    def formula(x, b):
        return x + spread(b, x, axes)

    def gradient(arrays, diffs):
        return [diffs[0], diffs[0].sum(others(arrays[0], axes)).reshape(arrays[1].shape)]

    shapes = {"x": shape} if own else {"x": shape, "b": small}
    check_layer(text("Bias", options, shapes), shapes, formula, gradient, reshaped=None)


@pytest.mark.parametrize("kind", ["Scale", "Bias"])
def test_threads_and_empty_batches(kind):
    options = "bias_term: true" if kind == "Scale" else ""
    bench = Bench(text(kind, options), {"x": (0, 3, 2)}, get_backend("cpu"))
    assert bench.forward([np.zeros((0, 3, 2))])[0].shape == (0, 3, 2)
    _, grads = bench.backward([np.zeros((0, 3, 2))], [True], before=[np.ones(b.shape) for b in bench.params])
    assert all((g == 1).all() for g in grads)


@pytest.mark.parametrize("kind", ["Scale", "Bias"])
def test_many_images_and_threads(kind):
    def formula(x, g):
        return x * g[:, None] if kind == "Scale" else x + g[:, None]

    def gradient(arrays, diffs):
        x, g = arrays
        if kind == "Scale":
            return [diffs[0] * g[:, None], (diffs[0] * x).sum((0, 2))]
        return [diffs[0], diffs[0].sum((0, 2))]

    check_layer(text(kind, ""), {"x": (3, 2, 4)}, formula, gradient, large={"x": (50, 12, 100)})


@pytest.mark.parametrize("kind", ["Scale", "Bias"])
def test_fillers(kind):
    bench = Bench(text(kind, ""), {"x": (2, 3)}, get_backend("cpu"))
    assert (bench.params[0].data == (1 if kind == "Scale" else 0)).all()
    bench = Bench(text(kind, "filler { value: 7 }"), {"x": (2, 3)}, get_backend("cpu"))
    assert (bench.params[0].data == 7).all() and not bench.params[0].prunable


@pytest.mark.parametrize("kind", ["Scale", "Bias"])
def test_errors(kind):
    check_error(ParameterError, "num_axes must be at least 0, or -1", text(kind, "num_axes: -2"), {"x": (2, 3)})
    beyond = r"num_axes 3 from axis 1 on goes beyond bottom \(2, 3\)"
    check_error(ShapeError, beyond, text(kind, "num_axes: 3"), {"x": (2, 3)})
    check_error(ShapeError, "axis 5", text(kind, "axis: 5"), {"x": (2, 3)})
    check_error(ShapeError, r'bottom 1 "g" must have the extents \(3,\) from axis 1 of bottom 0 on, got \(4,\)',
                text(kind, "", "xg"), {"x": (2, 3), "g": (4,)})  # fmt: skip
    check_error(NetError, "takes at most 2 bottom", text(kind, "", "xgh"), {"x": (2, 3), "g": (3,), "h": (3,)})
    bench = Bench(text(kind, ""), {"x": (2, 3)}, get_backend("cpu"))
    with pytest.raises(ShapeError, match=r'bottom "x" must have the extents .* got \(2, 4\)'):
        bench.reshape({"x": (2, 4)})
