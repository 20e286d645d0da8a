"""Kernels for the GPU: each is compiled by NVRTC when it is first needed, without its file's others, and cached.

The cache (PROTOCAFFE_CACHE, default ~/.cache/protocaffe) is keyed by source, options, architecture and compiler.
"""

from __future__ import annotations

import hashlib
import os
import re
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..errors import KernelError
from . import build
from .manifest import Signature

_SHAPE = re.compile(r"\bSHAPE\((\w+),")
#: lambdas that are templates count as host code otherwise
_OPTIONS = ("--std=c++17", "--device-as-default-execution-space")
_KERNEL = re.compile(r"\bKERNEL\s+(\w+)\s*\(")
_COMMENT = re.compile(r"//[^\n]*")
_FORMATS = {"long": "q", "int": "i", "u32": "I", "u64": "Q"}


def compile_cubin(source: bytes, name: str, header: bytes, options: Sequence[str]) -> bytes:
    """Machine code of ``source``, which may include portable.h. Raises KernelError with the compiler's words."""
    try:
        from cuda.bindings import nvrtc
    except ImportError as error:
        raise KernelError(
            f'kernels for the GPU need the package cuda-bindings ({error}): pip install "protocaffe[cuda]"'
        ) from error

    def done(result: tuple[Any, ...], what: str) -> Any:
        if result[0] != nvrtc.nvrtcResult.NVRTC_SUCCESS:
            raise KernelError(f"kernels of {name}: NVRTC: {what}: {result[0].name}")
        return result[1] if len(result) > 1 else None

    program = done(nvrtc.nvrtcCreateProgram(source, name.encode(), 1, [header], [b"portable.h"]), "create")
    try:
        encoded = [option.encode() for option in options]
        (status,) = nvrtc.nvrtcCompileProgram(program, len(encoded), encoded)
        if status != nvrtc.nvrtcResult.NVRTC_SUCCESS:
            log = b" " * done(nvrtc.nvrtcGetProgramLogSize(program), "log")
            nvrtc.nvrtcGetProgramLog(program, log)
            raise KernelError(f"kernels of {name} do not compile: {log.decode(errors='replace').strip()[:4000]}")
        cubin = b" " * done(nvrtc.nvrtcGetCUBINSize(program), "size")
        done(nvrtc.nvrtcGetCUBIN(program, cubin), "cubin")
        return cubin
    finally:
        nvrtc.nvrtcDestroyProgram(program)


def only(text: str, name: str) -> str:
    """A source without its comments and its kernels but ``name``.

    >>> only("int f(); KERNEL a(long n) { FOR_EACH(i, n) { f(); } } KERNEL b(long n) {} // KERNEL c", "b")
    'int f();  KERNEL b(long n) {} '
    """
    text = _COMMENT.sub("", text)
    out, at = [], 0
    for kernel in _KERNEL.finditer(text):
        if kernel[1] == name:
            continue
        out.append(text[at : kernel.start()])
        depth, at = 1, text.index("{", kernel.end()) + 1
        while depth:
            depth += (text[at] == "{") - (text[at] == "}")
            at += 1
    return "".join(out) + text[at:]


def cached_cubin(path: Path, text: str, header: Path, options: Sequence[str]) -> bytes:
    """`compile_cubin` of ``text``, which is in ``path``, from the cache where it is there."""
    source, portable = text.encode(), header.read_bytes()
    digest = hashlib.sha256(b"\0".join([source, portable, *(o.encode() for o in options), _compiler()]))
    cached = build.cache_folder() / "cubin" / f"{path.stem}-{digest.hexdigest()[:20]}.cubin"
    try:
        return cached.read_bytes()
    except OSError:
        pass
    cubin = compile_cubin(source, path.name, portable, options)
    try:
        cached.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=cached.parent, delete=False) as partial:
            partial.write(cubin)
            partial.flush()
            os.fsync(partial.fileno())
        os.replace(partial.name, cached)
    except OSError:
        pass  # a cache that cannot be written to costs time, nothing else
    return cubin


def _compiler() -> bytes:
    try:
        from cuda.bindings import nvrtc

        return repr(nvrtc.nvrtcVersion()[1:]).encode()
    except ImportError:
        return b""


def _shapes(text: str, structs: dict[str, tuple[int, ...]]) -> tuple[str, ...]:
    """Options that give SHAPE (portable.h) its values."""
    types = sorted(set(_SHAPE.findall(text)))
    if not set(types) & set(structs):
        return ()
    given = {
        t: f"constexpr {t} s={{{','.join(map(str, structs[t]))}}}" if t in structs else f"const {t} s=argument"
        for t in types
    }
    return ("-DSHAPED", *(f"-DSHAPE_{t}(s,argument)={value}" for t, value in given.items()))


class Modules:
    """The compiled kernels of one precision on one device."""

    def __init__(self, device: Any, header: Path, double: bool) -> None:
        self._device = device
        self._header = header
        self._real = "d" if double else "f"
        self._options = [f"--gpu-architecture={device.arch}", *_OPTIONS] + ["-DREAL_DOUBLE"] * double
        self._modules: dict[tuple[Path, str, tuple[str, ...]], Any] = {}
        self._functions: dict[tuple[str, tuple[str, ...]], Any] = {}
        self._texts: dict[tuple[Path, str], str] = {}

    def function(
        self, path: Path, signature: Signature, structs: dict[str, tuple[int, ...]], wide: bool, shaped: bool
    ) -> Any:
        """The kernel, prepared for its arguments.

        ``wide``: with 64-bit indices; ``shaped``: with the values of its structs as constants, which turns divisions
        into multiplications and unrolls loops over windows.
        """
        text = self._text(path, signature.name)
        more = ("-DINDEX64",) * wide + (_shapes(text, structs) if shaped else ())
        key = (signature.name, more)
        if key not in self._functions:
            module = self._modules.get((path, text, more))
            if module is None:
                cubin = cached_cubin(path, text, self._header, [*self._options, *more])
                module = self._modules[path, text, more] = self._device.driver.module_from_buffer(cubin)
            function = module.get_function(signature.name)
            function.prepare([self._format(p, structs) for p in signature.parameters])
            self._functions[key] = function
        return self._functions[key]

    def threads(self, function: Any) -> int:
        """The most threads of a block that its registers allow, in whole warps."""
        most = function.get_attribute(self._device.driver.function_attribute.MAX_THREADS_PER_BLOCK)
        return int(most) // 32 * 32

    def _text(self, path: Path, kernel: str) -> str:
        """What to compile: of the package's own files the one kernel, a user's file as it is."""
        own = path.parent == self._header.parent
        key = (path, kernel if own else "")
        if key not in self._texts:
            text = path.read_text(encoding="utf-8")
            self._texts[key] = only(text, kernel) if own else text
        return self._texts[key]

    def _format(self, parameter: Any, structs: dict[str, tuple[int, ...]]) -> str:
        """The parameter in the letters of Python's struct module; ints of structs are aligned by themselves."""
        if parameter.pointer:
            return "P"
        if parameter.type == "real":
            return self._real
        return _FORMATS.get(parameter.type) or f"{4 * len(structs[parameter.type])}s"
