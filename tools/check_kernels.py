"""Check that every kernel compiles: C++ compiler (float, double), and for the GPU nvcc and NVRTC (sm_90) where present.

    python tools/check_kernels.py [--arch sm_90] [kernels/activation.cu ...]

No GPU and no package is needed. Warnings are errors. A compiler that is missing is said aloud; it is no failure, except
that of the C++ compiler, without which nothing can be built.
"""

from __future__ import annotations

import argparse
import ctypes
import ctypes.util
import glob
import importlib.util
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).resolve().parent.parent
KERNELS = ROOT / "kernels"
PRECISIONS = {"float": [], "double": ["-DREAL_DOUBLE"], "bf16 storage": ["-DSTORE_BF16"]}
# The loop macros are for both compilers: what one of them leaves unused is no mistake of a kernel.
STRICT = ["-fsyntax-only", "-Werror", "-Wno-unused-parameter"]
# lambdas that are templates count as host code otherwise
NVRTC = ["--std=c++17", "--device-as-default-execution-space"]
Check = Callable[[Path, list[str]], str | None]


def run(command: list[str]) -> str | None:
    """Run a compiler; return None, or what it said when it failed."""
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    return None if done.returncode == 0 else done.stdout.strip()


def load_build() -> ModuleType:
    """protocaffe/backends/build.py by its path: the compiler and flags that the package is built with."""
    spec = importlib.util.spec_from_file_location("_protocaffe_build", ROOT / "protocaffe/backends/build.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def cpu_check(compiler: str, flags: list[str]) -> Check:
    def check(path: Path, defines: list[str]) -> str | None:
        return run([*compiler.split(), *flags, *STRICT, *defines, f"-I{KERNELS}", "-x", "c++", str(path)])

    return check


def nvcc_check(nvcc: str, arch: str) -> Check:
    flags = [f"-arch={arch}", "-std=c++17", "-cubin", "-Werror", "all-warnings", "-o", os.devnull]

    def check(path: Path, defines: list[str]) -> str | None:
        return run([nvcc, *flags, *defines, f"-I{KERNELS}", "-x", "cu", str(path)])

    return check


def find_nvrtc() -> ctypes.CDLL | None:
    """Load libnvrtc from the system, a CUDA toolkit or an NVIDIA wheel of the running Python."""
    names = [ctypes.util.find_library("nvrtc") or "libnvrtc.so"]
    for pattern in (
        "/usr/local/cuda*/lib64/libnvrtc.so*",
        "/usr/local/cuda*/targets/*/lib/libnvrtc.so*",
        *(f"{folder}/nvidia/*/lib/libnvrtc.so*" for folder in sys.path if folder),
    ):
        names += sorted(glob.glob(pattern))
    for name in names:
        try:
            # the compiler looks for this file of its own by its bare name only
            for builtins in glob.glob(f"{os.path.dirname(name)}/libnvrtc-builtins.so*") if "/" in name else ():
                ctypes.CDLL(builtins)
            return ctypes.CDLL(name)
        except OSError:
            continue
    return None


def nvrtc_check(library: ctypes.CDLL, arch: str) -> Check:
    header = (KERNELS / "portable.h").read_bytes()

    def check(path: Path, defines: list[str]) -> str | None:
        program = ctypes.c_void_p()
        sources, names = (ctypes.c_char_p * 1)(header), (ctypes.c_char_p * 1)(b"portable.h")
        library.nvrtcCreateProgram(ctypes.byref(program), path.read_bytes(), path.name.encode(), 1, sources, names)
        options = [f"--gpu-architecture={arch}", *NVRTC, *defines]
        array = (ctypes.c_char_p * len(options))(*(option.encode() for option in options))
        status = library.nvrtcCompileProgram(program, len(options), array)
        size = ctypes.c_size_t()
        library.nvrtcGetProgramLogSize(program, ctypes.byref(size))
        log = ctypes.create_string_buffer(max(size.value, 1))
        library.nvrtcGetProgramLog(program, log)
        library.nvrtcDestroyProgram(ctypes.byref(program))
        return None if status == 0 else log.value.decode(errors="replace").strip()

    return check


def check_all(title: str, check: Check, files: list[Path], precisions: list[str]) -> bool:
    """Compile every file in every precision; print one summary line, or what failed."""
    start = time.perf_counter()
    work = [(path, precision) for path in files for precision in precisions]
    with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
        results = list(pool.map(lambda item: check(item[0], PRECISIONS[item[1]]), work))
    failed = [(path, precision, text) for (path, precision), text in zip(work, results, strict=True) if text]
    for path, precision, text in failed:
        print(f"{title}: {path.relative_to(ROOT)} ({precision}) does not compile:\n{text}\n")
    seconds = time.perf_counter() - start
    print(f"{title}: {len(work) - len(failed)} of {len(work)} compile ({', '.join(precisions)}; {seconds:.1f} s)")
    return not failed


def main() -> int:
    parser = argparse.ArgumentParser(description="Check that every kernel compiles.")
    parser.add_argument("files", nargs="*", type=Path, help="kernel sources (all of them by default)")
    parser.add_argument("--arch", default="sm_90", help="GPU architecture (sm_90)")
    options = parser.parse_args()
    portable = sorted(KERNELS.glob("*.cu"))
    core = sorted((KERNELS / "cpu").glob("*.cpp"))
    if options.files:
        given = [path.resolve() for path in options.files]
        portable, core = [p for p in given if p.suffix == ".cu"], [p for p in given if p.suffix != ".cu"]

    build = load_build()
    try:
        compiler = build.compiler()
    except build.BuildError as error:
        print(f"kernels: {error}")
        return 1
    check = cpu_check(compiler, list(build.FLAGS))
    good = check_all(compiler, check, portable, list(PRECISIONS))
    good &= not core or check_all(f"{compiler} (CPU core)", check, core, ["float", "double"])
    nvcc = shutil.which("nvcc")
    if nvcc:
        good &= check_all(f"nvcc {options.arch}", nvcc_check(nvcc, options.arch), portable, ["float", "double"])
    else:
        print("nvcc: SKIPPED, no nvcc on PATH: the kernels were not compiled for the GPU with it")
    nvrtc = find_nvrtc()
    if nvrtc is not None:
        arch = options.arch.replace("sm_", "compute_")
        good &= check_all(f"NVRTC {options.arch}", nvrtc_check(nvrtc, arch), portable, ["float", "double"])
    else:
        print("NVRTC: SKIPPED, no libnvrtc found: the kernels were not compiled for the GPU with it")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
