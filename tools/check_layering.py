"""Lint: only protocaffe/backends may import PyCUDA or an NVIDIA binding, and no layer, net or command names a device.

Prints one line for each import that breaks the rule and exits with 1 if there was one.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
DEVICE_PACKAGES = {"pycuda", "cuda", "nvmath", "cudnn", "nccl", "cupy", "nvidia"}


def imports(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Yield (line, module) for every absolute import, importlib.import_module("...") and __import__("...") included."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            yield node.lineno, node.module
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if name in ("import_module", "__import__") and isinstance(node.args[0].value, str):
                yield node.lineno, node.args[0].value


def violations(package: Path) -> list[str]:
    """Return "file:line: ..." for every import of a device binding outside ``package``/backends."""
    found = []
    for path in sorted(package.rglob("*.py")):
        if path.is_relative_to(package / "backends"):
            continue
        for line, module in imports(ast.parse(path.read_text(encoding="utf-8"), str(path))):
            if module.split(".")[0] in DEVICE_PACKAGES:
                found.append(f"{path}:{line}: imports {module}: only protocaffe/backends may name a device")
    return found


def main() -> int:
    found = violations(ROOT / "protocaffe")
    print("\n".join(found) if found else "layering: only protocaffe/backends imports device bindings")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
