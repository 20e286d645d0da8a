"""Kernels for the GPU: each is compiled by NVRTC when it is first needed, without its file's others, and cached.

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

from . import build
from .manifest import Signature
from .nvrtc import compile_cubin, compiler_version

_SHAPE = re.compile(r"\bSHAPE\((\w+),")
#: lambdas that are templates count as host code otherwise
_OPTIONS = ("--std=c++17", "--device-as-default-execution-space")
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


def cached_cubin(path: Path, text: str, header: Path, options: Sequence[str], anew: bool = False) -> bytes:
    """Machine code of ``text``, which is in ``path``: from the cache if it is there, unless it shall be made anew."""
    source, portable = text.encode(), header.read_bytes()
    digest = hashlib.sha256(b"\0".join([source, portable, *(o.encode() for o in options), compiler_version()]))
    cached = build.cache_folder() / "cubin" / f"{path.stem}-{digest.hexdigest()[:20]}.cubin"
    if not anew:
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


@cache
def _compilers() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(min(16, os.cpu_count() or 1), "nvrtc")


class Module:
    """What is compiled and loaded at once, by a thread of its own and when it is first needed."""

    def __init__(self, driver: Any, path: Path, text: str, header: Path, options: Sequence[str]) -> None:
        self._driver = driver
        self._source = path, text, header, options
        self._module: Any = None
        self._cubin: Future[bytes] = _compilers().submit(cached_cubin, *self._source)

    def load(self) -> Any:
        """The driver's module. Raises KernelError where it does not compile."""
        if self._module is None:
            try:
                self._module = self._driver.module_from_buffer(self._cubin.result())
            except self._driver.Error:  # the cache may be damaged
                self._module = self._driver.module_from_buffer(cached_cubin(*self._source, anew=True))
        return self._module


class Kernel:
    """A kernel of a module, which is loaded when the kernel is first launched."""

    def __init__(self, driver: Any, module: Module, name: str, formats: Sequence[str]) -> None:
        self._driver = driver
        self._module, self._name, self._formats = module, name, formats
        self._function: Any = None
        self._threads = 0

    def load(self) -> Any:
        """The function, prepared for its arguments. Raises KernelError where it does not compile."""
        if self._function is None:
            function = self._module.load().get_function(self._name)
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
        self._modules: dict[tuple[Path, str, tuple[str, ...]], Module] = {}
        self._kernels: dict[tuple[str, tuple[str, ...]], Kernel] = {}
        self._texts: dict[tuple[Path, str], str] = {}

    def function(
        self, path: Path, signature: Signature, structs: dict[str, tuple[int, ...]], wide: bool, shaped: bool
    ) -> Kernel:
        """The kernel, for arguments of these kinds.

        ``wide``: with 64-bit indices; ``shaped``: with the values of its structs as constants, which turns divisions
        into multiplications and unrolls loops over windows.
        """
        text = self._text(path, signature.name)
        more = ("-DINDEX64",) * wide + (_shapes(text, structs) if shaped else ())
        key = (signature.name, more)
        if key not in self._kernels:
            driver, place = self._device.driver, (path, text, more)
            if place not in self._modules:
                self._modules[place] = Module(driver, path, text, self._header, [*self._options, *more])
            formats = [self._format(p, structs) for p in signature.parameters]
            self._kernels[key] = Kernel(driver, self._modules[place], signature.name, formats)
        return self._kernels[key]

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
