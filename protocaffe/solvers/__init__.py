"""Update rules, one file each; importing a file registers its solver."""

from __future__ import annotations

import importlib
import pkgutil
from typing import Any


def load_all() -> None:
    """Import every rule of this folder."""
    for module in pkgutil.iter_modules(__path__):
        importlib.import_module(f"{__name__}.{module.name}")


def __getattr__(name: str) -> Any:
    if name.endswith("Solver"):
        load_all()
        from ..solver import _registry

        found = _registry.get(name.removesuffix("Solver"))
        if found is not None:
            return found
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
