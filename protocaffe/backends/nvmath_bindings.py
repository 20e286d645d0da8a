"""``nvmath.bindings.cublas`` and the like without the rest of nvmath, whose import would take most of a start."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from types import ModuleType

_PACKAGES = ("nvmath", "nvmath.bindings")


def nvmath_binding(name: str) -> ModuleType:
    """The module ``nvmath.bindings.<name>``; a later ``import nvmath`` of anybody's is whole and has the same module.

    Raises ImportError where it is missing. Its packages' own code, which imports all of nvmath's parts, is not run.
    """
    full = f"nvmath.bindings.{name}"
    if _PACKAGES[0] in sys.modules or full in sys.modules:
        return importlib.import_module(full) if _PACKAGES[0] in sys.modules else sys.modules[full]
    try:
        for package in _PACKAGES:
            spec = importlib.util.find_spec(package)
            if spec is None:
                raise ModuleNotFoundError(f"No module named {package!r}", name=package)
            sys.modules[package] = importlib.util.module_from_spec(spec)
        return importlib.import_module(full)
    finally:
        for package in _PACKAGES:
            sys.modules.pop(package, None)
