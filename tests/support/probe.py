"""Kernels that show what portable.h computes (support/kernels/probe.cu), and calls of single kernels on arrays."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from protocaffe.backends.cpu import CpuBackend

KERNELS = Path(__file__).resolve().parent / "kernels"


def load(real: str) -> CpuBackend:
    """A CPU backend of its own with the probe kernels."""
    backend = CpuBackend(real)
    backend.load_kernels(KERNELS / "probe.cu")
    return backend


def memory(backend: Any, values: Any, dtype: Any = None) -> Any:
    """The values on the device, in the backend's type if they are floats and none is given."""
    array = np.asarray(values)
    return backend.from_array(array, dtype or (backend.real if array.dtype.kind == "f" else array.dtype))


def elementwise(backend: Any, kernel: str, x: Any, *more: Any, dtype: Any = None) -> np.ndarray:
    """``kernel(n, x, y, *more)``: y."""
    source = memory(backend, x)
    out = backend.empty(source.shape, dtype or backend.real)
    backend.run(kernel, source.count, source, out, *more)
    return out.array
