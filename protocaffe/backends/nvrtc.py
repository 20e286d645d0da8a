"""NVRTC, NVIDIA's compiler as a library, through ctypes: meanwhile other threads can run, and compile."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from ..errors import KernelError


@cache
def _library() -> Any:
    try:
        from cuda.pathfinder import load_nvidia_dynamic_lib
    except ImportError as error:
        raise KernelError(
            f'kernels for the GPU need the package cuda-bindings ({error}): pip install "protocaffe[cuda]"'
        ) from error
    try:
        path = Path(load_nvidia_dynamic_lib("nvrtc").abs_path)
        for part in path.parent.glob("libnvrtc-builtins.so.*"):  # which NVRTC looks for by name, not beside itself
            ctypes.CDLL(str(part))
        return ctypes.CDLL(str(path))
    except (RuntimeError, OSError) as error:
        raise KernelError(
            f'kernels for the GPU need NVRTC, which is not found ({error}): pip install "protocaffe[cuda]"'
        ) from error


def _do(name: str, *arguments: Any) -> int:
    function = getattr(_library(), name)
    function.restype = ctypes.c_int
    return int(function(*arguments))


def _check(status: int, source: str) -> None:
    if status:
        describe = _library().nvrtcGetErrorString
        describe.restype = ctypes.c_char_p
        raise KernelError(f"kernels of {source}: NVRTC: {describe(status).decode()}")


@cache
def compiler_version() -> bytes:
    """The compiler's version, as part of what a result depends on."""
    major, minor = ctypes.c_int(), ctypes.c_int()
    _check(_do("nvrtcVersion", ctypes.byref(major), ctypes.byref(minor)), "any file")
    return b"%d.%d" % (major.value, minor.value)


def _text(program: Any, size: str, get: str, source: str) -> bytes:
    length = ctypes.c_size_t()
    _check(_do(size, program, ctypes.byref(length)), source)
    out = ctypes.create_string_buffer(length.value)
    _check(_do(get, program, out), source)
    return out.raw


def compile_cubin(source: bytes, name: str, header: bytes, options: Sequence[str]) -> bytes:
    """Machine code of ``source``, which may include portable.h. Raises KernelError with the compiler's words."""
    program = ctypes.c_void_p()
    texts, names = (ctypes.c_char_p * 1)(header), (ctypes.c_char_p * 1)(b"portable.h")
    _check(_do("nvrtcCreateProgram", ctypes.byref(program), source, name.encode(), 1, texts, names), name)
    try:
        given = (ctypes.c_char_p * len(options))(*(option.encode() for option in options))
        if _do("nvrtcCompileProgram", program, len(options), given):
            log = _text(program, "nvrtcGetProgramLogSize", "nvrtcGetProgramLog", name).rstrip(b"\0")
            raise KernelError(f"kernels of {name} do not compile: {log.decode(errors='replace').strip()[:4000]}")
        return _text(program, "nvrtcGetCUBINSize", "nvrtcGetCUBIN", name)
    finally:
        _do("nvrtcDestroyProgram", ctypes.byref(program))
