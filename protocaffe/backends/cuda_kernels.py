"""Kernels for the GPU: each is compiled by itself by NVRTC when it is first needed, and cached on disk.

The cache (PROTOCAFFE_CACHE, default ~/.cache/protocaffe) is keyed by source, options, architecture and compiler.
Kernels compile in other threads while their net is recorded; the first launch of each waits for its own.
"""

from __future__ import annotations

import hashlib
import os
import re
import tempfile
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any

from ..errors import KernelError
from . import build
from .manifest import Signature
from .nvrtc import compile_cubin, compiler_version

_SHAPE = re.compile(r"\bSHAPE\((\w+),")
_KERNEL = re.compile(r"^KERNEL\s+(\w+)\s*\(", re.MULTILINE)
_NO_CODE = re.compile(r'//[^\n]*|/\*.*?\*/|"(?:\\.|[^"\\\n])*"', re.DOTALL)
_FORMATS = {"long": "q", "int": "i", "u32": "I", "u64": "Q"}


def only(source: str, kernel: str) -> str:
    """A file with the other kernels left out, which leaves less to compile; its lines keep their numbers.

    >>> only("KERNEL a(long n) { { } }\\nint f();\\nKERNEL b(long n) {\\n}\\n", "a")
    'KERNEL a(long n) { { } }\\nint f();\\n\\n\\n'
    """
    code = _NO_CODE.sub(lambda text: re.sub(r"[^\n]", " ", text[0]), source)
    out, at = [], 0
    for match in _KERNEL.finditer(code):
        if match[1] == kernel or match.start() < at:
            continue
        depth = 0
        for brace in re.finditer(r"[{}]", code[match.end() :]):
            depth += 1 if brace[0] == "{" else -1
            if depth == 0:
                end = match.end() + brace.end()
                out += [source[at : match.start()], "\n" * source.count("\n", match.start(), end)]
                at = end
                break
    return "".join(out) + source[at:]


def cached_cubin(path: Path, kernel: str, header: Path, options: Sequence[str], anew: bool = False) -> bytes:
    """The machine code of one kernel of a file, from the cache where it is there (unless it shall be made ``anew``)."""
    whole, portable = path.read_text(encoding="utf-8"), header.read_bytes()
    source = only(whole, kernel).encode()
    digest = hashlib.sha256(b"\0".join([source, portable, *(o.encode() for o in options), compiler_version()]))
    cached = build.cache_folder() / "cubin" / f"{kernel}-{digest.hexdigest()[:20]}.cubin"
    if not anew:
        try:
            return cached.read_bytes()
        except OSError:
            pass
    try:
        cubin = compile_cubin(source, path.name, portable, options)
    except KernelError:
        cubin = compile_cubin(whole.encode(), path.name, portable, options)  # it may need what was left out
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


@cache
def _compilers() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(min(16, os.cpu_count() or 1), "nvrtc")


class Kernel:
    """A kernel with its options, compiled in another thread."""

    def __init__(
        self, driver: Any, name: str, path: Path, header: Path, options: Sequence[str], formats: Sequence[str]
    ) -> None:
        self._driver = driver
        self._name = name
        self._path, self._header, self._options = path, header, options
        self._formats = formats
        self._function: Any = None
        self._threads = 0
        self._cubin: Future[bytes] = _compilers().submit(self._compile)

    def _compile(self, anew: bool = False) -> bytes:
        return cached_cubin(self._path, self._name, self._header, self._options, anew)

    def load(self) -> Any:
        """The function, when it is there. Raises KernelError where it does not compile."""
        if self._function is None:
            try:
                module = self._driver.module_from_buffer(self._cubin.result())
            except self._driver.Error:  # the cache may be damaged
                module = self._driver.module_from_buffer(self._compile(anew=True))
            function = module.get_function(self._name)
            function.prepare(self._formats)
            most = function.get_attribute(self._driver.function_attribute.MAX_THREADS_PER_BLOCK)
            self._function, self._threads = function, int(most) // 32 * 32
        return self._function

    def launch(self, grid: tuple[int, int], block: tuple[int, int, int], stream: Any, *args: Any) -> None:
        """Launch it; in smaller blocks where its registers allow no such large ones."""
        function = self._function or self.load()
        if block[0] > self._threads:
            block = (self._threads, 1, 1)
        function.prepared_async_call(grid, block, stream, *args)


class Modules:
    """The compiled kernels of one precision on one device."""

    def __init__(self, device: Any, header: Path, double: bool) -> None:
        self._device = device
        self._header = header
        self._real = "d" if double else "f"
        # NVRTC 13.0 takes a generic lambda in a kernel for a function of the host unless told otherwise
        self._options = [f"--gpu-architecture={device.arch}", "--std=c++17", "--device-as-default-execution-space"]
        self._options += ["-DREAL_DOUBLE"] * double
        self._kernels: dict[tuple[str, tuple[str, ...]], Kernel] = {}
        self._shaped: dict[Path, list[str]] = {}

    def function(
        self, path: Path, signature: Signature, structs: dict[str, tuple[int, ...]], wide: bool, shaped: bool
    ) -> Kernel:
        """The kernel, for arguments of these kinds.

        ``wide``: with 64-bit indices; ``shaped``: with the values of its structs as constants, which turns divisions
        into multiplications and unrolls loops over windows.
        """
        more = ("-DINDEX64",) * wide + (self._shapes(path, structs) if shaped else ())
        key = (signature.name, more)
        if key not in self._kernels:
            formats = [self._format(p, structs) for p in signature.parameters]
            options = [*self._options, *more]
            driver = self._device.driver
            self._kernels[key] = Kernel(driver, signature.name, path, self._header, options, formats)
        return self._kernels[key]

    def _shapes(self, path: Path, structs: dict[str, tuple[int, ...]]) -> tuple[str, ...]:
        """Options that give SHAPE (portable.h) its values."""
        if path not in self._shaped:
            self._shaped[path] = sorted(set(_SHAPE.findall(path.read_text(encoding="utf-8"))))
        types = self._shaped[path]
        if not set(types) & set(structs):
            return ()
        given = {
            t: f"constexpr {t} s={{{','.join(map(str, structs[t]))}}}" if t in structs else f"const {t} s=argument"
            for t in types
        }
        return ("-DSHAPED", *(f"-DSHAPE_{t}(s,argument)={text}" for t, text in given.items()))

    def _format(self, parameter: Any, structs: dict[str, tuple[int, ...]]) -> str:
        """The parameter in the letters of Python's struct module; ints of structs are aligned by themselves."""
        if parameter.pointer:
            return "P"
        if parameter.type == "real":
            return self._real
        return _FORMATS.get(parameter.type) or f"{4 * len(structs[parameter.type])}s"
