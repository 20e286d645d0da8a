#!/usr/bin/env python3
"""Run tests with the CPU's kernels compiled for AddressSanitizer and UndefinedBehaviorSanitizer.

    python tools/sanitize.py [--isa v4|v3|base] [pytest arguments]

Without names of tests those of layers, kernels and the CPU's core run. The libraries go to protocaffe/_build/sanitized
(PROTOCAFFE_SANITIZE in backends/build.py). Blobs get memory of exactly their size, so that one element past the end is
seen. A finding does not end the run: all are printed at the end, and the exit code is 1 if there are any. Leaks are
not looked for: the interpreter has many of its own.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import re
import subprocess
import sys
import tempfile
import weakref
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TESTS = """tests/layers --ignore=tests/layers/test_data_layers.py tests/backends tests/test_kernels.py
    tests/test_check_layer.py tests/test_elementwise_kernels.py tests/test_update_kernels.py
    tests/test_any_parameter.py""".split()


def pytest_configure(config) -> None:
    """As a plugin of pytest (in the child): exact memory for blobs."""
    import numpy as np

    from protocaffe.backends.cpu import CpuBackend

    libc = ctypes.CDLL(None)
    libc.free.argtypes = [ctypes.c_void_p]

    def zeros(self, size, dtype):
        count = size * dtype.itemsize
        address = ctypes.c_void_p()
        if libc.posix_memalign(ctypes.byref(address), 64, ctypes.c_size_t(count)):
            raise MemoryError(count)
        owner = (ctypes.c_char * count).from_address(address.value)
        ctypes.memset(address, 0, count)
        weakref.finalize(owner, libc.free, address.value)
        return address.value, np.frombuffer(owner, dtype) if count else np.empty(0, dtype)

    CpuBackend._zeros = zeros


def runtime(name: str) -> str:
    """The path of the compiler's libasan.so or the like."""
    found = subprocess.run(
        [os.environ.get("CXX", "g++"), f"-print-file-name={name}"], capture_output=True, text=True, check=True
    ).stdout.strip()
    if not os.path.isabs(found):
        sys.exit(f"the compiler has no {name}")
    return found


def main() -> int:
    """Run pytest in a child process, print what the sanitizers found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--isa", help="instruction-set level of the float kernels (default: this machine's best)")
    args, more = parser.parse_known_args()
    tests = [] if any(not arg.startswith("-") for arg in more) else TESTS
    with tempfile.TemporaryDirectory(prefix="protocaffe-sanitize-") as folder:
        log = f"log_path={folder}/log"
        env = os.environ | {
            "PROTOCAFFE_SANITIZE": "address,undefined,float-cast-overflow",
            "LD_PRELOAD": runtime("libasan.so"),
            "ASAN_OPTIONS": f"detect_leaks=0:halt_on_error=0:allocator_may_return_null=1:{log}",
            "UBSAN_OPTIONS": f"print_stacktrace=1:{log}",
        }
        if args.isa:
            env["PROTOCAFFE_ISA"] = args.isa
        command = [sys.executable, "-m", "pytest", "-q", "-p", "tools.sanitize", "-p", "no:cacheprovider"]
        code = subprocess.run([*command, *tests, *more], cwd=ROOT, env=env).returncode
        found = "".join(path.read_text(errors="replace") for path in sorted(Path(folder).iterdir()))
    count = len(re.findall(r"ERROR: AddressSanitizer|runtime error:", found))
    print(found, end="")
    print(f"sanitizers (address, undefined): {count} findings")
    return 1 if found or code else 0


if __name__ == "__main__":
    sys.exit(main())
