"""Devices. Only this folder may import a device's own bindings."""

from __future__ import annotations

from functools import cache
from typing import Any

from ..errors import BackendError
from .base import Backend

#: set_mode_cpu() was called: the CPU is what the user wants, whatever a solver file says
cpu_chosen = False


@cache
def get_backend(name: str = "cpu", real: Any = "float32") -> Backend:
    """The backend of this name; each is made once.

    Raises BackendError for a device that this installation or machine does not have.
    """
    if name == "cpu":
        from .cpu import CpuBackend

        return CpuBackend(real)
    raise BackendError(f'no backend "{name}": this version of protocaffe computes on the CPU (use --cpu)')
