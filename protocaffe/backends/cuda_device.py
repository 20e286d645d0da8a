"""The one GPU of this process: driver, primary context and stream, all through PyCUDA.

Nothing of NVIDIA's is imported before a GPU is asked for.
"""

from __future__ import annotations

import atexit
import gc
from collections.abc import Callable
from typing import Any

import numpy as np

from ..errors import BackendError
from . import head_start

_NON_BLOCKING = 1  # CU_STREAM_NON_BLOCKING: the stream does not wait for other libraries' default stream

_opened: Device | None = None


def driver() -> Any:
    """``pycuda.driver``, initialised. Raises BackendError where package, driver or GPU is missing."""
    try:
        import pycuda.driver as cuda
    except ImportError as error:
        raise BackendError(
            f'no GPU can be used here: PyCUDA or the NVIDIA driver is missing ({error}); install "protocaffe[cuda]" '
            "and a driver, or compute on the CPU with --cpu"
        ) from error
    head_start.wait()
    try:
        cuda.init()
        count = cuda.Device.count()
    except cuda.Error as error:
        raise BackendError(f"no GPU can be used here: {error}; compute on the CPU with --cpu") from error
    if not count:
        raise BackendError("no GPU can be used here: the driver finds none; compute on the CPU with --cpu")
    return cuda


class Allocation:
    """``size`` zeroed bytes of the GPU, taken when their address is first asked for.

    Many are never used: what layers keep for their own backward passes where chains of layers run as one. What holds
    memory may be collected in any thread, so freeing is left to `Device.collect`.
    """

    __slots__ = ("_address", "_device", "_memory", "_size")

    def __init__(self, device: Device, size: int) -> None:
        self._device, self._size = device, size
        self._memory: Any = None
        self._address = 0

    @property
    def address(self) -> int:
        """Where it begins. Raises BackendError where there is not so much memory left."""
        if self._memory is None:
            self._memory = self._device.take(self._size)
            self._address = int(self._memory)
        return self._address

    def __del__(self) -> None:
        if self._memory is not None:
            self._device.trash.append(self._memory.free)


class Device:
    """GPU ``number``, its primary context made current, and the stream that everything runs on."""

    def __init__(self, number: int) -> None:
        self.driver = driver()
        count = self.driver.Device.count()
        if not 0 <= number < count:
            raise BackendError(f"there is no GPU {number}: this machine has {count} (0 to {count - 1})")
        self.number = number
        self.gpu = self.driver.Device(number)
        self.context = self.gpu.retain_primary_context()
        head_start.end()
        self.context.push()
        atexit.register(self.context.pop)
        self.stream = self.driver.Stream(_NON_BLOCKING)
        major, minor = self.gpu.compute_capability()
        self.arch = f"sm_{major}{minor}"
        #: what frees things that are no longer needed; only the thread that has the context may call it
        self.trash: list[Callable[[], Any]] = []
        self.processors = int(self.gpu.get_attribute(self.driver.device_attribute.MULTIPROCESSOR_COUNT))

    def collect(self) -> None:
        """Free what is no longer needed."""
        while self.trash:
            self.trash.pop()()

    def allocate(self, size: int) -> Allocation:
        """``size`` zeroed bytes, taken on first use."""
        return Allocation(self, size)

    def take(self, size: int) -> Any:
        """``size`` zeroed bytes as PyCUDA's allocation. Raises BackendError where there are not that many left."""
        self.collect()
        try:
            memory = self._allocate(size)
        except self.driver.MemoryError as error:
            free, total = self.driver.mem_get_info()
            raise BackendError(
                f"{size >> 20} MiB are needed, GPU {self.number} has {free >> 20} of {total >> 20} MiB left"
            ) from error
        self.driver.memset_d8_async(memory, 0, size, self.stream)
        return memory

    def _allocate(self, size: int) -> Any:
        try:
            return self.driver.mem_alloc(size)
        except self.driver.MemoryError:
            gc.collect()  # nets that are gone may wait for it
            self.collect()
            return self.driver.mem_alloc(size)

    def upload(self, memory: Allocation, values: np.ndarray) -> None:
        """Copy to the GPU; ``values`` may change as soon as this returns."""
        self.driver.memcpy_htod_async(memory.address, values, self.stream)

    def download(self, memory: Allocation, values: np.ndarray) -> None:
        """Copy from the GPU, after all that it was given to do."""
        self.driver.memcpy_dtoh_async(values, memory.address, self.stream)
        self.stream.synchronize()


def open_device(number: int) -> Device:
    """The GPU, opened once. Raises BackendError for a second one: a process computes on one GPU."""
    global _opened
    if _opened is None:
        _opened = Device(number)
    elif _opened.number != number:
        raise BackendError(f"this process computes on GPU {_opened.number} already, it cannot use GPU {number} too")
    return _opened


def describe(number: int | None = None) -> list[dict[str, Any]]:
    """What the driver says of GPU ``number``, or of all."""
    cuda = driver()
    count = cuda.Device.count()
    if number is not None and number >= count:
        raise BackendError(f"there is no GPU {number}: this machine has {count} (0 to {count - 1})")
    version = cuda.get_driver_version()
    found = []
    for i in range(count) if number is None else [number]:
        gpu, what = cuda.Device(i), cuda.device_attribute
        major, minor = gpu.compute_capability()
        found.append(
            {
                "Device id": i,
                "Name": gpu.name(),
                "Compute capability": f"{major}.{minor}",
                "CUDA version of the driver": f"{version // 1000}.{version % 1000 // 10}",
                "Total memory": f"{gpu.total_memory() >> 20} MiB",
                "Multiprocessors": gpu.get_attribute(what.MULTIPROCESSOR_COUNT),
                "Clock": f"{gpu.get_attribute(what.CLOCK_RATE) // 1000} MHz",
                "Shared memory per block": f"{gpu.get_attribute(what.MAX_SHARED_MEMORY_PER_BLOCK) >> 10} KiB",
                "L2 cache": f"{gpu.get_attribute(what.L2_CACHE_SIZE) >> 20} MiB",
            }
        )
    return found
