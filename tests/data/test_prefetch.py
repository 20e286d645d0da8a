import gc
import subprocess
import sys
import threading
import time
import weakref

import numpy as np
import pytest

from protocaffe.data.prefetch import Prefetcher
from protocaffe.errors import DataError


class Source:
    """A producer that writes the position."""

    def __init__(self, function=None, settled=False):
        self.function, self.settled = function, settled

    def produce(self, position, arrays):
        if self.function:
            self.function(position)
        for array in arrays:
            array[...] = position


def take(prefetcher, dtype=np.float32):
    target = np.full(3, -1, dtype)
    prefetcher.take([target])
    assert (target == target[0]).all()
    return float(target[0])


def threads():
    return [thread for thread in threading.enumerate() if thread.name == "protocaffe-prefetch"]


@pytest.fixture(autouse=True)
def no_threads_left():
    gc.collect()
    yield
    gc.collect()
    assert not threads()


@pytest.mark.parametrize("depth", [0, 1, 2, 4])
@pytest.mark.parametrize("settled", [False, True])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_batches_come_in_order_and_seek_goes_anywhere(depth, settled, dtype):
    prefetcher = Prefetcher(Source(settled=settled), [(3,)], 10, depth)
    assert [take(prefetcher, dtype) for _ in range(20)] == list(range(0, 200, 10))
    assert prefetcher.position == 200
    for start in (50, 0, 1000, 0):
        prefetcher.seek(start)
        assert [take(prefetcher, dtype) for _ in range(7)] == list(range(start, start + 70, 10))
    assert prefetcher.position == 70
    assert prefetcher.inline == (settled or depth == 0)
    prefetcher.close()


def test_dear_batches_stay_with_the_thread(monkeypatch):
    monkeypatch.setattr("protocaffe.data.prefetch.CHEAP_SECONDS", 0.0)
    prefetcher = Prefetcher(Source(settled=True), [(3,)], 1, 2)
    assert [take(prefetcher) for _ in range(30)] == list(range(30))
    assert not prefetcher.inline and len(threads()) == 1
    prefetcher.close()


def test_no_thread_is_left_once_batches_are_cheap():
    source = Source()
    prefetcher = Prefetcher(source, [(3,)], 1, 2)
    assert [take(prefetcher) for _ in range(20)] == list(range(20)) and not prefetcher.inline
    source.settled = True
    assert [take(prefetcher) for _ in range(30)] == list(range(20, 50))
    assert prefetcher.inline
    prefetcher.close()
    with pytest.raises(DataError, match="closed"):
        take(prefetcher)


def test_prepares_depth_batches_ahead_and_no_more():
    made = []
    prefetcher = Prefetcher(Source(made.append), [(3,)], 1, 3)
    assert not threads()
    take(prefetcher)
    deadline = time.monotonic() + 5
    while len(made) < 4 and time.monotonic() < deadline:
        time.sleep(0.005)
    time.sleep(0.02)
    assert 4 <= len(made) <= 5
    prefetcher.close()


@pytest.mark.parametrize("depth", [0, 3])
@pytest.mark.parametrize("settled", [False, True])
def test_errors_come_when_their_batch_is_due_and_stay(depth, settled):
    def fail(position):
        if position == 2:
            raise ZeroDivisionError("of no use")
        if position == 12:
            raise DataError("record 12")

    prefetcher = Prefetcher(Source(fail, settled), [(3,)], 1, depth)
    assert [take(prefetcher), take(prefetcher)] == [0, 1]
    for _ in range(2):
        with pytest.raises(DataError, match="ZeroDivisionError while preparing a batch: of no use") as caught:
            take(prefetcher)
        assert isinstance(caught.value.__cause__, ZeroDivisionError)
    prefetcher.seek(11)
    assert take(prefetcher) == 11
    with pytest.raises(DataError, match=r"^record 12$"):
        take(prefetcher)
    prefetcher.seek(20)
    assert [take(prefetcher) for _ in range(20)] == list(range(20, 40))
    with pytest.raises(DataError, match=r"^record 12$"):
        prefetcher.seek(12)
        take(prefetcher)
    assert prefetcher.position == 12
    prefetcher.close()


def test_a_target_of_the_wrong_shape_loses_no_buffer():
    prefetcher = Prefetcher(Source(), [(3,)], 1, 1)
    for _ in range(5):
        with pytest.raises(ValueError, match="broadcast"):
            prefetcher.take([np.zeros(4, np.float32)])
    assert take(prefetcher) == 5
    prefetcher.close()


def test_thread_ends_with_close_and_with_the_owner():
    prefetcher = Prefetcher(Source(), [(3,)], 1, 2)
    take(prefetcher)
    assert len(threads()) == 1
    prefetcher.close()
    assert not threads()
    with pytest.raises(DataError, match="closed"):
        [take(prefetcher) for _ in range(9)]
    other = Prefetcher(Source(), [(3,)], 1, 2)
    take(other)
    gone = weakref.ref(other)
    del other
    gc.collect()
    assert gone() is None and not threads()


def test_a_slow_producer_is_waited_for(monkeypatch):
    monkeypatch.setattr("protocaffe.data.prefetch.WATCH_SECONDS", 0.01)
    prefetcher = Prefetcher(Source(lambda position: time.sleep(0.05)), [(3,)], 1, 1)
    assert [take(prefetcher) for _ in range(3)] == [0, 1, 2]
    prefetcher.close()


@pytest.mark.parametrize("body", ["arrays[0][...] = np.random.default_rng(0).random(10**6)", "time.sleep(0.01)"])
def test_the_interpreter_exits(body):
    code = f"""
import time
import numpy as np
from protocaffe.data.prefetch import Prefetcher
class Source:
    settled = False
    def produce(self, position, arrays):
        {body}
prefetcher = Prefetcher(Source(), [(10**6,)], 1, 4)
for _ in range(3):
    prefetcher.take([np.empty(10**6)])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=60, check=False)
    assert done.returncode == 0 and not done.stderr, done.stderr


@pytest.mark.parametrize("depth", [0, 1, 3])
def test_batches_may_be_taken_in_the_arrays_they_were_prepared_in(depth):
    slots = [[np.zeros(3, np.uint8)] for _ in range(depth + 2)]
    prefetcher = Prefetcher(Source(settled=True), [(3,)], 10, depth, slots)
    held = []
    for k in range(20):
        slot = prefetcher.acquire()
        assert any(slot is mine for mine in slots) and not any(slot is other for other in held)
        assert (slot[0] == 10 * k).all()
        held.append(slot)
        if len(held) == 2:
            prefetcher.release(held.pop(0))
    assert len(threads()) == (depth > 0)  # cheap as they are, the thread goes on with them
    prefetcher.seek(50)
    assert (prefetcher.acquire()[0] == 50).all() and prefetcher.position == 60
    prefetcher.close()


def test_who_does_not_wait_gets_what_is_ready_and_no_error():
    go = threading.Event()

    def produce(position):
        go.wait(10)
        if position == 2:
            raise DataError("record 2")

    prefetcher = Prefetcher(Source(produce), [(3,)], 1, 3, [[np.zeros(3)] for _ in range(4)])
    assert prefetcher.acquire(wait=False) is None and prefetcher.position == 0
    go.set()
    first = prefetcher.acquire()
    second = None
    while second is None:
        second = prefetcher.acquire(wait=False)
    assert [float(slot[0][0]) for slot in (first, second)] == [0, 1]
    for _ in range(20):
        assert prefetcher.acquire(wait=False) is None
        time.sleep(0.001)
    with pytest.raises(DataError, match="record 2"):
        prefetcher.acquire()
    prefetcher.close()


def test_without_a_thread_an_error_loses_no_array():
    def fail(position):
        if position == 1:
            raise DataError("record 1")

    prefetcher = Prefetcher(Source(fail), [(3,)], 1, 0, [[np.zeros(3)] for _ in range(2)])
    assert prefetcher.acquire(wait=False) is None
    slot = prefetcher.acquire()
    for _ in range(5):
        with pytest.raises(DataError, match="record 1"):
            prefetcher.acquire()
    prefetcher.release(slot)
    prefetcher.seek(2)
    assert prefetcher.acquire()[0][0] == 2
