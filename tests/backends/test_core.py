"""The CPU core (kernels/cpu) against float64 NumPy: every parameter, odd sizes, no dependence on the thread count."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from protocaffe.backends import build
from protocaffe.resources import PACKAGE, in_checkout, resource_path

LONG, INT, POINTER = ctypes.c_long, ctypes.c_int, ctypes.c_void_p
FIELDS = ("n", "c", "h", "w", "f", "oh", "ow", "kh", "kw", "sh", "sw", "ph", "pw", "dh", "dw", "group")


class Conv2d(ctypes.Structure):
    _fields_ = [(name, LONG) for name in FIELDS]


class Core:
    """The library and the type that it computes in."""

    def __init__(self, variant: str) -> None:
        folder = resource_path("kernels") if in_checkout() else None
        self.lib = ctypes.CDLL(str(build.library(variant, folder, PACKAGE / "_build")))
        self.dtype = np.dtype(np.float32 if variant.startswith("f32") else np.float64)
        self.real: Any = ctypes.c_float if self.dtype == np.float32 else ctypes.c_double
        self.tolerance = 2e-6 if self.dtype == np.float32 else 1e-14

    def gemm(self, a, b, c, trans_a, trans_b, m, n, k, alpha=1.0, beta=0.0) -> None:
        self.lib.core_gemm(
            INT(trans_a), INT(trans_b), LONG(m), LONG(n), LONG(k), self.real(alpha), pointer(a), LONG(a.shape[1]),
            pointer(b), LONG(b.shape[1]), self.real(beta), pointer(c), LONG(c.shape[1]),
        )  # fmt: skip

    def close(self, got: np.ndarray, expected: np.ndarray, magnitude: np.ndarray) -> None:
        """Errors are measured against the sum of the absolute terms."""
        error = np.abs(got.astype(np.float64) - expected) / (magnitude + 1e-30)
        assert error.size == 0 or error.max() < self.tolerance


def pointer(array: np.ndarray) -> POINTER:
    return POINTER(array.ctypes.data)


@pytest.fixture(scope="module", params=[f"f32-{build.best_isa()}", "f64-base"])
def core(request: pytest.FixtureRequest) -> Core:
    return Core(request.param)


def any_threads(core: Core, run: Any) -> list[np.ndarray]:
    """The results of ``run``, which must be the same bits with one thread and with several."""
    before = core.lib.core_get_threads()
    try:
        results = []
        for threads in (1, 3):
            core.lib.core_set_threads(threads)
            results.append(run())
    finally:
        core.lib.core_set_threads(before)
    for one, other in zip(*results, strict=True):
        assert one.tobytes() == other.tobytes()
    return results[0]


def test_thread_count_is_kept(core: Core) -> None:
    before = core.lib.core_get_threads()
    core.lib.core_set_threads(3)
    assert core.lib.core_get_threads() == 3
    core.lib.core_set_threads(before)


SIZES = [
    (1, 1, 1), (64, 500, 80), (64, 10, 500), (50, 80, 64), (128, 128, 300), (1, 70, 130), (300, 1, 90), (150, 33, 600),
    (13, 2100, 17), (3, 900, 90), (5, 7, 0), (0, 4, 3),
    (32, 700, 600), (200, 1100, 32), (61, 130, 64), (141, 40, 65), (6, 2080, 300),
]  # fmt: skip


@pytest.mark.parametrize("size", SIZES, ids=lambda s: "x".join(map(str, s)))
@pytest.mark.parametrize("trans_a", [0, 1])
@pytest.mark.parametrize("trans_b", [0, 1])
def test_gemm(core: Core, size: tuple[int, int, int], trans_a: int, trans_b: int) -> None:
    m, n, k = size
    rng = np.random.default_rng(m * 1000 + n)
    for alpha, beta, spare in ((1.0, 0.0, 0), (-0.5, 1.0, 3), (2.0, 0.25, 1)):
        # Spare columns hold NaN: they must be neither read nor written.
        a = np.full((k if trans_a else m, (m if trans_a else k) + spare), np.nan, core.dtype)
        b = np.full((n if trans_b else k, (k if trans_b else n) + spare), np.nan, core.dtype)
        start = np.full((m, n + spare), np.nan, core.dtype)
        a[:, : m if trans_a else k] = rng.standard_normal((a.shape[0], m if trans_a else k))
        b[:, : k if trans_b else n] = rng.standard_normal((b.shape[0], k if trans_b else n))
        if beta:
            start[:, :n] = rng.standard_normal((m, n))
        left = a[:, : m if trans_a else k].astype(np.float64)
        right = b[:, : k if trans_b else n].astype(np.float64)
        left, right = (left.T if trans_a else left), (right.T if trans_b else right)
        old = start[:, :n].astype(np.float64) if beta else np.zeros((m, n))

        def run(a=a, b=b, start=start, alpha=alpha, beta=beta) -> list[np.ndarray]:
            c = start.copy()
            core.gemm(a, b, c, trans_a, trans_b, m, n, k, alpha, beta)
            return [c]

        (c,) = any_threads(core, run)
        core.close(
            c[:, :n], alpha * (left @ right) + beta * old, abs(alpha) * (abs(left) @ abs(right)) + abs(beta * old)
        )
        assert np.isnan(c[:, n:]).all()


def test_gemm_batched(core: Core) -> None:
    rng = np.random.default_rng(0)
    a, b = (rng.standard_normal(s).astype(core.dtype) for s in ((5, 7, 9), (5, 9, 11)))
    c = np.full((5, 7, 11), np.nan, core.dtype)
    core.lib.core_gemm_batched(
        LONG(5), INT(0), INT(0), LONG(7), LONG(11), LONG(9), core.real(1), pointer(a), LONG(9), pointer(b), LONG(11),
        core.real(0), pointer(c), LONG(11), LONG(63), LONG(99), LONG(77),
    )  # fmt: skip
    a, b = a.astype(np.float64), b.astype(np.float64)
    core.close(c, a @ b, abs(a) @ abs(b))


@dataclass
class Case:
    """A convolution: batch, channels, map, filters, kernel and the rest."""

    n: int
    c: int
    size: tuple[int, int]
    f: int
    kernel: tuple[int, int]
    stride: tuple[int, int] = (1, 1)
    pad: tuple[int, int] = (0, 0)
    dilation: tuple[int, int] = (1, 1)
    group: int = 1
    out: tuple[int, int] = field(init=False)

    def __post_init__(self) -> None:
        self.out = tuple(
            (self.size[i] + 2 * self.pad[i] - self.dilation[i] * (self.kernel[i] - 1) - 1) // self.stride[i] + 1
            for i in (0, 1)
        )  # type: ignore[assignment]

    @property
    def struct(self) -> Conv2d:
        return Conv2d(
            self.n, self.c, *self.size, self.f, *self.out, *self.kernel, *self.stride, *self.pad, *self.dilation,
            self.group,
        )  # fmt: skip

    def taps(self, padded: np.ndarray):
        """Yield (i, j, group's filters, group's channels, view of the padded input under that tap)."""
        cg, fg = self.c // self.group, self.f // self.group
        for g in range(self.group):
            channels, filters = slice(g * cg, (g + 1) * cg), slice(g * fg, (g + 1) * fg)
            for i in range(self.kernel[0]):
                for j in range(self.kernel[1]):
                    rows, cols = (
                        slice(t * self.dilation[q], t * self.dilation[q] + self.stride[q] * (self.out[q] - 1) + 1,
                              self.stride[q])
                        for q, t in enumerate((i, j))
                    )  # fmt: skip
                    yield i, j, filters, padded[:, channels, rows, cols]

    def pad_input(self, x: np.ndarray) -> np.ndarray:
        return np.pad(x, ((0, 0), (0, 0), (self.pad[0],) * 2, (self.pad[1],) * 2))

    def forward(self, x: np.ndarray, w: np.ndarray) -> np.ndarray:
        y = np.zeros((self.n, self.f, *self.out))
        for i, j, filters, view in self.taps(self.pad_input(x)):
            y[:, filters] += np.moveaxis(np.tensordot(w[filters, :, i, j], view, (1, 1)), 0, 1)
        return y

    def backward(self, x: np.ndarray, w: np.ndarray, dy: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        dx, dw = np.zeros_like(self.pad_input(x)), np.zeros_like(w)
        for (i, j, filters, view), (_, _, _, sink) in zip(self.taps(self.pad_input(x)), self.taps(dx), strict=True):
            dw[filters, :, i, j] += np.tensordot(dy[:, filters], view, ((0, 2, 3), (0, 2, 3)))
            sink += np.moveaxis(np.tensordot(w[filters, :, i, j], dy[:, filters], (0, 1)), 0, 1)
        ph, pw = self.pad
        return dx[:, :, ph : ph + self.size[0], pw : pw + self.size[1]], dw


CASES = {
    "lenet conv1": Case(64, 1, (28, 28), 20, (5, 5)),
    "lenet conv2": Case(33, 20, (12, 12), 50, (5, 5)),
    "mnist_cnn conv1": Case(40, 1, (28, 28), 32, (5, 5)),
    "mnist_cnn conv2": Case(32, 32, (12, 12), 64, (5, 5)),
    "mnist_cnn conv3": Case(32, 64, (4, 4), 128, (3, 3)),
    "one image": Case(1, 6, (9, 11), 17, (3, 3)),
    "one by one": Case(2, 5, (6, 7), 9, (1, 1)),
    "one by one, many images": Case(35, 9, (4, 4), 21, (1, 1)),
    "one by one, large maps": Case(20, 6, (7, 9), 21, (1, 1), group=3),
    "one by one with stride": Case(20, 5, (7, 9), 6, (1, 1), (2, 2)),
    "no image": Case(0, 3, (5, 5), 4, (3, 3)),
    "same": Case(32, 8, (9, 9), 15, (3, 3), pad=(1, 1)),
    "stride": Case(3, 3, (23, 23), 12, (7, 7), (4, 4)),
    "stride and pad, many images": Case(34, 7, (11, 11), 12, (3, 3), (2, 2), (1, 1)),
    "first layer, padded": Case(37, 3, (20, 20), 10, (5, 5), pad=(2, 2)),
    "first layer, many filters": Case(5, 1, (41, 38), 64, (7, 7), (2, 2), (3, 3)),
    "first layer, large stride": Case(3, 3, (67, 59), 50, (11, 11), (4, 4)),
    "first layer, rectangular": Case(9, 4, (37, 33), 100, (3, 5), (1, 3), (2, 1), (3, 2), 2),
    "first layer, stride beyond the map": Case(600, 2, (4, 3), 48, (3, 3), (2, 5), (1, 1)),
    "many channels, stride": Case(9, 32, (9, 7), 30, (3, 3), (2, 2), (1, 1)),
    "many channels, odd": Case(17, 29, (7, 6), 61, (3, 2), (1, 1), (1, 0)),
    "many channels, few filters": Case(5, 62, (6, 5), 31, (3, 3), (1, 1), (1, 1), (2, 2)),
    "many channels, groups": Case(20, 70, (7, 7), 58, (3, 3), (1, 1), (1, 1), group=2),
    "many channels, large maps": Case(6, 24, (40, 37), 32, (3, 3), (1, 1), (1, 1)),
    "everything rectangular": Case(5, 6, (13, 10), 8, (2, 3), (2, 1), (1, 2), (2, 3), 2),
    "everything rectangular, many images": Case(50, 6, (13, 10), 8, (2, 3), (2, 1), (1, 2), (2, 3), 2),
    "depthwise": Case(32, 6, (7, 7), 6, (3, 3), pad=(1, 1), group=6),
    "depthwise, one image": Case(1, 6, (7, 7), 6, (3, 3), pad=(1, 1), group=6),
    "groups": Case(40, 10, (6, 6), 15, (3, 3), group=5),
    "kernel as large as the map": Case(33, 6, (4, 5), 7, (4, 5)),
    "pad beyond the kernel": Case(2, 2, (3, 3), 3, (2, 2), pad=(3, 3)),
    "pad beyond the kernel, many images": Case(40, 5, (3, 3), 3, (2, 2), pad=(3, 3)),
    "stride over pixels that no tap reads": Case(40, 5, (9, 9), 4, (1, 1), (3, 3)),
    "tall": Case(17, 1, (40, 3), 5, (3, 2)),
    "wide": Case(17, 1, (3, 70), 5, (3, 2)),
}


@pytest.mark.parametrize("bias", [True, False], ids=["bias", "plain"])
@pytest.mark.parametrize("name", CASES)
def test_convolution(core: Core, name: str, bias: bool) -> None:
    case = CASES[name]
    rng = np.random.default_rng(len(name))

    def draw(*shape: int) -> np.ndarray:
        return rng.standard_normal(shape).astype(core.dtype)

    x, w = draw(case.n, case.c, *case.size), draw(case.f, case.c // case.group, *case.kernel)
    b, dy = draw(case.f), draw(case.n, case.f, *case.out)
    dw0, db0 = draw(*w.shape), draw(case.f)
    struct = ctypes.byref(case.struct)
    null = POINTER(None)

    def run() -> list[np.ndarray]:
        y, dx = np.full(dy.shape, np.nan, core.dtype), np.full(x.shape, np.nan, core.dtype)
        dw, db = dw0.copy(), db0.copy()
        core.lib.core_conv_forward(struct, pointer(x), pointer(w), pointer(b) if bias else null, INT(bias), pointer(y))
        core.lib.core_conv_backward_data(struct, pointer(dy), pointer(w), pointer(dx))
        core.lib.core_conv_backward_weights(struct, pointer(x), pointer(dy), pointer(dw), pointer(db) if bias else null)
        return [y, dx, dw, db]

    y, dx, dw, db = any_threads(core, run)
    x, w, b, dy, dw0, db0 = (v.astype(np.float64) for v in (x, w, b, dy, dw0, db0))
    expected = case.forward(x, w) + (b[:, None, None] if bias else 0)
    core.close(y, np.maximum(expected, 0) if bias else expected, case.forward(abs(x), abs(w)) + 1)
    for got, want, size in zip(
        (dx, dw - dw0), case.backward(x, w, dy), case.backward(abs(x), abs(w), abs(dy)), strict=True
    ):
        core.close(got, want, size + 2)
    core.close(db, db0 + (dy.sum((0, 2, 3)) if bias else 0), abs(db0) + abs(dy).sum((0, 2, 3)))


def test_not_a_number_passes(core: Core) -> None:
    """Fast maths must not lose a NaN; padding must not make one of an infinity."""
    case = Case(20, 5, (4, 4), 3, (3, 3), pad=(1, 1))
    x, w = np.ones((20, 5, 4, 4), core.dtype), np.ones((3, 5, 3, 3), core.dtype)
    x[7, 2, 0, 0] = np.inf
    w[1, 2, 1, 1] = np.nan
    y = np.zeros((20, 3, 4, 4), core.dtype)
    core.lib.core_conv_forward(ctypes.byref(case.struct), pointer(x), pointer(w), POINTER(None), INT(0), pointer(y))
    assert np.isnan(y[:, 1]).all()
    assert np.isposinf(y[7, 0, 0, 0])
    assert np.isfinite(y[7, 0, 3, 3]) and np.isfinite(y[6, 0]).all()
