"""The order of a shuffled set's items, in a device's memory."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import numpy as np

from .order import Order, permutation

if TYPE_CHECKING:
    from ..backends.base import Backend

#: permutations of fewer items are made when they are due
WORTH_A_THREAD = 4096


class OrderTable:
    """The permutations of the epochs that a batch may touch, int32 in the device's memory: epoch e at e % epochs.

    A thread makes the next one while the device works.
    """

    def __init__(self, backend: Backend, order: Order, batch: int) -> None:
        self.epochs = max(2, (batch + order.size - 2) // order.size + 1)
        self.memory = backend.empty((self.epochs * order.size,), np.int32)
        self._backend, self._order = backend, order
        self._hosts = [backend.pinned((order.size,), np.int32) for _ in range(2)]
        self._copied = [backend.mark() for _ in range(2)]
        self._last = -1  # the last epoch that is there
        self._made: list[int] = []  # the one that the thread has made
        self._thread: threading.Thread | None = None

    def restart(self, order: Order) -> None:
        """Begin again, in the order of ``order``."""
        self._join()
        self._order, self._last = order, -1
        self._made.clear()

    def need(self, position: int, count: int) -> None:
        """Make sure that the order of these positions is there for what the device is given from now on."""
        size = self._order.size
        first = position + self._order.skip
        last = (first + count - 1) // size
        if last <= self._last:
            return
        for epoch in range(max(first // size, self._last + 1), last + 1):
            self._join()
            host = self._hosts[epoch % 2]
            if self._made != [epoch]:
                self._copied[epoch % 2].wait()
                host[...] = permutation(self._order.key, epoch, size)
            self._backend.put(self.memory.at(epoch % self.epochs * size, size), host)
            self._backend.reach(self._copied[epoch % 2])
        self._last = last
        self._begin(last + 1)

    def _begin(self, epoch: int) -> None:
        """Let a thread make the permutation of ``epoch``."""
        if self._order.size < WORTH_A_THREAD:
            return
        self._copied[epoch % 2].wait()
        args = (self._order, epoch, self._hosts[epoch % 2], self._made)
        self._thread = threading.Thread(target=_permute, args=args, name="protocaffe-order", daemon=True)
        self._thread.start()

    def _join(self) -> None:
        if self._thread is not None:
            self._thread.join()
            self._thread = None


def _permute(order: Order, epoch: int, target: np.ndarray, made: list[int]) -> None:
    target[...] = permutation(order.key, epoch, order.size)
    made[:] = [epoch]
