"""Copies beside the GPU's work: pinned arrays, a stream of their own, and events that order the two streams."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property, partial
from typing import Any

import numpy as np

from ..memory import Memory
from .copies import Copies, Mark
from .cuda_blas import address

_NON_BLOCKING = 1  # CU_STREAM_NON_BLOCKING


class CudaMark(Mark):
    """An event. What holds it may be collected in any thread, so destroying it is left to `Device.collect`."""

    __slots__ = ("_trash", "event")

    def __init__(self, driver: Any, trash: list[Callable[[], Any]]) -> None:
        self.event = driver.Event(driver.event_flags.DISABLE_TIMING)
        self._trash = trash

    def reached(self) -> bool:
        """Whether the GPU has come to it."""
        return bool(self.event.query())

    def wait(self) -> None:
        """Let the host wait for the GPU."""
        self.event.synchronize()

    def __del__(self) -> None:
        self._trash.append([self.event].clear)


class _Pinned:
    """Page-locked memory, freed by `Device.collect` when the last array on it is gone."""

    def __init__(self, array: np.ndarray, trash: list[Callable[[], Any]]) -> None:
        self.__array_interface__ = array.__array_interface__
        self._base, self._trash = array.base, trash

    def __del__(self) -> None:
        self._trash.append(partial(_free, self._base))


def _free(allocation: Any) -> None:
    allocation.free()


class CudaCopies(Copies):
    """The part of the GPU backend that feeds the GPU while it works."""

    device: Any

    @cached_property
    def _copies(self) -> Any:
        return self.device.driver.Stream(_NON_BLOCKING)

    def pinned(self, shape: Sequence[int], dtype: Any) -> np.ndarray:
        """A zeroed page-locked array."""
        self.device.collect()
        array = self.device.driver.pagelocked_zeros(tuple(shape), np.dtype(dtype))
        return np.asarray(_Pinned(array, self.device.trash))

    def mark(self) -> CudaMark:
        """A new event."""
        return CudaMark(self.device.driver, self.device.trash)

    def reach(self, mark: Any) -> None:
        """Record the event behind the stream's work."""
        mark.event.record(self.device.stream)

    def follow(self, mark: Any) -> None:
        """Let the stream wait for the event."""
        self.device.stream.wait_for_event(mark.event)

    def send(self, memory: Memory, values: np.ndarray, mark: Any, after: Any = None) -> None:
        """Copy on the stream for copies."""
        if after is not None:
            self._copies.wait_for_event(after.event)
        self.device.driver.memcpy_htod_async(address(memory), values, self._copies)
        mark.event.record(self._copies)

    def put(self, memory: Memory, values: np.ndarray) -> None:
        """Copy on the stream on which everything runs."""
        self.device.driver.memcpy_htod_async(address(memory), values, self.device.stream)

    def free_memory(self) -> int:
        """What the driver says."""
        self.device.collect()
        return int(self.device.driver.mem_get_info()[0])
