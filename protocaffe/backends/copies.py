"""The verbs that feed a device beside its work, as they are where host and device share memory.

A device with memory of its own gives them a meaning of its own.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..memory import Memory


class Mark:
    """A point in what a device was given to do. One that does everything at once has always reached it."""

    def reached(self) -> bool:
        """Whether all that comes before it is done."""
        return True

    def wait(self) -> None:
        """Let the host wait until it is reached."""


class Copies:
    """The part of Backend that copies."""

    def pinned(self, shape: Sequence[int], dtype: Any) -> np.ndarray:
        """A zeroed host array from which the device copies by itself."""
        return np.zeros(shape, dtype)

    def mark(self) -> Mark:
        """A new mark; it counts as reached until it stands somewhere (`reach`, `send`)."""
        return Mark()

    def reach(self, mark: Mark) -> None:
        """Let ``mark`` stand behind all that the device was given so far."""

    def follow(self, mark: Mark) -> None:
        """Let what the device is given from now on begin when ``mark`` is reached."""

    def send(self, memory: Memory, values: np.ndarray, mark: Mark, after: Mark | None = None) -> None:
        """Copy ``values`` beside the device's other work, once ``after`` is reached; ``mark`` then stands behind it.

        ``values`` must not change before that. Copies are made in the order in which they are sent.
        """
        self.put(memory, values)

    def put(self, memory: Memory, values: np.ndarray) -> None:
        """Copy ``values`` in order with what the device was given; pinned ones must not change before it is done."""
        memory.array[...] = values.reshape(memory.shape)

    def free_memory(self) -> int:
        """Bytes of the device's memory that are free."""
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES")
