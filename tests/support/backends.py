"""The backends that this machine has."""

from __future__ import annotations

from functools import cache
from typing import Any

from protocaffe.backends import get_backend
from protocaffe.errors import BackendError

CHECK_BUILDS = ("cpu-float64", "cuda-float64")


def backend(name: str) -> Any:
    """``cpu`` or ``cuda`` (float32), ``cpu-float64`` or ``cuda-float64`` (the check builds)."""
    return get_backend(*name.split("-"))


@cache
def has_gpu() -> bool:
    """Whether there is a GPU to test on."""
    try:
        get_backend("cuda")
    except BackendError:
        return False
    return True


@cache
def present() -> list[str]:
    """Names of all backends to test on."""
    return ["cpu", "cpu-float64", *(["cuda", "cuda-float64"] if has_gpu() else [])]
