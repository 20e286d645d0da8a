"""Kernels: wrong calls, arithmetic over the whole range of the types, NaN, random numbers."""

from __future__ import annotations

import ctypes
import re

import numpy as np
import pytest

from protocaffe.backends import build, manifest
from protocaffe.backends.cpu import CpuBackend
from protocaffe.errors import BackendError, KernelError
from protocaffe.resources import resource_path
from tests.support import probe
from tests.support.probe import elementwise, memory

REALS = ["float32", "float64"]


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    """Compiled user kernels go to a folder of this module."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PROTOCAFFE_CACHE", str(folder))
        yield folder


@pytest.fixture(scope="module", params=REALS)
def probed(request, cache):
    return probe.load(request.param)


@pytest.fixture(scope="module")
def probed32(cache):
    return probe.load("float32")


# --------------------------------------------------------------------------------------------------------- wrong calls
def test_every_kernel_of_the_sources_is_in_the_library():
    cpu = CpuBackend()
    for name in cpu._kernels.names():
        assert getattr(cpu._library, name), name


RELU = r"relu_forward\(long n, const store\* x, store\* y, real slope\)"


@pytest.mark.parametrize(
    ("args", "match"),
    [
        ("xy", f"{RELU} takes 4 arguments, got 3"),
        ("xyrr", f"{RELU} takes 4 arguments, got 5"),
        ("xir", f'{RELU}: argument "y" must be float32 memory, got int32 memory'),
        ("dyr", f'{RELU}: argument "x" must be float32 memory, got float64 memory'),
        ("xyx", f'{RELU}: argument "slope" must be a number, got float32 memory'),
        ("rxr", f'{RELU}: argument "x" must be float32 memory, got float 0.5'),
        ("xys", f"{RELU}: argument \"slope\" must be a number, got str 'a'"),
        ("xyn", f'{RELU}: argument "slope" must be a number, got NoneType None'),
        ("axr", f'{RELU}: argument "x" must be float32 memory, got ndarray'),
    ],
)
def test_wrong_arguments(cpu, args, match):
    values = {
        "x": cpu.empty((3,)), "y": cpu.empty((3,)), "i": cpu.empty((3,), np.int32), "d": cpu.empty((3,), np.float64),
        "r": 0.5, "s": "a", "n": None, "a": np.zeros(3, np.float32),
    }  # fmt: skip
    with pytest.raises(KernelError, match=match):
        cpu.bind_launch("relu_forward", 3, tuple(values[a] for a in args))


def test_wrong_scalars_and_structs(cpu):
    x, y, index = cpu.empty((4,)), cpu.empty((1,)), cpu.empty((1,), np.int32)
    shape = dict.fromkeys(("h", "w", "oh", "ow", "kh", "kw", "sh", "sw", "ph", "pw"), 1)
    cpu.bind_launch("pooling_max_forward", 1, (shape, x, y, index))
    with pytest.raises(KernelError, match='argument "planes" must be an integer'):
        cpu.bind_launch("pooling_max_forward", 1.5, (shape, x, y, index))
    with pytest.raises(KernelError, match='argument "shape" must be a dict with the fields of pool2d, got int 3'):
        cpu.bind_launch("pooling_max_forward", 1, (3, x, y, index))
    for wrong in ({k: v for k, v in shape.items() if k != "pw"}, shape | {"dh": 1}):
        with pytest.raises(KernelError, match='argument "shape" must be a dict with the fields h, w, oh'):
            cpu.bind_launch("pooling_max_forward", 1, (wrong, x, y, index))
    nd = {"axes": 7, "channels": 1} | dict.fromkeys(("in", "out", "kernel", "stride", "pad", "dilation"), [1] * 7)
    with pytest.raises(KernelError, match="at most 6 values of in"):
        cpu.bind_launch("im2col_nd", 1, (nd, x, y))
    with pytest.raises(KernelError, match='no kernel "relu_foward"'):
        cpu.bind_launch("relu_foward", 1, (x, y, 0.0))


def test_the_manifest_reads_signatures(tmp_path):
    source = tmp_path / "a.cu"
    source.write_text(
        "struct spot { int at, size[3]; };\n"
        "// KERNEL commented(long n) {}\n"
        "KERNEL one(long n, const store* x,\n   u8 *keep, spot where, u64 key) {}\n"
    )
    found = manifest.parse([source])
    assert list(found.kernels) == ["one"] and found.structs["spot"].fields == (("at", None), ("size", 3))
    assert str(found.kernels["one"]) == "one(long n, const store* x, u8* keep, spot where, u64 key)"


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("KERNEL bad(long n, const char* x) {}", r"user\.cu: bad: parameter \"const char\* x\" has a type"),
        ("KERNEL bad(long n, short x) {}", "has a type that kernels cannot take"),
        ("KERNEL bad(long n) {} KERNEL bad(long n) {}", "kernel bad is already defined"),
        ("KERNEL relu_forward(long n) {}", '"relu_forward" is already defined in activation.cu'),
        ('#include "portable.h"\nKERNEL broken(long n) { FOR_EACH(i, n) nonsense; }', "nonsense"),
    ],
)
def test_wrong_kernel_files(cache, tmp_path, text, match):
    path = tmp_path / "user.cu"
    path.write_text(text if "include" in text else f'#include "portable.h"\n{text}')
    with pytest.raises(KernelError, match=match):
        CpuBackend().load_kernels(path)


def test_a_kernel_file_that_is_not_there(tmp_path):
    with pytest.raises(KernelError, match=r"none\.cu"):
        CpuBackend().load_kernels(tmp_path / "none.cu")


def test_types_of_the_processor():
    with pytest.raises(BackendError, match="float32 or float64, got float16"):
        CpuBackend("float16")


# ---------------------------------------------------------------------------------------------------------- arithmetic
def spread(real, low, high, count=400_000):
    """Numbers from low to high, and the edges of the type."""
    info = np.finfo(real)
    edges = [0, info.tiny, -info.tiny, info.eps, -info.eps, info.smallest_subnormal, low, high]
    small = np.geomspace(info.tiny, 1, 5000)
    return np.concatenate([np.linspace(low, high, count), small, -small, edges]).astype(real)


def ulps(got, wanted, real):
    """Largest error in units of the last place of the exact value."""
    info = np.finfo(real)
    unit = np.maximum(np.abs(wanted), info.tiny) * info.eps
    return float((np.abs(got.astype(np.float64) - wanted) / unit).max())


def test_exp(probed):
    real = probed.real
    x = spread(real, -87.3365, 88.7228) if real == np.float32 else spread(real, -708, 709)
    assert ulps(elementwise(probed, "probe_exp", x), np.exp(x.astype(np.float64)), real) < 2
    edge = np.array([-np.inf, -1e30, -105 if real == np.float32 else -750, 89.5 if real == np.float32 else 710, np.inf])
    assert elementwise(probed, "probe_exp", edge).tolist() == [0, 0, 0, np.inf, np.inf]
    assert np.isnan(elementwise(probed, "probe_exp", np.array([np.nan]))).all()


def test_tanh(probed):
    real = probed.real
    x = spread(real, -12, 12)
    got = elementwise(probed, "probe_tanh", x)
    assert ulps(got, np.tanh(x.astype(np.float64)), real) < 4
    assert (np.diff(elementwise(probed, "probe_tanh", np.linspace(0, 9, 3000))) >= -np.finfo(real).eps).all()
    edge = np.array([-np.inf, -1e30, -90, 90, 1e30, np.inf])
    assert elementwise(probed, "probe_tanh", edge).tolist() == [-1, -1, -1, 1, 1, 1]
    assert np.isnan(elementwise(probed, "probe_tanh", np.array([np.nan]))).all()


def test_sigmoid(probed):
    real = probed.real
    x = spread(real, -80, 80)
    assert ulps(elementwise(probed, "sigmoid_forward", x), 1 / (1 + np.exp(-x.astype(np.float64))), real) < 5
    assert np.isnan(elementwise(probed, "sigmoid_forward", np.array([np.nan]))).all()


def test_log_and_sqrt(probed):
    real = probed.real
    x = np.geomspace(np.finfo(real).tiny, np.finfo(real).max / 2, 100_000).astype(real)
    for kernel, exact in (("probe_log", np.log), ("probe_sqrt", np.sqrt)):
        wanted = exact(x.astype(np.float64))
        away = np.abs(wanted) > 1e-3
        assert ulps(elementwise(probed, kernel, x)[away], wanted[away], real) < 4
        assert np.isnan(elementwise(probed, kernel, np.array([np.nan]))).all()
    assert elementwise(probed, "probe_log", np.array([0.0, np.inf])).tolist() == [-np.inf, np.inf]


def test_is_nan(probed):
    x = np.array([np.nan, -np.nan, np.inf, -np.inf, 0, -0.0, 1, np.finfo(probed.real).max, 1e-310])
    assert elementwise(probed, "probe_is_nan", x, dtype=np.uint8).tolist() == [1, 1] + [0] * 7


def test_subnormal_numbers_survive(probed, cpu):
    """No flush to zero, neither in kernels nor in the process that loaded them."""
    tiny = np.finfo(probed.real).smallest_subnormal * 8
    assert elementwise(probed, "copy", np.array([tiny])).tolist() == [tiny]
    assert elementwise(probed, "relu_forward", np.array([tiny, -tiny]), 0.5).tolist() == [tiny, -tiny / 2]
    assert np.float32(1e-38) / np.float32(4) != 0


@pytest.mark.parametrize("n", [1, 2, 7, 64, 1000])
def test_rows(probed, n):
    x = np.random.default_rng(n).standard_normal((5, n))
    rows, out = memory(probed, x), probed.empty((5,))
    exact = rows.array.astype(np.float64)
    probed.run("probe_row_sum", 5, n, rows, out)
    np.testing.assert_allclose(out.array, exact.sum(1), atol=20 * np.finfo(probed.real).eps * np.abs(exact).sum())
    probed.run("probe_row_max", 5, n, rows, out)
    assert (out.array == exact.max(1)).all()


# ------------------------------------------------------------------------------------------------------------ bfloat16
@pytest.fixture(scope="module")
def bf16(tmp_path_factory):
    """float32 -> bits of the nearest bfloat16, and back, by a build in which memory holds bfloat16."""
    target = tmp_path_factory.mktemp("bf16") / "probe.so"
    build.compile_library(
        [probe.KERNELS / "probe.cu"], resource_path("kernels"), target, f"f32-{build.best_isa()}", ["-DSTORE_BF16"]
    )
    library = ctypes.CDLL(str(target))

    def call(name, x, out):
        getattr(library, name)(
            ctypes.c_long(x.size), x.ctypes.data_as(ctypes.c_void_p), out.ctypes.data_as(ctypes.c_void_p)
        )
        return out

    return (
        lambda x: call("probe_store", x, np.empty(x.shape, np.uint16)),
        lambda bits: call("probe_load", bits, np.empty(bits.shape, np.float32)),
    )


def test_bfloat16_rounds_to_nearest_even(bf16):
    store, load = bf16
    every = np.arange(2**16, dtype=np.uint16)
    values = (every.astype(np.uint32) << 16).view(np.float32)
    numbers = ~np.isnan(values)
    assert (load(every).view(np.uint32) >> 16 == every).all()
    assert (store(values)[numbers] == every[numbers]).all(), "a bfloat16 stays what it is"
    bits = np.random.default_rng(0).integers(0, 2**32, 500_000, dtype=np.uint32)
    bits[:3] = 0x3F808000, 0x3F818000, 0x7F7FFFFF  # two ties, and what rounds to infinity
    x = bits.view(np.float32)
    x = x[~np.isnan(x)]
    low = x.view(np.uint32) & 0xFFFF
    up = (low > 0x8000) | ((low == 0x8000) & ((x.view(np.uint32) >> 16) & 1 == 1))
    assert (store(x) == (x.view(np.uint32) >> 16) + up).all()


def test_bfloat16_keeps_nan_and_infinity(bf16):
    store, load = bf16
    nans = np.array([0x7FC00000, 0x7F800001, 0xFF800001, 0x7FFFFFFF, 0xFFFFFFFF], np.uint32).view(np.float32)
    assert np.isnan(load(store(nans))).all()
    ends = np.array([np.inf, -np.inf, 0.0, -0.0], np.float32)
    assert (load(store(ends)).view(np.uint32) == ends.view(np.uint32)).all()


# ----------------------------------------------------------------------------------------------------------------- NaN
def test_nan_goes_through_activations(probed):
    x = np.array([np.nan, 1.0, -1.0])
    for slope in (0.0, 0.5):
        assert np.isnan(elementwise(probed, "relu_forward", x, slope)).tolist() == [True, False, False]
    one, dy, dx = memory(probed, np.ones(3)), memory(probed, x), probed.empty((3,))
    for kernel, args in (("relu_backward", (0.0,)), ("sigmoid_backward", ()), ("tanh_backward", ())):
        probed.run(kernel, 3, one, dy, dx, *args)
        assert np.isnan(dx.array[0]), kernel
    # What a closed ReLU gets from above does not matter unless it is NaN: 0 * NaN is NaN.
    probed.run("relu_backward", 3, memory(probed, -np.ones(3)), dy, dx, 0.0)
    assert np.isnan(dx.array[0]) and not dx.array[1:].any()


# -------------------------------------------------------------------------------------------------------------- Philox
#: known answers of Philox4x32-10 (Random123, kat_vectors): counter words, key words, result
KNOWN = [
    ("00000000 00000000 00000000 00000000", "00000000 00000000", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff", "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0", "d16cfe09 94fdcceb 5001e420 24126ea1"),
]


def test_philox(probed32):
    words = [[int(w, 16) for w in re.split(" ", " ".join(row[:2]))] for row in KNOWN]
    low, high, key = (np.array([w[i] | w[i + 1] << 32 for w in words], np.uint64) for i in (0, 2, 4))
    out = probed32.empty((len(KNOWN), 4), np.uint64)
    probed32.run("probe_philox", len(KNOWN), *(memory(probed32, v) for v in (key, high, low)), out)
    assert [" ".join(f"{w:08x}" for w in row) for row in out.array] == [row[2] for row in KNOWN]


def test_uniform_numbers(probed):
    bits = np.array([0, 255, 256, 0x7FFFFFFF, -1], np.int32)
    got = elementwise(probed, "probe_uniform", bits)
    assert got.tolist() == [0, 0, 2**-24, (2**23 - 1) / 2**24, 1 - 2**-24]
