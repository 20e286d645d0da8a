"""A CPU that pretends to be a device with memory of its own: what is missing in a copy between the two shows."""

from __future__ import annotations

from typing import Any

import numpy as np

from protocaffe.backends.cpu import CpuBackend
from protocaffe.memory import Storage


class SplitBackend(CpuBackend):
    """Kernels work on device arrays, Python on host arrays; ``copies`` notes each copy as ("up" or "down", storage)."""

    name = "split"
    unified = False

    def __init__(self, real: Any = np.float32) -> None:
        super().__init__(real)
        self._device: dict[int, np.ndarray] = {}
        self.copies: list[tuple[str, Storage]] = []

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
        """Device to a new host array."""
        self.copies.append(("down", storage))
        return self._device[storage.device].copy()

    def on_device(self, storage: Storage) -> np.ndarray:
        """The device's array itself, for tests to look at."""
        return self._device[storage.device]
