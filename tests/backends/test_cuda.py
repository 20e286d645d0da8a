"""The GPU backend: what it must say where there is no GPU, and what only it does where there is one."""

from __future__ import annotations

import threading

import numpy as np
import pytest

import protocaffe
from protocaffe import backends
from protocaffe.backends import cuda_blas, get_backend, manifest
from protocaffe.backends.cuda_blaslt import Product
from protocaffe.backends.cuda_kernels import only
from protocaffe.backends.cuda_timing import fastest
from protocaffe.backends.engine_choices import Choices
from protocaffe.errors import BackendError, KernelError
from protocaffe.io import prototxt
from protocaffe.resources import resource_path
from tests.support.backends import has_gpu
from tests.support.bench import Bench
from tests.support.held import Held

gpu = pytest.mark.skipif(not has_gpu(), reason="there is no GPU here")
no_gpu = pytest.mark.skipif(has_gpu(), reason="there is a GPU here")


@pytest.fixture
def cuda():
    return get_backend("cuda")


# -------------------------------------------------------------------------------------------------------- without a GPU
@no_gpu
@pytest.mark.parametrize(
    "call", [protocaffe.set_mode_gpu, lambda: protocaffe.set_device(0), lambda: get_backend("cuda:1")]
)
def test_without_a_gpu_the_error_names_the_way_out(call):
    with pytest.raises(BackendError, match=r"no GPU can be used here.* --cpu"):
        call()
    assert (backends.gpu_chosen, backends.gpu) == (False, 0)


@pytest.mark.parametrize("number", ["x", "-1", "\u00b2", "9" * 5000])
def test_device_query_of_what_is_no_number(capsys, number):
    from protocaffe.cli import main

    with pytest.raises(SystemExit):
        main(["device_query", f"--gpu={number}"])
    assert capsys.readouterr().err.startswith('error: --gpu must be the number of a GPU or "all", got "')


@no_gpu
def test_device_query_without_a_gpu(capsys):
    from protocaffe.cli import main

    with pytest.raises(SystemExit) as done:
        main(["device_query", "-gpu", "0"])
    assert done.value.code == 1
    assert capsys.readouterr().err.startswith("error: no GPU can be used here")


@pytest.mark.parametrize("device", [-2, "gpu", 1.5])
def test_a_device_is_a_number(device):
    with pytest.raises(BackendError, match="set_device: a GPU's number is 0 or more"):
        protocaffe.set_device(device)


def test_a_kernel_is_compiled_without_the_others(tmp_path):
    found = 0
    for path in sorted(resource_path("kernels").glob("*.cu")):
        text = path.read_text()
        for name in manifest.parse([resource_path("kernels") / "portable.h", path]).kernels:
            alone = tmp_path / path.name
            alone.write_text(only(text, name))
            assert list(manifest.parse([resource_path("kernels") / "portable.h", alone]).kernels) == [name]
            assert alone.read_text().count("{") == alone.read_text().count("}")
            found += 1
    assert found > 100


# ----------------------------------------------------------------------------------------------------------- with a GPU
@gpu
def test_memory_is_zeroed_and_copied_both_ways(cuda):
    memory = cuda.empty((3, 4))
    assert not memory.array.any()
    memory.array[...] = np.arange(12).reshape(3, 4)
    cuda.run("scale_into", 8, 2.0, memory.at(4, 8), memory.at(4, 8))
    assert memory.array.ravel().tolist() == [0, 1, 2, 3, 8, 10, 12, 14, 16, 18, 20, 22]


@gpu
@pytest.mark.parametrize("trans_a", [False, True])
@pytest.mark.parametrize("trans_b", [False, True])
@pytest.mark.parametrize("batch", [1, 3])
def test_gemm(trans_a, trans_b, batch):
    cuda = get_backend("cuda", "float64")
    rng = np.random.default_rng(0)
    m, n, k = 5, 7, 4
    a = rng.standard_normal((batch, k, m) if trans_a else (batch, m, k))
    b = rng.standard_normal((batch, n, k) if trans_b else (batch, k, n))
    c = rng.standard_normal((batch, m, n))
    on = [cuda.from_array(x) for x in (a, b, c)]
    call = cuda.bind_gemm(
        trans_a, trans_b, m, n, k, 2.0, on[0], a.shape[2], on[1], b.shape[2], 0.5, on[2], n, batch,
        (m * k, n * k, m * n),
    )  # fmt: skip
    cuda.replay((call,))
    wanted = 2 * (a.swapaxes(1, 2) if trans_a else a) @ (b.swapaxes(1, 2) if trans_b else b) + 0.5 * c
    np.testing.assert_allclose(on[2].array, wanted, rtol=1e-12)


@gpu
def test_a_product_over_nothing_scales_what_is_there(cuda):
    a, c = cuda.empty((0,)), cuda.from_array(np.ones((2, 3), np.float32))
    cuda.replay((cuda.bind_gemm(False, False, 2, 3, 0, 1.0, a, 0, a, 3, 2.0, c, 3),))
    assert c.array.tolist() == [[2, 2, 2], [2, 2, 2]]


@gpu
def test_a_product_by_an_algorithm_that_was_kept_needs_no_search_and_is_the_same(cuda, tmp_path, monkeypatch):
    def of_cublas_lt(*args, **kwargs):
        return {name: us for name, us in fastest(*args, **kwargs).items() if name != cuda_blas.CUBLAS}

    monkeypatch.setenv("PROTOCAFFE_CACHE", str(tmp_path))
    monkeypatch.setenv("PROTOCAFFE_TUNE", "1")
    monkeypatch.setattr(cuda_blas, "fastest", of_cublas_lt)
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((64, 80)).astype(np.float32), rng.standard_normal((80, 96)).astype(np.float32)
    on, results = [cuda.from_array(x) for x in (a, b)], []
    for _ in range(2):  # the second time as a new process
        choices, out = Choices(), cuda.empty((64, 96))
        monkeypatch.setattr(cuda._blas, "_choices", choices)
        cuda.replay((cuda.bind_gemm(False, False, 64, 96, 80, 1.0, on[0], 80, on[1], 96, 0.0, out, 96),))
        results.append(out.array.copy())
        assert all(choice.startswith("LT ") for choice in choices.used.values()) and len(choices.used) == 1
        monkeypatch.setattr(Product, "_find", lambda self: pytest.fail("searched again"))
    np.testing.assert_allclose(results[0], a.astype(np.float64) @ b, atol=1e-4)
    assert np.array_equal(*results)


@gpu
def test_math_modes(cuda):
    rng = np.random.default_rng(0)
    a, b = (rng.standard_normal((64, 64)).astype(np.float32) for _ in range(2))
    on, out = [cuda.from_array(x) for x in (a, b)], cuda.empty((64, 64))
    errors = {}
    try:
        for mode in ("tf32", "fp32"):
            cuda.math = mode
            cuda.replay((cuda.bind_gemm(False, False, 64, 64, 64, 1.0, on[0], 64, on[1], 64, 0.0, out, 64),))
            errors[mode] = np.abs(out.array - a.astype(np.float64) @ b).max()
        assert errors["fp32"] < 1e-4 and errors["tf32"] < 0.1
        with pytest.raises(BackendError, match='"fp32" or "tf32", got "fp8"'):
            cuda.math = "fp8"
    finally:
        cuda.math = "fp32"


@gpu
def test_wrong_calls_are_refused_as_on_the_cpu(cuda):
    x = cuda.empty((4,))
    with pytest.raises(KernelError, match=r'kernel fill\(.*argument "y" must be float32 memory, got int 3'):
        cuda.bind_launch("fill", 4, (3, 0.0))
    with pytest.raises(KernelError, match="takes 3 arguments, got 2"):
        cuda.bind_launch("fill", 4, (x,))


@gpu
def test_a_users_own_kernels(cuda, tmp_path):
    path = tmp_path / "own.cu"
    path.write_text('#include "portable.h"\nKERNEL own_triple(long n, store* y) { FOR_EACH(i, n) y[i] = 3 * y[i]; }\n')
    cuda.load_kernels(path)
    x = cuda.from_array(np.arange(5, dtype=np.float32))
    cuda.run("own_triple", 5, x)
    assert x.array.tolist() == [0, 3, 6, 9, 12]
    path = tmp_path / "bad.cu"
    path.write_text('#include "portable.h"\nKERNEL own_bad(long n, store* y) { y[0] = nowhere; }\n')
    cuda.load_kernels(path)
    with pytest.raises(KernelError, match=r"bad\.cu do not compile: .*nowhere"):
        cuda.run("own_bad", 1, x)


@gpu
def test_every_kernel_compiles_and_is_found(cuda):
    kernels = []
    for real in ("float32", "float64"):
        backend = get_backend("cuda", real)
        for name in backend._kernels.names():
            if not name.startswith("own_"):
                signature = backend._kernels.signature(name)
                structs = {p.type: (1,) * sum(n or 1 for _, n in backend._kernels.fields(p.type))
                           for p in signature.parameters if p.type in backend._kernels._manifest.structs}  # fmt: skip
                path = backend._kernels.folder / signature.source
                for wide, shaped in ((False, False), (True, False), (False, True)):
                    kernels.append(backend._modules.function(path, signature, structs, wide, shaped))
    for kernel in kernels:
        assert kernel.load()


@gpu
def test_too_much_memory_is_an_error_that_says_how_much(cuda):
    with pytest.raises(BackendError, match="MiB are needed, GPU 0 has"):
        cuda.run("fill", 1, cuda.empty((1 << 40,)), 0.0)


@gpu
def test_a_second_gpu_is_refused(cuda):
    with pytest.raises(BackendError, match="GPU"):
        get_backend("cuda:1")


NET = """
layer { name: "in" type: "Input" top: "x" input_param { shape { dim: 8 dim: 2 dim: 8 dim: 8 } } }
layer { name: "conv" type: "Convolution" bottom: "x" top: "c" convolution_param { num_output: 4 kernel_size: 3
        weight_filler { type: "xavier" } } }
layer { name: "relu" type: "ReLU" bottom: "c" top: "c" }
layer { name: "pool" type: "Pooling" bottom: "c" top: "p" pooling_param { kernel_size: 2 stride: 2 } }
layer { name: "drop" type: "Dropout" bottom: "p" top: "d" }
layer { name: "ip" type: "InnerProduct" bottom: "d" top: "y" inner_product_param { num_output: 3
        weight_filler { type: "xavier" } } }
"""


@gpu
def test_gpu_and_cpu_agree_and_draw_the_same_numbers():
    nets = [
        protocaffe.Net(prototxt.parse_net(f"force_backward: true {NET}"), 0, backend=get_backend(name), seed=3)
        for name in ("cpu", "cuda")
    ]
    x = np.random.default_rng(1).standard_normal((8, 2, 8, 8)).astype(np.float32)
    for _ in range(4):  # the first replays run call by call, later ones as captured
        outs = [net.forward(x=x)["y"] for net in nets]
        np.testing.assert_allclose(outs[1], outs[0], atol=1e-5)
        kept = [net.blobs["d"].data != 0 for net in nets]
        assert (kept[0] == kept[1]).all()
        for net in nets:
            net.clear_param_diffs()
        diffs = [net.backward(y=np.ones((8, 3), np.float32))["x"] for net in nets]
        np.testing.assert_allclose(diffs[1], diffs[0], atol=1e-5)
        for name in ("conv", "ip"):
            for ours, theirs in zip(nets[1].params[name], nets[0].params[name], strict=True):
                np.testing.assert_allclose(ours.diff, theirs.diff, atol=1e-4)


@gpu
@pytest.mark.parametrize(
    ("text", "shape"),
    [
        ("pooling_param { kernel_size: 3 stride: 2 pad: 1 }", (4, 8, 31, 29)),
        ("pooling_param { pool: AVE kernel_size: 3 stride: 2 pad: 1 }", (4, 8, 31, 29)),
        ("pooling_param { kernel_size: 2 stride: 2 }", (4, 8, 32, 28)),
        ("convolution_param { num_output: 6 kernel_size: 5 stride: 2 pad: 2 dilation: 2 group: 2 }", (4, 4, 31, 29)),
        ("convolution_param { num_output: 6 kernel_size: 3 kernel_size: 1 kernel_size: 2 }", (4, 2, 9, 13, 11)),
        ("permute_param { order: 3 order: 0 order: 2 order: 1 }", (4, 8, 31, 29)),
    ],
)
def test_kernels_compiled_for_a_shape_give_what_the_cpu_gives(text, shape):
    kind = {"pool": "Pooling", "conv": "Convolution", "perm": "Permute"}[text[:4]]
    results = []
    for name in ("cpu", "cuda"):
        rng = np.random.default_rng(0)
        bench = Bench(
            f'layer {{ type: "{kind}" bottom: "x" top: "y" {text} }}', {"x": shape}, get_backend(name, "float64")
        )
        for blob in bench.params:
            blob.data[...] = rng.standard_normal(blob.shape)
        tops = bench.forward([rng.standard_normal(shape)])
        before = [rng.standard_normal(blob.shape) for blob in bench.params]
        diffs = bench.backward([rng.standard_normal(t.shape) for t in tops], [True], before=before)
        results.append([*tops, *diffs[0], *diffs[1]])
    for got, wanted in zip(results[1], results[0], strict=True):
        np.testing.assert_allclose(got, wanted, rtol=1e-11, atol=1e-11)


@gpu
def test_memory_freed_by_another_thread_is_given_back(cuda, monkeypatch):
    held = Held(monkeypatch, cuda.device)

    def take(count):
        """Memory is taken when it is first used."""
        memory = cuda.empty((count,))
        cuda.run("fill", count, memory, 1.0)
        return memory

    large = [take(1 << 26)]
    assert held.memory >= 1 << 28
    thread = threading.Thread(target=large.clear)
    thread.start()
    thread.join()
    small = take(1)
    assert 4 <= held.memory < 1 << 28, small
