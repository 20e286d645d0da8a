"""A blob's memory for other tools, without a copy: PyCUDA arrays, the CUDA array interface, DLPack.

What others do to memory on a GPU is part of the order of things. On CUDA's default stream (PyCUDA's and PyTorch's,
unless told otherwise) it comes after all that the net has been given, and what the net does next comes after it. A tool
that works on a stream of its own asks for that stream by the protocols' ``stream``, and has to have finished
(``stream.synchronize()``) before the net runs again. Python's NumPy views are up to date when they are taken
(memory.Storage).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .errors import ParameterError

if TYPE_CHECKING:
    import numpy as np

    from .backends.base import Backend
    from .blob import Values
    from .memory import Memory, Storage


class View:
    """Values of a blob where they lie now; they stay valid when the blob's own have moved or the net is gone."""

    def __init__(self, memory: Memory) -> None:
        self.memory = memory
        self.backend: Backend = memory.storage.backend

    @property
    def shape(self) -> tuple[int, ...]:
        """Extents of the axes."""
        return self.memory.shape

    @property
    def dtype(self) -> np.dtype:
        """Type of the elements."""
        return self.memory.dtype

    def lend(self) -> View:
        """Bring Python's writes to the device, and count its memory as used by others while this view lives."""
        self.memory.storage.lend(self)
        return self

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        """Version 3, with the stream after which the values are there. Only on a GPU (AttributeError elsewhere)."""
        return self.backend.cuda_array_interface(self)

    def __dlpack_device__(self) -> tuple[int, int]:
        """Type and number of the device: (1, 0) is the host, (2, n) GPU n."""
        return self.backend.dlpack_device

    def __dlpack__(
        self,
        *,
        stream: int | None = None,
        max_version: tuple[int, int] | None = None,
        dl_device: tuple[int, int] | None = None,
        copy: bool | None = None,
    ) -> Any:
        """A DLPack capsule. What the consumer does on ``stream`` (None: the default stream) sees the values."""
        if self.backend.unified:
            given: dict[str, Any] = {"stream": stream, "max_version": max_version, "dl_device": dl_device, "copy": copy}
            return self.memory.array.__dlpack__(**{name: value for name, value in given.items() if value is not None})
        if copy or (dl_device is not None and tuple(dl_device) != self.backend.dlpack_device):
            raise BufferError(f"a blob is handed out where it is, device {self.backend.dlpack_device}, without a copy")
        return self.backend.dlpack(self, stream)


class Exchange:
    """The part of Blob that other tools see."""

    name: str
    backend: Backend
    values: Values
    _handed_out: dict[Storage, View]

    def view(self, which: str = "data") -> View | None:
        """``data``, ``diff`` or ``mask`` for tools that know DLPack or the CUDA array interface; None without a mask.

        >>> import numpy as np, protocaffe
        >>> blob = protocaffe.Net("models/lenet/deploy.prototxt", protocaffe.TEST).params["conv1"][0]
        >>> np.shares_memory(np.from_dlpack(blob.view("diff")), blob.diff), np.from_dlpack(blob).shape
        (True, (20, 1, 5, 5))
        """
        if which == "mask":
            memory = self._mask_mem()  # type: ignore[attr-defined]
            return None if memory is None else View(memory)
        if which == "diff":
            return View(self.diff_mem)  # type: ignore[attr-defined]
        if which != "data":
            raise ParameterError(f'blob "{self.name}": a view is of "data", "diff" or "mask", got "{which}"')
        self._check_kept()  # type: ignore[attr-defined]
        return View(self.data_mem)  # type: ignore[attr-defined]

    def _device_array(self, which: str) -> Any:
        view = self.view(which)
        return None if view is None else self.backend.device_array(view)

    @property
    def gpu_data(self) -> Any:
        """The values as a ``pycuda.gpuarray.GPUArray`` on the net's own memory. Raises BackendError off the GPU."""
        return self._device_array("data")

    @property
    def gpu_diff(self) -> Any:
        """The gradient as a ``pycuda.gpuarray.GPUArray`` on the net's own memory."""
        return self._device_array("diff")

    @property
    def gpu_mask(self) -> Any:
        """The mask, 0 or 1 in uint8, as a ``pycuda.gpuarray.GPUArray``, or None; set it through ``mask``."""
        return self._device_array("mask")

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        """The values by the CUDA array interface, version 3. Only on a GPU (AttributeError elsewhere)."""
        view = self.view()
        assert view is not None
        interface = view.__cuda_array_interface__
        self._handed_out[view.memory.storage] = view  # who takes it holds this blob, not its memory, which may move
        return interface

    def __dlpack_device__(self) -> tuple[int, int]:
        """Type and number of the device: (1, 0) is the host, (2, n) GPU n."""
        return self.backend.dlpack_device

    def __dlpack__(self, **options: Any) -> Any:
        """The values as a DLPack capsule."""
        view = self.view()
        assert view is not None
        return view.__dlpack__(**options)
