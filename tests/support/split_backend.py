"""A CPU that pretends to be a device with memory of its own: what is missing in a copy between the two shows."""

from __future__ import annotations

from typing import Any

import numpy as np

from protocaffe.backends.cpu import CpuBackend
from protocaffe.interop import View
from protocaffe.memory import Storage


class _Holder:
    """What NumPy keeps as the base of an array on ``values``."""

    def __init__(self, values: np.ndarray, view: View) -> None:
        self.view = view
        self.__array_interface__ = values.__array_interface__


class SplitBackend(CpuBackend):
    """Kernels work on device arrays, Python on host arrays; ``copies`` notes each copy as ("up" or "down", storage)."""

    name = "split"
    unified = False

    def __init__(self, real: Any = np.float32) -> None:
        super().__init__(real)
        self._device: dict[int, np.ndarray] = {}
        self.copies: list[tuple[str, Storage]] = []
        #: when it was told to wait for other tools, and to let them wait
        self.order: list[str] = []

    def allocate(self, size: int, dtype: np.dtype) -> tuple[Any, None]:
        """Zeroed device memory, and no host copy yet."""
        handle, array = super().allocate(size, dtype)
        self._device[handle] = array
        return handle, None

    def upload(self, storage: Storage) -> None:
        """Host to device."""
        assert storage._host is not None
        self._device[storage.device][...] = storage._host
        self.copies.append(("up", storage))

    def download(self, storage: Storage) -> np.ndarray:
        """Device to the host array, of which Python may hold views."""
        self.copies.append(("down", storage))
        values = np.empty(storage.size, storage.dtype) if storage._host is None else storage._host
        values[...] = self._device[storage.device]
        return values

    def device_array(self, view: View) -> np.ndarray:
        """The device's own values, in an array that holds ``view``."""
        view.lend()
        memory = view.memory
        piece = self._device[memory.storage.device][memory.offset : memory.offset + memory.count]
        return np.asarray(_Holder(piece.reshape(memory.shape), view))

    def wait_for_others(self) -> None:
        self.order.append("wait")

    def let_others_wait(self) -> None:
        self.order.append("let wait")

    def on_device(self, storage: Storage) -> np.ndarray:
        """The device's array itself, for tests to look at."""
        return self._device[storage.device]
