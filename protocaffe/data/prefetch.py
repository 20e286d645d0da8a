"""One thread that prepares batches ahead of the net."""

from __future__ import annotations

import threading
import weakref
from collections import deque
from collections.abc import Callable, Sequence

import numpy as np

from ..errors import DataError

Produce = Callable[[int, Sequence[np.ndarray]], None]
"""``produce(position, arrays)`` writes the batch that begins at ``position`` into ``arrays``."""

WATCH_SECONDS = 1.0
JOIN_SECONDS = 5.0


class _State:
    """What the thread and its owner share. The thread holds no reference to the owner, so that one may be collected."""

    def __init__(self, produce: Produce, slots: list[list[np.ndarray]], step: int) -> None:
        self.produce = produce
        self.step = step
        self.change = threading.Condition()
        self.free = deque(slots)
        self.ready: deque[list[np.ndarray]] = deque()
        self.low = (len(slots) - 1) // 2
        self.generation = 0
        self.next_position = 0
        self.error: BaseException | None = None
        self.stop = False


def _work(state: _State) -> None:
    while True:
        with state.change:
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
        try:
            state.produce(position, slot)
        except BaseException as raised:
            error = raised
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
    """Batches from ``produce`` in order of position, ``depth`` of them prepared ahead by a daemon thread.

    ``depth`` 0 prepares each batch when it is taken, without a thread. An error while preparing is raised by `take`, as
    DataError, when the batch it belongs to is due. The thread starts with the first `take` and ends with `close`, when
    the prefetcher is collected, or at the interpreter's exit.

    Parameters
    ----------
    produce : writes one batch
    shapes : shapes of the arrays of a batch (float32)
    step : positions a batch takes
    """

    def __init__(self, produce: Produce, shapes: Sequence[tuple[int, ...]], step: int, depth: int = 4) -> None:
        slots = [[np.zeros(shape, np.float32) for shape in shapes] for _ in range(depth + 1)]
        self.position = 0
        self._depth = depth
        self._state = _State(produce, slots, step)
        self._threads: list[threading.Thread] = []
        self._finalizer = weakref.finalize(self, _end, self._state, self._threads)

    def take(self, consume: Callable[[Sequence[np.ndarray]], None]) -> None:
        """Call ``consume`` with the next batch, whose arrays are good during that call only."""
        slot = self._next_inline() if self._depth == 0 else self._next_ready()
        self.position += self._state.step
        try:
            consume(slot)
        finally:
            if self._depth:
                with self._state.change:
                    self._state.free.append(slot)
                    if len(self._state.ready) <= self._state.low:
                        self._state.change.notify_all()

    def _next_inline(self) -> list[np.ndarray]:
        slot = self._state.free[0]
        try:
            self._state.produce(self.position, slot)
        except Exception as error:
            raise _as_data_error(error) from error
        return slot

    def _next_ready(self) -> list[np.ndarray]:
        state = self._state
        if not self._threads:
            self._start()
        with state.change:
            while not state.ready:
                if state.error is not None:
                    raise _as_data_error(state.error) from state.error
                if state.stop:
                    raise DataError("the prefetching thread was closed")
                if not state.change.wait(WATCH_SECONDS) and not self._threads[0].is_alive():
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


def _as_data_error(error: BaseException) -> DataError:
    text = str(error) if isinstance(error, DataError) else f"{type(error).__name__} while preparing a batch: {error}"
    return DataError(text)
