"""What a test makes this process hold of the GPU: its free memory says little, other processes take of it, too."""

from __future__ import annotations

from typing import Any

from protocaffe.backends import cuda_copy


class _Piece:
    """Memory of the GPU, counted until it is freed."""

    def __init__(self, held: Held, memory: Any, size: int) -> None:
        self._held, self._memory, self._size = held, memory, size

    def __int__(self) -> int:
        return int(self._memory)

    def free(self) -> None:
        self._memory.free()
        self._held.memory -= self._size


class Held:
    """Counts what was taken from now on and is not freed: bytes of ``memory``, ``pinned`` arrays, ``events``."""

    def __init__(self, monkeypatch: Any, device: Any) -> None:
        self.memory = self.events = 0
        self._pinned: set[int] = set()
        held, driver, free = self, device.driver, cuda_copy._free
        take, zeros = device.take, driver.pagelocked_zeros

        def taken(size: int) -> _Piece:
            piece = _Piece(held, take(size), size)
            held.memory += size
            return piece

        def pinned(*args: Any) -> Any:
            array = zeros(*args)
            held._pinned.add(id(array.base))
            return array

        def freed(allocation: Any) -> None:
            free(allocation)
            held._pinned.discard(id(allocation))

        class Event(driver.Event):
            def __init__(self, *args: Any) -> None:
                super().__init__(*args)
                held.events += 1

            def __del__(self) -> None:
                held.events -= 1

        monkeypatch.setattr(device, "take", taken)
        monkeypatch.setattr(driver, "pagelocked_zeros", pinned)
        monkeypatch.setattr(driver, "Event", Event)
        monkeypatch.setattr(cuda_copy, "_free", freed)

    @property
    def pinned(self) -> int:
        return len(self._pinned)

    @property
    def all(self) -> tuple[int, int, int]:
        return self.memory, self.pinned, self.events
