"""A CPU that pretends to be a device with memory of its own: what is missing in a copy between the two shows."""

from __future__ import annotations

from typing import Any

import numpy as np

from protocaffe.backends.copies import Mark
from protocaffe.backends.cpu import CpuBackend
from protocaffe.interop import View
from protocaffe.memory import Memory, Storage


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

    def put(self, memory: Memory, values: np.ndarray) -> None:
        """Host array to device, at once."""
        self._device[memory.storage.device][memory.offset : memory.offset + memory.count] = values.ravel()

    def on_device(self, storage: Storage) -> np.ndarray:
        """The device's array itself, for tests to look at."""
        return self._device[storage.device]


class _LateMark(Mark):
    """Stands behind a copy until it is made."""

    def __init__(self, backend: LateBackend) -> None:
        self.backend = backend

    def reached(self) -> bool:
        """Whether its copy is made."""
        return all(mark is not self for _, _, mark in self.backend.queue)

    def wait(self) -> None:
        """Make it."""
        while not self.reached():
            self.backend.copy_one()


class LateBackend(SplitBackend):
    """Copies beside the work are made as late as they may be: when the work follows them or somebody waits."""

    name = "late"

    def __init__(self, real: Any = np.float32) -> None:
        super().__init__(real)
        self.queue: list[tuple[Memory, np.ndarray, Mark]] = []

    def copy_one(self) -> None:
        """The copy that was sent first."""
        memory, values, _ = self.queue.pop(0)
        self.put(memory, values)

    def mark(self) -> Mark:
        """A mark that copies may have."""
        return _LateMark(self)

    def follow(self, mark: Mark) -> None:
        """Copy what the work needs now, and no more."""
        mark.wait()

    def send(self, memory: Memory, values: np.ndarray, mark: Mark, after: Mark | None = None) -> None:
        """Note the copy."""
        self.queue.append((memory, values, mark))
