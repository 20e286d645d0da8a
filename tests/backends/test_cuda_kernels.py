"""How kernels for the GPU are cut out, compiled aside and cached: with a compiler and a driver that a test plays."""

from __future__ import annotations

import re
import threading

import pytest

from protocaffe.backends import cuda_kernels
from protocaffe.backends.cuda_kernels import Modules, cached_cubin, only
from protocaffe.backends.manifest import parse
from protocaffe.errors import KernelError

FILE = """\
#include "portable.h"
// KERNEL in a comment, and a brace: {
DEVICE real half(real x) { return x / 2; }
KERNEL one(long n, store* y) {
  FOR_EACH(i, n) { y[i] = half(y[i]); /* } */ }
}

KERNEL two(long n, store* y, real a) {  // }}
  y[0] = a;
}
KERNEL three(long n, store* y) { y[0] = 3; }
"""


def test_other_kernels_are_left_out_and_lines_keep_their_numbers():
    for name in ("one", "two", "three"):
        cut = only(FILE, name)
        assert re.findall(r"^KERNEL (\w+)", cut, re.MULTILINE) == [name]
        assert "half(real x)" in cut and len(cut.splitlines()) == len(FILE.splitlines())
        (at,) = [i for i, line in enumerate(FILE.splitlines()) if line.startswith(f"KERNEL {name}")]
        assert cut.splitlines()[at] == FILE.splitlines()[at]
    assert only(FILE, "four").count("KERNEL ") == 1
    assert only("KERNEL a(long n) { {", "b") == "KERNEL a(long n) { {"  # left to the compiler


class Driver:
    """PyCUDA's driver, as far as kernels need it."""

    class Error(Exception):
        pass

    class function_attribute:
        MAX_THREADS_PER_BLOCK = 0

    def __init__(self):
        self.loaded, self.launched = [], []

    def module_from_buffer(self, cubin):
        if not cubin.startswith(b"cubin"):
            raise self.Error("invalid image")
        self.loaded.append(cubin)
        return self

    def get_function(self, name):
        return self

    def prepare(self, formats):
        self.formats = formats

    def get_attribute(self, attribute):
        return 200

    def prepared_async_call(self, grid, block, stream, *args):
        self.launched.append((grid, block, stream, *args))


@pytest.fixture
def compiled(monkeypatch, tmp_path):
    """What was compiled: (source, options); what holds "bad" does not compile."""
    done = []

    def compile_cubin(source, name, header, options):
        done.append((source.decode(), tuple(options)))
        if b"bad" in source:
            raise KernelError(f"kernels of {name} do not compile: bad")
        return b"cubin %d" % len(done)

    monkeypatch.setenv("PROTOCAFFE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(cuda_kernels, "compile_cubin", compile_cubin)
    monkeypatch.setattr(cuda_kernels, "compiler_version", lambda: b"13.0")
    (tmp_path / "portable.h").write_text("")
    (tmp_path / "file.cu").write_text(FILE)
    return done


def cubin(folder, kernel="one", *options, **kwargs):
    path = folder / "file.cu"
    return cached_cubin(path, only(path.read_text(), kernel), folder / "portable.h", options, **kwargs)


def test_the_cache(compiled, tmp_path):
    assert [cubin(tmp_path), cubin(tmp_path), cubin(tmp_path, "two"), cubin(tmp_path, "one", "-DX")] == [
        b"cubin 1", b"cubin 1", b"cubin 2", b"cubin 3",
    ]  # fmt: skip
    (tmp_path / "file.cu").write_text(FILE.replace("y[0] = a", "y[0] = -a"))
    assert cubin(tmp_path) == b"cubin 1" and cubin(tmp_path, "two") == b"cubin 4", "only what has changed"
    (tmp_path / "portable.h").write_text("// new")
    assert cubin(tmp_path) == b"cubin 5"
    assert cubin(tmp_path, anew=True) == b"cubin 6" == cubin(tmp_path)
    assert len(list((tmp_path / "cache/cubin").glob("file-*.cubin"))) == 5


def test_a_cache_that_cannot_be_written_to(compiled, tmp_path, monkeypatch):
    monkeypatch.setenv("PROTOCAFFE_CACHE", "/dev/null/cache")
    assert [cubin(tmp_path), cubin(tmp_path)] == [b"cubin 1", b"cubin 2"]


def modules(folder, path=None):
    path = path or folder / "file.cu"

    class Device:
        arch, driver = "sm_90", Driver()

    signatures = parse([path]).kernels
    made = Modules(Device, folder / "portable.h", False)
    return Device.driver, lambda name, wide=False: made.function(path, signatures[name], {}, wide, True)


def test_kernels_compile_side_by_side_and_are_loaded_when_launched(compiled, tmp_path, monkeypatch):
    both = threading.Barrier(2, timeout=20)
    compile_cubin = cuda_kernels.compile_cubin
    monkeypatch.setattr(cuda_kernels, "compile_cubin", lambda *args: (both.wait(), compile_cubin(*args))[1])
    monkeypatch.setattr(cuda_kernels.os, "cpu_count", lambda: 2)
    cuda_kernels._compilers.cache_clear()
    try:
        driver, kernel = modules(tmp_path)
        one, two = kernel("one"), kernel("two")
        assert kernel("one") is one and kernel("one", wide=True) is not one and driver.loaded == []
        two.launch((7, 1), (128, 1, 1), "stream", 5, 0, 1.5)
        one.launch((7, 1), (512, 1, 1), "stream", 5, 0)
        assert driver.launched == [((7, 1), (128, 1, 1), "stream", 5, 0, 1.5), ((7, 1), (192, 1, 1), "stream", 5, 0)]
        two.launch((1, 1), (32, 1, 1), "stream", 5, 0, 1.5)
        assert len(driver.loaded) == 2 and driver.formats == ["q", "P"]
        kernel("two", wide=True).load()
    finally:
        cuda_kernels._compilers.cache_clear()


def test_what_does_not_compile_is_an_error_when_it_is_launched(compiled, tmp_path):
    (tmp_path / "file.cu").write_text(FILE.replace("y[0] = a", "y[0] = bad"))
    _, kernel = modules(tmp_path)
    two = kernel("two")
    for _ in range(2):
        with pytest.raises(KernelError, match=r"kernels of file\.cu do not compile: bad"):
            two.launch((7, 1), (128, 1, 1), "stream", 5, 0, 1.5)


def test_a_users_file_is_compiled_once_as_it_is(compiled, tmp_path):
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "file.cu").write_text(FILE)
    driver, kernel = modules(tmp_path, tmp_path / "own" / "file.cu")
    kernel("one").load()
    kernel("two").load()
    assert [source for source, _ in compiled] == [FILE] and driver.loaded == [b"cubin 1"]


def test_a_damaged_cache_is_made_anew(compiled, tmp_path):
    driver, kernel = modules(tmp_path)
    kernel("one").load()
    for path in (tmp_path / "cache/cubin").iterdir():
        path.write_bytes(b"")
    driver, kernel = modules(tmp_path)
    kernel("one").load()
    assert driver.loaded[-1] == b"cubin 2"
    assert cubin(tmp_path, "one", *compiled[-1][1]) == b"cubin 2"
