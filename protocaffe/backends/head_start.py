"""A head start for the GPU: a thread opens its driver and context while Python imports what a command needs.

The two take a quarter of a second, in which Python has as much to do. The thread calls the driver itself, holds one
reference to the context that PyCUDA then finds made, and says nothing: what is wrong the same steps of cuda_device.py
tell again.
"""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from threading import Thread
from typing import Any

_LIBRARY = "libcuda.so.1"
#: set by NumPy while it is imported, unless they are there: none may come or go while the driver reads the environment
_NUMPYS = ("OPENBLAS_MAIN_FREE", "GOTOBLAS_MAIN_FREE")

_started: _Start | None = None


class _Start(Thread):
    """No daemon: Python does not end while the driver is in the midst of its work."""

    def __init__(self, number: int) -> None:
        super().__init__(name="head start of the GPU")
        self.number = number
        self.release: Callable[[], Any] | None = None
        self.for_numpy = [] if "numpy" in sys.modules else [name for name in _NUMPYS if name not in os.environ]

    def run(self) -> None:
        with suppress(Exception):
            cuda, device, context = ctypes.CDLL(_LIBRARY), ctypes.c_int(), ctypes.c_void_p()
            release = partial(cuda.cuDevicePrimaryCtxRelease_v2, device)
            if cuda.cuInit(0) or cuda.cuDeviceGet(ctypes.byref(device), ctypes.c_int(self.number)):
                return
            if not cuda.cuDevicePrimaryCtxRetain(ctypes.byref(context), device):
                self.release = release


def begin(number: int) -> None:
    """Start to open GPU ``number``, unless a GPU was started before in this process."""
    global _started
    if _started is None:
        _started = _Start(number)
        os.environ.update(dict.fromkeys(_started.for_numpy, "1"))
        _started.start()


def under_way() -> bool:
    """Whether the thread is still at it."""
    return _started is not None and _started.is_alive()


def wait() -> None:
    """Have the driver to oneself, opened or not."""
    if _started is not None:
        _started.join()
        while _started.for_numpy:
            os.environ.pop(_started.for_numpy.pop(), None)


def end() -> None:
    """Give back the reference to the context, of which the caller holds one by now."""
    wait()
    if _started is not None and _started.release is not None:
        _started.release()
        _started.release = None
