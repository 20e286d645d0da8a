"""The backends that this machine has."""

from __future__ import annotations

from typing import Any

from protocaffe.backends import get_backend

NAMES = {"cpu": (), "cpu-float64": ("float64",)}
CHECK_BUILD = "cpu-float64"


def backend(name: str) -> Any:
    """``cpu`` (float32) or ``cpu-float64`` (the check build)."""
    return get_backend(name.split("-")[0], *NAMES[name])


def present() -> list[str]:
    """Names of all backends to test on."""
    return list(NAMES)
