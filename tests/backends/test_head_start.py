"""The GPU's driver opened ahead of time: a library that plays it, drivers that fail, and none at all."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
import threading
import time
from types import SimpleNamespace

import pytest

from protocaffe.backends import build, cuda_blas, cuda_device, get_backend, head_start
from protocaffe.backends.cuda import CudaBackend
from protocaffe.cli.common import wanted_backend
from protocaffe.errors import BackendError
from tests.support.backends import cpu_only

#: what each call gives back can be set; cuInit waits while `closed`, but not for ever; references to the context are
#: counted, and calls noted: i, d, r (retain), f (free). It is `closed` from the start where there is a variable WEDGED,
#: and does not bear to be cleaned up in the midst of cuInit
DRIVER = r"""
#include <stdlib.h>
#include <unistd.h>
extern "C" {
volatile int closed = getenv("WEDGED") != 0, busy = 0;
int init_gives = 0, retain_gives = 0, gpus = 1, references = 0, calls = 0;
char notes[64];
int note(char what) { notes[calls++] = what; return 0; }
int cuInit(unsigned flags) {
  note('i');
  busy = 1;
  for (int k = 0; closed && k < 10000; k++) usleep(1000);
  busy = 0;
  return flags ? 1 : init_gives;
}
int cuDeviceGet(int* device, int number) {
  note('d');
  *device = number + 40;
  return number < 0 || number >= gpus ? 101 : 0;
}
int cuDevicePrimaryCtxRetain(void** context, int device) {
  note('r');
  if (retain_gives || device != 40) return 2;
  references++;
  *context = &references;
  return 0;
}
int cuDevicePrimaryCtxRelease_v2(int device) { note('f'); return device == 40 && references-- > 0 ? 0 : 201; }
__attribute__((destructor)) void clean_up() { if (busy) abort(); }
}
"""


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    """A file that plays libcuda.so.1."""
    folder = tmp_path_factory.mktemp("driver")
    (folder / "driver.cpp").write_text(DRIVER)
    path = folder / "libcuda.so.1"
    command = [build.compiler(), "-shared", "-fPIC", "-o", str(path), str(folder / "driver.cpp")]
    subprocess.run(command, check=True)
    return path


@pytest.fixture
def driver(library, tmp_path, monkeypatch):
    """The library, loaded anew."""
    path = tmp_path / "libcuda.so.1"
    path.write_bytes(library.read_bytes())
    monkeypatch.setattr(head_start, "_LIBRARY", str(path))
    monkeypatch.setattr(head_start, "_started", None)
    loaded = ctypes.CDLL(str(path))

    def value(name):
        return ctypes.c_int.in_dll(loaded, name)

    yield SimpleNamespace(value=value, notes=lambda: (ctypes.c_char * 64).in_dll(loaded, "notes").value.decode())
    if head_start._started is not None:
        head_start._started.join()


def test_the_context_is_there_and_one_reference_is_given_back(driver):
    head_start.begin(0)
    head_start.wait()
    assert driver.notes() == "idr" and driver.value("references").value == 1
    head_start.begin(0)  # a second one is none
    head_start.end()
    head_start.end()
    assert driver.notes() == "idrf" and driver.value("references").value == 0


def test_python_goes_on_meanwhile(driver):
    driver.value("closed").value = 1
    head_start.begin(0)
    assert head_start.under_way() and driver.value("references").value == 0
    driver.value("closed").value = 0
    head_start.wait()
    assert not head_start.under_way() and driver.value("references").value == 1


@pytest.mark.parametrize(
    ("gives", "number", "notes"),
    [({"init_gives": 999}, 0, "i"), ({"gpus": 0}, 0, "id"), ({}, 1, "id"), ({"retain_gives": 2}, 0, "idr"),
     ({}, 1 << 31, ""), ({}, 1 << 32, "")],
    ids=["no cuInit", "no GPU", "no such GPU", "no context", "a negative int of C", "0 as an int of C"],
)  # fmt: skip
def test_a_driver_that_fails_is_left_at_that(driver, gives, number, notes, capfd):
    for name, value in gives.items():
        driver.value(name).value = value
    head_start.begin(number)
    head_start.end()
    assert driver.notes() == notes and driver.value("references").value == 0
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("text", [None, "no library", "int nothing;"], ids=["missing", "damaged", "another"])
def test_a_library_that_is_none(driver, text, tmp_path, monkeypatch, capfd):
    path = tmp_path / "other.so"
    if text is not None and text.startswith("int"):
        (tmp_path / "other.cpp").write_text(text)
        subprocess.run([build.compiler(), "-shared", "-fPIC", "-o", path, tmp_path / "other.cpp"], check=True)
    elif text is not None:
        path.write_text(text)
    monkeypatch.setattr(head_start, "_LIBRARY", str(path))
    monkeypatch.setattr(threading, "excepthook", lambda args: pytest.fail(str(args)))
    head_start.begin(0)
    head_start.end()
    assert driver.notes() == "" and capfd.readouterr() == ("", "")


def test_nothing_was_begun(monkeypatch):
    monkeypatch.setattr(head_start, "_started", None)
    head_start.wait()
    head_start.end()
    assert not head_start.under_way()


# -------------------------------------------------------------------------------------------------------- the device
class Played:
    """PyCUDA on the library: it must have the driver to itself."""

    class Error(Exception):
        pass

    device_attribute = SimpleNamespace(MULTIPROCESSOR_COUNT=0)

    def __init__(self, driver):
        self.driver, self.Device, self.seen = driver, self._device, []
        self._device.count = lambda: driver.value("gpus").value

    def init(self):
        assert not head_start.under_way()
        if self.driver.value("init_gives").value:
            raise self.Error("cuInit failed: not yet")

    def Stream(self, flags):
        return object()

    class _device:
        def __init__(self, number):
            self.number = number

        def compute_capability(self):
            return 9, 0

        def get_attribute(self, which):
            return 132


@pytest.fixture
def pycuda(driver, monkeypatch):
    """`cuda_device.driver` gets a PyCUDA that looks at the played driver when the context is retained."""
    played = Played(driver)

    def retain(self):
        played.seen.append(driver.value("references").value)
        return SimpleNamespace(push=lambda: None, pop=lambda: None)

    monkeypatch.setattr(Played._device, "retain_primary_context", retain, raising=False)
    package = SimpleNamespace(driver=played)
    monkeypatch.setitem(sys.modules, "pycuda", package)
    monkeypatch.setitem(sys.modules, "pycuda.driver", played)
    return played


@cpu_only
def test_the_device_finds_the_context_made_and_holds_the_only_reference(driver, pycuda):
    head_start.begin(0)
    device = cuda_device.Device(0)
    assert (device.arch, device.processors) == ("sm_90", 132)
    assert pycuda.seen == [1] and driver.value("references").value == 0 and driver.notes() == "idrf"


@cpu_only
@pytest.mark.parametrize("begun", [True, False])
@pytest.mark.parametrize(
    ("gives", "number", "message"),
    [
        ({"init_gives": 3}, 0, "no GPU can be used here: cuInit failed: not yet; compute on the CPU with --cpu"),
        ({"gpus": 0}, 0, "no GPU can be used here: the driver finds none; compute on the CPU with --cpu"),
        ({"gpus": 2}, 5, "there is no GPU 5: this machine has 2 (0 to 1)"),
    ],
)
def test_errors_are_the_same_with_and_without(driver, pycuda, begun, gives, number, message, capfd):
    for name, value in gives.items():
        driver.value(name).value = value
    if begun:
        head_start.begin(number)
    with pytest.raises(BackendError) as error:
        cuda_device.Device(number)
    assert str(error.value) == message and capfd.readouterr() == ("", "")
    assert driver.value("references").value == 0 and pycuda.seen == []


@cpu_only
@pytest.mark.parametrize("broken", [False, True])
def test_libraries_are_loaded_meanwhile_and_what_is_wrong_with_them_comes_after_the_driver(
    driver, pycuda, monkeypatch, broken
):
    loaded = []

    def load():
        assert head_start.under_way()
        loaded.append(True)
        driver.value("closed").value = 0
        if broken:
            raise RuntimeError("CUDA driver is not found")

    monkeypatch.setattr(cuda_blas, "load", load)
    monkeypatch.setattr(cuda_device, "_opened", None)
    driver.value("closed").value, driver.value("gpus").value = 1, 0
    head_start.begin(0)
    with pytest.raises(BackendError, match="no GPU can be used here: the driver finds none"):
        CudaBackend()
    with pytest.raises(BackendError, match="no GPU can be used here: the driver finds none"):
        CudaBackend()
    assert loaded == [True]


# ---------------------------------------------------------------------------------------------------------- the command
def protocaffe(*args, **environment):
    command = [sys.executable, "-m", "protocaffe", *args]
    return subprocess.run(command, capture_output=True, text=True, env=os.environ | environment, timeout=60)


@cpu_only
def test_the_command_says_what_it_said_whatever_the_driver_does(library, tmp_path):
    """Without PyCUDA, or without what PyCUDA needs: one line, with a driver that loads and with none."""
    code = "raise ImportError('libcuda.so.1: cannot open shared object file')"
    (tmp_path / "pycuda").mkdir()
    (tmp_path / "pycuda" / "__init__.py").write_text(code)
    said = []
    for folder in ("", str(library.parent)):
        got = protocaffe("summary", "--model", "models/lenet/deploy.prototxt", "--gpu", "0", LD_LIBRARY_PATH=folder,
                         PYTHONPATH=str(tmp_path))  # fmt: skip
        assert got.returncode == 1 and got.stdout == ""
        said.append(got.stderr)
    missing = "PyCUDA or the NVIDIA driver is missing (libcuda.so.1: cannot open shared object file)"
    advice = 'install "protocaffe[cuda]" and a driver, or compute on the CPU with --cpu'
    assert said == [f"error: --gpu 0: no GPU can be used here: {missing}; {advice}\n"] * 2


@cpu_only
@pytest.mark.parametrize("command", [(sys.executable, "-m", "protocaffe"), None], ids=["command", "script"])
def test_a_wedged_driver_keeps_no_command_that_has_said_its_error(library, command):
    """Nor is it cleaned up, which would crash; what was printed comes out, with the status that it ended with."""
    script = (
        "import sys; from protocaffe.backends import head_start; head_start.begin(0); sys.stdout.write('done');"
        "assert head_start.under_way(); sys.exit(3)"
    )
    if command:
        args, expected = (*command, "train", "--solver", "none.prototxt", "--gpu", "0"), (1, "")
    else:
        args, expected = (sys.executable, "-c", script), (3, "done")
    environment = os.environ | {"LD_LIBRARY_PATH": str(library.parent), "WEDGED": "1"}
    begun = time.monotonic()
    got = subprocess.run(args, capture_output=True, text=True, env=environment, timeout=60)
    took = time.monotonic() - begun
    assert (got.returncode, got.stdout) == expected
    assert got.stderr == ("error: none.prototxt: No such file or directory\n" if command else "")
    assert head_start._PATIENCE <= took < 9, "cuInit takes 10 s"


@cpu_only
@pytest.mark.parametrize(
    ("gpu", "message"),
    [
        ("9" * 5000, "--gpu must be the id of one GPU, got a number of 5000 digits"),
        ("4294967296", "--gpu 4294967296: there is no GPU 4294967296: this machine has 1 (0 to 0)"),
    ],
)
def test_numbers_that_no_gpu_has(driver, pycuda, gpu, message):
    with pytest.raises(BackendError) as error:
        wanted_backend(False, gpu)
    assert str(error.value) == message and driver.notes() == "" and head_start._started is None
    with pytest.raises(BackendError):
        get_backend(f"cuda:{gpu}")


BEGUN = """
import os, sys
from protocaffe.backends import head_start
seen = []
head_start.begin = lambda number: seen.append((number, "numpy" in sys.modules))
from protocaffe.cli import main
try:
    main(sys.argv[1:])
except SystemExit:
    pass
print("begun:", seen)
"""


@pytest.mark.parametrize(
    ("args", "begun"),
    [
        (["summary", "--gpu", "3", "--model", "none.prototxt"], [(3, False)]),
        (["summary", "-gpu=3", "-model", "none.prototxt"], [(3, False)]),
        (["summary", "--gpu", "3", "--cpu", "--model", "none.prototxt"], []),
        (["summary", "--gpu", "0,1", "--model", "none.prototxt"], []),
        (["summary", "--gpu", "\u00b2", "--model", "none.prototxt"], []),
        (["summary", "--gpu", "9" * 5000, "--model", "none.prototxt"], []),
        (["summary", "--model", "none.prototxt"], []),
        (["summary", "--gpu", "3", "--model", "none.prototxt", "--nonsense"], []),
        (["summary", "--gpu", "3", "--help"], []),
        (["device_query", "--gpu", "0"], []),
    ],
)
def test_who_asks_for_a_gpu_has_it_begun_before_numpy_is_there(args, begun):
    command = [sys.executable, "-c", BEGUN, *args]
    got = subprocess.run(command, capture_output=True, text=True, timeout=60)
    first = eval(got.stdout.rsplit("begun: ", 1)[1])[: max(1, len(begun))]  # `get_backend` asks for it, too
    assert first == begun, got.stderr


def test_numpy_finds_the_environment_as_it_needs_it(library):
    """It sets a variable for its import, which the driver in the thread must not see coming and going."""
    code = (
        "import os; from protocaffe.backends import head_start; os.environ['OPENBLAS_MAIN_FREE'] = '0'\n"
        "head_start.begin(0); before = dict(os.environ); import numpy; assert dict(os.environ) == before\n"
        "assert os.environ['OPENBLAS_MAIN_FREE'] == '0' and os.environ['GOTOBLAS_MAIN_FREE'] == '1'\n"
        "head_start.wait(); assert os.environ['OPENBLAS_MAIN_FREE'] == '0'\n"
        "assert 'GOTOBLAS_MAIN_FREE' not in os.environ"
    )
    environment = os.environ | {"LD_LIBRARY_PATH": str(library.parent)}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment, timeout=60)
