"""Memory of the GPU for other tools: PyCUDA arrays, the CUDA array interface, DLPack, and the order of streams."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any

from ..errors import BackendError
from .base import Backend
from .cuda_blas import address
from .dlpack import capsule

if TYPE_CHECKING:
    from ..interop import View
    from .cuda_device import Device

_GPU = 2  # kDLCUDA
_DEFAULT_STREAM = 1  # CU_STREAM_LEGACY, and the same number in both protocols
_NO_TIMING = 2  # CU_EVENT_DISABLE_TIMING


class SharedGpu(Backend):
    """The part of the GPU backend that other tools meet."""

    device: Device

    @property
    def dlpack_device(self) -> tuple[int, int]:  # type: ignore[override]
        """CUDA, and the GPU's number."""
        return _GPU, self.device.number

    @cached_property
    def _driver(self) -> Any:
        from cuda.bindings import driver

        return driver

    @cached_property
    def _event(self) -> Any:
        return self._do(self._driver.cuEventCreate(_NO_TIMING))

    def _do(self, result: tuple[Any, ...]) -> Any:
        if result[0] != self._driver.CUresult.CUDA_SUCCESS:
            raise BackendError(f"the GPU's driver: {result[0].name}")
        return result[1] if len(result) > 1 else None

    def _order(self, first: int, then: int) -> None:
        self._do(self._driver.cuEventRecord(self._event, first))
        self._do(self._driver.cuStreamWaitEvent(then, self._event, 0))

    def wait_for_others(self) -> None:
        """Our stream after the default stream, which itself comes after all streams that do not opt out of that."""
        self._order(_DEFAULT_STREAM, self.device.stream.handle)

    def let_others_wait(self, stream: int = _DEFAULT_STREAM) -> None:
        """``stream`` after ours."""
        self._order(self.device.stream.handle, stream)

    def device_array(self, view: View) -> Any:
        """A GPUArray whose base is ``view``."""
        from pycuda.gpuarray import GPUArray

        at = _lent(view)
        return GPUArray(view.shape, view.dtype, gpudata=at, base=view)

    def cuda_array_interface(self, view: View) -> dict[str, Any]:
        """Version 3; no strides: the array is contiguous."""
        at = _lent(view)
        return {
            "shape": view.shape,
            "typestr": view.dtype.str,
            "data": (at if view.memory.count else 0, False),
            "strides": None,
            "version": 3,
            "stream": self.device.stream.handle,
        }

    def dlpack(self, view: View, stream: int | None) -> Any:
        """A capsule; -1 for a consumer that wants no order."""
        if stream == 0:
            raise BufferError("DLPack: 0 names no stream; 1 is the default stream, 2 that of each thread")
        at = _lent(view)
        if stream is not None and stream not in (_DEFAULT_STREAM, -1):
            self.let_others_wait(stream)
        return capsule(view, at, view.shape, view.dtype, self.dlpack_device)


def _lent(view: View) -> int:
    """The address, asked for first: what it takes to have it shall be among what others wait for."""
    at = address(view.memory)
    view.lend()
    return at
