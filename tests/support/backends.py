"""The backends that this machine has."""

from __future__ import annotations

import os
from functools import cache
from typing import Any

import pytest

from protocaffe.backends import get_backend
from protocaffe.errors import BackendError

#: for tests of what only the CPU has, or of what holds only without a GPU
cpu_only = pytest.mark.skipif(os.environ.get("PROTOCAFFE_TEST_DEVICE") == "gpu", reason="the tests run on a GPU")
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
