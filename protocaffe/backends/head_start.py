"""A head start: the driver makes a GPU ready in a thread of its own while Python imports what a command needs."""

from __future__ import annotations

import ctypes
from threading import Thread


def head_start(number: int) -> Thread:
    """Begin to open GPU ``number``. What goes wrong is left to be said by who uses the GPU."""
    thread = Thread(target=_open, args=(number,), name="gpu")  # no daemon: an exit must not cut the driver short
    thread.start()
    return thread


def _open(number: int) -> None:
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return
    device, context = ctypes.c_int(), ctypes.c_void_p()
    if driver.cuInit(0) == 0 and driver.cuDeviceGet(ctypes.byref(device), number) == 0:
        driver.cuDevicePrimaryCtxRetain(ctypes.byref(context), device)  # the one that PyCUDA will find
