"""One thread that prepares batches ahead of the net."""

from __future__ import annotations

import threading
import time
import weakref
from collections import deque
from collections.abc import Sequence
from typing import Protocol

import numpy as np

from ..errors import DataError

WATCH_SECONDS = 1.0
JOIN_SECONDS = 5.0
CHEAP_SECONDS = 0.5e-3
CHEAP_BATCHES = 8


class Producer(Protocol):
    """What the thread calls, and nothing but what it calls; never by two threads at once."""

    def produce(self, position: int, arrays: Sequence[np.ndarray]) -> None:
        """Write the batch that begins at ``position`` into ``arrays``."""

    @property
    def settled(self) -> bool:
        """True when batches will cost no more than they do now (all data is in memory)."""


class _State:
    """What the thread and its owner share. The thread holds no reference to the owner, so that one may be collected."""

    def __init__(self, producer: Producer, slots: list[list[np.ndarray]], step: int, settle: bool) -> None:
        self.producer = producer
        self.settle = settle
        self.step = step
        self.change = threading.Condition()
        self.free = deque(slots)
        self.ready: deque[list[np.ndarray]] = deque()
        self.low = (len(slots) - 1) // 2
        self.generation = 0
        self.next_position = 0
        self.error: BaseException | None = None
        self.stop = False
        self.inline = False


def _work(state: _State) -> None:
    cheap = 0  # batches in a row that cost less than handing them over
    while True:
        with state.change:
            if cheap >= CHEAP_BATCHES and not state.error:
                state.inline = True
                state.change.notify_all()
                return
            if not state.free or state.error:
                # Woken only when the queue has run low: fewer switches of threads for the same batches.
                state.change.wait_for(
                    lambda: state.stop or (state.free and not state.error and len(state.ready) <= state.low)
                )
            if state.stop:
                return
            slot, generation, position = state.free.popleft(), state.generation, state.next_position
            state.next_position += state.step
        error: BaseException | None = None
        start = time.thread_time()
        try:
            state.producer.produce(position, slot)
        except BaseException as raised:
            error = raised
        cost = time.thread_time() - start
        cheap = cheap + 1 if state.settle and state.producer.settled and cost < CHEAP_SECONDS else 0
        with state.change:
            if error is None and generation == state.generation:
                state.ready.append(slot)
            else:
                state.free.append(slot)
                if generation == state.generation:
                    state.error = error
            state.change.notify_all()


def _end(state: _State, threads: list[threading.Thread]) -> None:
    with state.change:
        state.stop = True
        state.change.notify_all()
    for thread in threads:
        if thread is not threading.current_thread():
            thread.join(JOIN_SECONDS)


class Prefetcher:
    """Batches of ``producer`` in order of position, ``depth`` of them prepared ahead by a daemon thread.

    An error while preparing is raised by `take`, as DataError, when the batch it belongs to is due. The thread starts
    with the first `take` and ends with `close`, when the prefetcher is collected, or at the interpreter's exit.

    With ``depth`` 0 each batch is prepared when it is taken, without a thread. The same comes about once the producer
    has settled and a batch costs less than CHEAP_SECONDS: handing it from thread to thread would cost more.

    Parameters
    ----------
    producer : writes the batches
    shapes : shapes of the arrays of a batch (float32)
    step : positions a batch takes
    slots : the arrays to prepare batches in, where somebody needs these very arrays (`acquire`); they then stay with
        the thread, however cheap batches are
    """

    def __init__(
        self,
        producer: Producer,
        shapes: Sequence[tuple[int, ...]],
        step: int,
        depth: int = 4,
        slots: list[list[np.ndarray]] | None = None,
    ) -> None:
        own = slots or [[np.zeros(shape, np.float32) for shape in shapes] for _ in range(depth + 1)]
        self.position = 0
        self._state = _State(producer, own, step, slots is None)
        self._state.inline = depth == 0
        self._threads: list[threading.Thread] = []
        self._finalizer = weakref.finalize(self, _end, self._state, self._threads)

    @property
    def inline(self) -> bool:
        """True when batches are prepared by whoever takes them."""
        return self._state.inline and not self._state.ready

    def take(self, targets: Sequence[np.ndarray]) -> None:
        """Write the next batch into ``targets``, arrays of its shapes."""
        state = self._state
        if self.inline:
            self._take_inline(targets)
            return
        slot = self._next_ready()
        if slot is None:
            self._take_inline(targets)
            return
        self.position += state.step
        try:
            _copy(slot, targets)
        finally:
            self.release(slot)

    def acquire(self, wait: bool = True) -> list[np.ndarray] | None:
        """The next batch, in the arrays it was prepared in, which are the caller's until `release`.

        Without ``wait``: None where it is not ready.
        """
        state = self._state
        if self.inline:
            if not wait:
                return None
            slot = state.free.popleft()
            try:
                self._produce(slot)
            except BaseException:
                state.free.append(slot)
                raise
            return slot
        found = self._next_ready(wait)
        if found is not None:
            self.position += state.step
        return found

    def release(self, slot: list[np.ndarray]) -> None:
        """Give the arrays of a batch back."""
        state = self._state
        with state.change:
            state.free.append(slot)
            if len(state.ready) <= state.low:
                state.change.notify_all()

    def _take_inline(self, targets: Sequence[np.ndarray]) -> None:
        direct = all(target.dtype == np.float32 for target in targets)
        arrays = targets if direct else self._state.free[0]
        self._produce(arrays)
        if not direct:
            _copy(arrays, targets)

    def _produce(self, arrays: Sequence[np.ndarray]) -> None:
        """Prepare the next batch here and now."""
        if self._state.stop:
            raise DataError("the data source was closed")
        try:
            self._state.producer.produce(self.position, arrays)
        except Exception as error:
            raise _as_data_error(error) from error
        self.position += self._state.step

    def _next_ready(self, wait: bool = True) -> list[np.ndarray] | None:
        """The next batch of the thread, or None when there will be no more of them, or without ``wait`` none now."""
        state = self._state
        if not self._threads:
            self._start()
        with state.change:
            while not state.ready:
                if not wait:
                    return None
                if state.error is not None:
                    raise _as_data_error(state.error) from state.error
                if state.stop:
                    raise DataError("the data source was closed")
                if state.inline:
                    return None
                if not state.change.wait(WATCH_SECONDS) and not self._threads[0].is_alive() and not state.inline:
                    raise DataError("the prefetching thread is gone (it does not survive a fork of the process)")
            return state.ready.popleft()

    def _start(self) -> None:
        thread = threading.Thread(target=_work, args=(self._state,), name="protocaffe-prefetch", daemon=True)
        self._threads.append(thread)
        thread.start()

    def seek(self, position: int) -> None:
        """Go on with the batch that begins at ``position``; whatever was prepared is dropped, errors too."""
        state = self._state
        with state.change:
            state.generation += 1
            state.next_position = self.position = position
            state.error = None
            state.free.extend(state.ready)
            state.ready.clear()
            state.change.notify_all()

    def close(self) -> None:
        """End the thread."""
        self._finalizer()


def _copy(arrays: Sequence[np.ndarray], targets: Sequence[np.ndarray]) -> None:
    for array, target in zip(arrays, targets, strict=True):
        np.copyto(target, array, casting="same_kind")


def _as_data_error(error: BaseException) -> DataError:
    text = str(error) if isinstance(error, DataError) else f"{type(error).__name__} while preparing a batch: {error}"
    return DataError(text)
