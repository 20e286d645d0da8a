"""The kernels' signatures, read from their sources, so that a wrong call is an error and not garbage."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

SCALARS = ("long", "int", "u32", "u64", "real")
POINTEES = ("store", "real", "int", "u8", "u64")

_KERNEL = re.compile(r"\bKERNEL\s+(\w+)\s*\(([^)]*)\)")
_STRUCT = re.compile(r"\bstruct\s+(\w+)\s*\{([^}]*)\}\s*;")
_FIELD = re.compile(r"(\w+)(?:\[(\d+)\])?$")
_COMMENT = re.compile(r"//[^\n]*")


@dataclass(frozen=True)
class Parameter:
    """One kernel parameter: a scalar or struct type name, or with ``pointer`` the type pointed to."""

    name: str
    type: str
    pointer: bool
    const: bool

    def __str__(self) -> str:
        return f"{'const ' if self.const else ''}{self.type}{'*' if self.pointer else ''} {self.name}"


@dataclass(frozen=True)
class Struct:
    """A struct of ints: field names with their lengths (None for a plain int)."""

    name: str
    fields: tuple[tuple[str, int | None], ...]


@dataclass(frozen=True)
class Signature:
    """A kernel, where it stands, and what it takes."""

    name: str
    parameters: tuple[Parameter, ...]
    source: str

    def __str__(self) -> str:
        return f"{self.name}({', '.join(str(p) for p in self.parameters)})"


@dataclass
class Manifest:
    """All kernels and structs of a set of sources."""

    kernels: dict[str, Signature]
    structs: dict[str, Struct]


def _parameter(text: str, structs: dict[str, Struct], where: str) -> Parameter:
    words = text.replace("*", " * ").split()
    const = words[0] == "const"
    words = words[1:] if const else words
    pointer = "*" in words
    kind, name = words[0], words[-1]
    if pointer and kind not in POINTEES or not pointer and kind not in SCALARS and kind not in structs:
        raise ValueError(f'{where}: parameter "{text.strip()}" has a type that kernels cannot take')
    return Parameter(name, kind, pointer, const)


def _struct(name: str, body: str) -> Struct | None:
    fields: list[tuple[str, int | None]] = []
    for statement in filter(None, (s.strip() for s in body.split(";"))):
        if not statement.startswith("int "):
            return None
        for declared in statement[4:].split(","):
            match = _FIELD.match(declared.strip())
            if match is None:
                return None
            fields.append((match[1], int(match[2]) if match[2] else None))
    return Struct(name, tuple(fields))


def parse(paths: list[Path]) -> Manifest:
    """Read every ``KERNEL name(...)`` and every struct of ints. Raises ValueError for a type kernels cannot take."""
    manifest = Manifest({}, {})
    texts = [(path, _COMMENT.sub("", path.read_text(encoding="utf-8"))) for path in paths]
    for _, text in texts:
        for name, body in _STRUCT.findall(text):
            struct = _struct(name, body)
            if struct is not None:
                manifest.structs[name] = struct
    for path, text in texts:
        for name, arguments in _KERNEL.findall(text):
            if name in manifest.kernels:
                raise ValueError(f"{path.name}: kernel {name} is already defined in {manifest.kernels[name].source}")
            where = f"{path.name}: {name}"
            parameters = tuple(_parameter(a, manifest.structs, where) for a in arguments.split(","))
            manifest.kernels[name] = Signature(name, parameters, path.name)
    return manifest
