"""The backends that this machine has."""

from __future__ import annotations

import os
from functools import cache
from typing import Any

import numpy as np
import pytest

from protocaffe.backends import get_backend
from protocaffe.errors import BackendError

CHECK_BUILDS = ("cpu-float64", "cuda-float64")
#: whether what names no device computes on a GPU
ON_GPU = os.environ.get("PROTOCAFFE_TEST_DEVICE") == "gpu"
#: for tests of what only the CPU has, or of what holds only without a GPU
cpu_only = pytest.mark.skipif(ON_GPU, reason="the tests run on a GPU")


def assert_alike(got: Any, wanted: Any, err_msg: str = "") -> None:
    """Bit for bit; on a GPU, whose longer chains of layers add in another order, to rounding."""
    if ON_GPU:
        size = max(1.0, float(np.abs(wanted).max(initial=0)))
        np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-6 * size, err_msg=err_msg)
    else:
        np.testing.assert_array_equal(got, wanted, err_msg=err_msg)


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
