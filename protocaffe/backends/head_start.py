"""A head start for the GPU: a thread opens its driver and context while Python imports what a command needs.

The two take a quarter of a second, in which Python has as much to do. The thread calls the driver itself, holds one
reference to the context that PyCUDA then finds made, and says nothing: what is wrong the same steps of cuda_device.py
tell again.
"""

from __future__ import annotations

import atexit
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

#: seconds that the end of Python waits for a driver that is still at it: most need far less, one that is wedged all
_PATIENCE = 2.0
#: digits of the largest number that the driver takes, and what is too large for it
_DIGITS, _TOO_LARGE = 10, 1 << 31

_started: _Start | None = None


class _Start(Thread):
    """A daemon, which Python does not wait for when it ends: `_leave` does, for a while."""

    def __init__(self, number: int) -> None:
        super().__init__(name="head start of the GPU", daemon=True)
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
    """Start to open GPU ``number``, unless a GPU was started before in this process, or no GPU has such a number."""
    global _started
    if _started is None and 0 <= number < _TOO_LARGE:
        _started = _Start(number)
        os.environ.update(dict.fromkeys(_started.for_numpy, "1"))
        atexit.register(_leave, _started, _way_out())
        _started.start()


def gpu_number(text: str) -> int:
    """The number that ``text`` is, -1 where it is none or has more digits than the number of a GPU can have.

    >>> gpu_number("3"), gpu_number("all"), gpu_number("9" * 5000)
    (3, -1, -1)
    """
    return int(text) if text.isdecimal() and len(text) <= _DIGITS else -1


def _way_out() -> Callable[[], Any]:
    """What has the process end, with its status, before libraries clean up; looked up while no library is loading."""
    with suppress(Exception):
        c = ctypes.CDLL(None)
        return partial(c.on_exit, c._exit, None)
    return lambda: None  # a C library without on_exit


def _leave(started: _Start, way_out: Callable[[], Any]) -> None:
    """Have Python end without the driver where it is wedged: the thread is in it, so it must not be cleaned up."""
    with suppress(KeyboardInterrupt):
        started.join(_PATIENCE)
    if started.is_alive():
        way_out()


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
