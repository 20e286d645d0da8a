"""Pooling against loops over windows."""

from functools import partial

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from protocaffe.backends import get_backend
from protocaffe.errors import NetError, ParameterError, ShapeError
from protocaffe.layers.pooling import pooled_extent
from tests.support import oracles
from tests.support.bench import Bench
from tests.support.check_layer import check_error, check_layer

#: options as the prototxt has them, shape of the bottom, options as the oracle has them
CASES = {
    "tiled": ("kernel_size: 2 stride: 2", (2, 3, 4, 6), {"kernel": 2, "stride": 2}),
    "2x2_odd": ("kernel_size: 2 stride: 2", (2, 2, 5, 4), {"kernel": 2, "stride": 2}),
    "2x2_odd_floor": ("kernel_size: 2 stride: 2 round_mode: FLOOR", (2, 2, 5, 7),
                      {"kernel": 2, "stride": 2, "floor": True}),
    "overlapping": ("kernel_size: 3 stride: 2", (2, 2, 6, 7), {"kernel": 3, "stride": 2}),
    "overlapping_floor": ("kernel_size: 3 stride: 2 round_mode: FLOOR", (2, 2, 6, 8),
                          {"kernel": 3, "stride": 2, "floor": True}),
    "stride_1": ("kernel_size: 3", (1, 2, 5, 4), {"kernel": 3}),
    "pad": ("kernel_size: 3 stride: 2 pad: 1", (2, 2, 6, 5), {"kernel": 3, "stride": 2, "pad": 1}),
    "pad_clipped": ("kernel_size: 2 stride: 2 pad: 1", (1, 2, 5, 4), {"kernel": 2, "stride": 2, "pad": 1}),
    "pad_floor": ("kernel_size: 3 stride: 2 pad: 1 round_mode: FLOOR", (1, 2, 6, 5),
                  {"kernel": 3, "stride": 2, "pad": 1, "floor": True}),
    "rectangular": ("kernel_h: 3 kernel_w: 2 stride_h: 2 stride_w: 1 pad_h: 1 pad_w: 0", (2, 2, 6, 5),
                    {"kernel": (3, 2), "stride": (2, 1), "pad": (1, 0)}),
    "global": ("global_pooling: true", (2, 3, 4, 5), {"kernel": (4, 5)}),
    "1x1": ("kernel_size: 1", (2, 2, 3, 3), {"kernel": 1}),
    "gaps": ("kernel_size: 1 stride: 2", (2, 2, 5, 7), {"kernel": 1, "stride": 2}),
    "padding_clips_both_axes": ("kernel_h: 3 kernel_w: 1 pad_h: 1 pad_w: 0 stride: 4", (1, 2, 5, 3),
                                {"kernel": (3, 1), "stride": 4, "pad": (1, 0)}),
    "wide_gaps": ("kernel_size: 2 stride: 3", (1, 2, 8, 5), {"kernel": 2, "stride": 3}),
}  # fmt: skip


def layer(options, tops=("y",)):
    blobs = "".join(f' top: "{t}"' for t in tops)
    return f'layer {{ type: "Pooling" bottom: "x"{blobs} pooling_param {{ {options} }} }}'


@pytest.mark.parametrize(("options", "shape", "oracle"), CASES.values(), ids=CASES)
def test_max(options, shape, oracle):
    reference, gradient = partial(oracles.max_pooling, **oracle), partial(oracles.max_pooling_gradient, **oracle)
    large = {"x": (40, 10, *shape[2:])}
    check_layer(layer(options), {"x": shape}, reference, gradient, kinks="ties", large=large)


@pytest.mark.parametrize(("options", "shape", "oracle"), CASES.values(), ids=CASES)
def test_ave(options, shape, oracle):
    reference, gradient = partial(oracles.ave_pooling, **oracle), partial(oracles.ave_pooling_gradient, **oracle)
    large = {"x": (40, 10, *shape[2:])}
    check_layer(layer(f"pool: AVE {options}"), {"x": shape}, reference, gradient, large=large)


@pytest.mark.parametrize("case", ["tiled", "overlapping", "pad", "global", "gaps"])
def test_places_of_the_maxima(case):
    options, shape, oracle = CASES[case]
    check_layer(layer(options, ("y", "places")), {"x": shape}, partial(oracles.max_pooling, places=True, **oracle),
                partial(oracles.max_pooling_gradient, **oracle), kinks="ties", passive_tops=["places"])  # fmt: skip


def test_spatial_shapes_may_change():
    oracle = {"kernel": 2, "stride": 2}
    for shape in ((1, 2, 5, 7), (3, 2, 8, 2)):
        check_layer(layer("kernel_size: 2 stride: 2", ("y", "places")), {"x": (2, 2, 4, 6)},
                    partial(oracles.max_pooling, places=True, **oracle),
                    partial(oracles.max_pooling_gradient, **oracle),
                    kinks="ties", passive_tops=["places"], reshaped={"x": shape})  # fmt: skip
    check = Bench(layer("global_pooling: true pool: AVE"), {"x": (1, 1, 2, 2)}, get_backend("cpu"))
    check.reshape({"x": (1, 1, 4, 4)})
    assert check.forward([np.arange(16.0).reshape(1, 1, 4, 4)])[0].ravel() == 7.5


@given(data=st.data())
def test_any_shape(data):
    two = st.tuples(st.integers(1, 4), st.integers(1, 4))
    kernel, stride, floor = data.draw(two), data.draw(two), data.draw(st.booleans())
    pad = tuple(data.draw(st.integers(0, k - 1)) for k in kernel)
    extents = tuple(max(1, k - 2 * p) + data.draw(st.integers(0, 6)) for k, p in zip(kernel, pad, strict=True))
    axes = zip(extents, kernel, stride, pad, strict=True)
    out = [oracles.pooled(n, k, s, p, floor, any(pad)) for n, k, s, p in axes]
    # Undefined in Caffe: a window that begins behind the input. Its maximum would be of nothing.
    assume(all((o - 1) * s - p < n for o, s, p, n in zip(out, stride, pad, extents, strict=True)))
    options = " ".join(
        f"{name}_{axis}: {v}"
        for name, values in (("kernel", kernel), ("stride", stride), ("pad", pad))
        for axis, v in zip("hw", values, strict=True)
    )
    options += " round_mode: FLOOR" * floor
    oracle = {"kernel": kernel, "stride": stride, "pad": pad, "floor": floor}
    shape = {"x": (data.draw(st.integers(1, 2)), data.draw(st.integers(1, 2)), *extents)}
    for pool, kinks in (("max", "ties"), ("ave", ())):
        check_layer(layer(f"pool: {pool.upper()} {options}"), shape,
                    partial(getattr(oracles, f"{pool}_pooling"), **oracle),
                    partial(getattr(oracles, f"{pool}_pooling_gradient"), **oracle),
                    kinks=kinks, backend="cpu", reshaped=None)  # fmt: skip


def test_extents():
    for n, kernel, stride, pad in np.ndindex(12, 5, 5, 4):
        n, kernel, stride = n + 1, kernel + 1, stride + 1
        if n + 2 * pad >= kernel > pad:
            for floor, clip in ((False, pad > 0), (True, pad > 0), (False, True), (True, True)):
                args = (n, kernel, stride, pad, floor, clip)
                assert pooled_extent(*args) == oracles.pooled(*args), args


def test_the_first_of_equal_values_wins():
    for options, extent in (("kernel_size: 2 stride: 2", 4), ("kernel_size: 3 stride: 2", 5)):
        bench = Bench(layer(options, ("y", "places")), {"x": (1, 1, extent, extent)}, get_backend("cpu"))
        _, places = bench.forward([np.ones((1, 1, extent, extent))])
        assert places.ravel().tolist() == [0, 2, 2 * extent, 2 * extent + 2]
        (dx,), _ = bench.backward([np.ones((1, 1, 2, 2)), np.zeros((1, 1, 2, 2))], [True])
        assert np.flatnonzero(dx).tolist() == [0, 2, 2 * extent, 2 * extent + 2] and dx.sum() == 4


@pytest.mark.parametrize("shape", [(2, 2, 124, 90), (1, 1, 4, 2100), (3, 1, 2, 2)])
@pytest.mark.parametrize("real", ["float32", "float64"])
def test_tiles_of_any_extent(shape, real):
    x = np.random.default_rng(0).integers(0, 3, shape)  # with ties
    n, c, h, w = shape
    tiles = x.reshape(n, c, h // 2, 2, w // 2, 2).swapaxes(3, 4).reshape(n, c, h // 2, w // 2, 4)
    bench = Bench(layer("kernel_size: 2 stride: 2", ("y", "places")), {"x": shape}, get_backend("cpu", real))
    y, places = bench.forward([x])
    assert (y == tiles.max(axis=4)).all()
    iy, ix = np.divmod(tiles.argmax(axis=4), 2)
    iy, ix = iy + 2 * np.arange(h // 2)[:, None], ix + 2 * np.arange(w // 2)
    assert (places == iy * w + ix).all()
    dy = np.random.default_rng(1).integers(1, 9, y.shape)
    (dx,), _ = bench.backward([dy, 0 * dy], [True])
    wanted = np.zeros((n * c, h * w))
    np.put_along_axis(wanted, (iy * w + ix).reshape(n * c, -1), dy.reshape(n * c, -1), axis=1)
    assert (dx == wanted.reshape(shape)).all()


@pytest.mark.parametrize("shape", [(2, 3, 20, 27), (1, 1, 3, 5000), (1, 2, 40, 3)], ids=str)
@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("real", ["float32", "float64"])
def test_ties_and_infinities_in_overlapping_windows(shape, stride, real):
    x = np.random.default_rng(stride).integers(0, 3, shape).astype(float)
    x[..., ::2] -= 2
    x[x < -1] = -np.inf
    x[..., : shape[3] // 2] = -np.inf  # whole windows of it, at the padding too
    options = {"kernel": 3, "stride": stride, "pad": 1}
    text = layer(f"kernel_size: 3 pad: 1 stride: {stride}", ("y", "places"))
    bench = Bench(text, {"x": shape}, get_backend("cpu", real))
    got = bench.forward([x])
    for one, wanted in zip(got, oracles.max_pooling(x, places=True, **options), strict=True):
        assert (one == wanted).all()
    dy = np.random.default_rng(1).integers(1, 9, got[0].shape).astype(float)
    (dx,), _ = bench.backward([dy, 0 * dy], [True])
    assert (dx == oracles.max_pooling_gradient([x], [dy], **options)[0]).all()


def test_a_window_behind_the_input_gives_zero():
    text = layer("kernel_size: 1 stride: 4", ("y", "places"))
    bench = Bench(text, {"x": (1, 1, 3, 3)}, get_backend("cpu"))
    y, places = bench.forward([-np.ones((1, 1, 3, 3))])
    assert y.ravel().tolist() == [-1, 0, 0, 0] and places.ravel().tolist() == [0, -1, -1, -1]
    (dx,), _ = bench.backward([np.ones((1, 1, 2, 2)), np.zeros((1, 1, 2, 2))], [True])
    assert dx.ravel().tolist() == [1, *[0] * 8]
    bench = Bench(layer("pool: AVE kernel_size: 1 stride: 4"), {"x": (1, 1, 3, 3)}, get_backend("cpu"))
    assert bench.forward([-np.ones((1, 1, 3, 3))])[0].ravel().tolist() == [-1, 0, 0, 0]


@pytest.mark.parametrize("options", ["kernel_size: 2 stride: 2", "kernel_size: 3 stride: 1"])
@pytest.mark.parametrize("pool", ["MAX", "AVE"])
def test_nan_and_infinity_show(options, pool):
    x = np.zeros((1, 1, 6, 6))
    x[0, 0, 1, 1], x[0, 0, 4, 5] = np.nan, np.inf
    top = Bench(layer(f"pool: {pool} {options}"), {"x": x.shape}, get_backend("cpu")).forward([x])[0][0, 0]
    assert np.isnan(top[0, 0]) and np.isinf(top[-1, -1]) and top[0, -1] == 0


@pytest.mark.parametrize(
    ("error", "match", "options"),
    [
        (ParameterError, "kernel_size .* must be given", ""),
        (ParameterError, "kernel_size .* must be given", "kernel_h: 2"),
        (ParameterError, "STOCHASTIC", "pool: STOCHASTIC kernel_size: 2"),
        (ParameterError, "global_pooling takes the whole", "global_pooling: true kernel_size: 2"),
        (ParameterError, "global_pooling needs pad 0", "global_pooling: true pad: 1"),
        (ParameterError, "global_pooling needs pad 0", "global_pooling: true stride: 2"),
        (ParameterError, "either kernel_size or", "kernel_size: 2 kernel_h: 2 kernel_w: 2"),
        (ParameterError, "either stride or", "kernel_size: 2 stride: 1 stride_h: 2 stride_w: 2"),
        (ParameterError, "go together", "kernel_size: 2 stride_h: 2"),
        (ParameterError, "at least 1", "kernel_size: 0"),
        (ParameterError, "at least 1", "kernel_size: 2 stride: 0"),
        (ParameterError, r"pad \(2, 2\) must be smaller", "kernel_size: 2 pad: 2"),
        (ShapeError, "larger than the padded input", "kernel_size: 7"),
    ],
)
def test_errors(error, match, options):
    check_error(error, match, layer(options), {"x": (2, 3, 5, 5)})


def test_errors_of_blobs():
    text = layer("kernel_size: 2")
    check_error(ShapeError, r"must have 4 axes \(N, C, H, W\), got \(2, 3\)", text, {"x": (2, 3)})
    check_error(ParameterError, "needs pool: MAX", layer("kernel_size: 2 pool: AVE", "yz"), {"x": (2, 3, 5, 5)})
    check_error(NetError, "takes at most 2 top", layer("kernel_size: 2", "yzw"), {"x": (2, 3, 5, 5)})
