"""cuDNN 9's graph API through ctypes: the library found and loaded, its descriptors as Python objects.

The C names are CUDNN_BACKEND_<KIND>_DESCRIPTOR and CUDNN_ATTR_<...>; the numbers are those of cudnn_graph.h.
"""

from __future__ import annotations

import ctypes
import importlib.util
from collections.abc import Callable, Sequence
from ctypes import byref, c_int64, c_size_t, c_void_p
from functools import cache, partial
from pathlib import Path
from typing import Any

from ..errors import BackendError

#: types of attributes: number, and how a value lies in memory
_TYPES: dict[str, tuple[int, Any]] = {
    "handle": (0, c_void_p),
    "data_type": (1, ctypes.c_int),
    "bool": (2, ctypes.c_bool),
    "int64": (3, c_int64),
    "float": (4, ctypes.c_float),
    "double": (5, ctypes.c_double),
    "pointer": (6, c_void_p),
    "mode": (7, ctypes.c_int),
    "heuristic": (8, ctypes.c_int),
    "knob": (9, ctypes.c_int),
    "note": (11, ctypes.c_int),
    "pointwise": (14, ctypes.c_int),
    "descriptor": (15, c_void_p),
    "behavior": (19, ctypes.c_int),
}
#: "scalar" is float or double, as the arithmetic is
_KINDS: dict[str, tuple[int, dict[str, tuple[int, str]]]] = {
    "pointwise": (0, {"mode": (0, "pointwise"), "precision": (1, "data_type")}),
    "convolution": (1, {
        "precision": (100, "data_type"), "mode": (101, "mode"), "dilations": (102, "int64"), "strides": (103, "int64"),
        "after": (104, "int64"), "before": (105, "int64"), "axes": (106, "int64"),
    }),
    "engine": (2, {
        "graph": (1300, "descriptor"), "index": (1301, "int64"), "notes": (1303, "note"),
        "behavior": (1305, "behavior"),
    }),
    "config": (3, {"engine": (300, "descriptor"), "knobs": (302, "descriptor")}),
    "heuristics": (4, {"mode": (200, "heuristic"), "graph": (201, "descriptor"), "results": (202, "descriptor")}),
    "plan": (5, {"handle": (400, "handle"), "config": (401, "descriptor"), "workspace": (402, "int64")}),
    "knob": (7, {"type": (600, "knob"), "value": (601, "int64")}),
    "forward": (10, {
        "alpha": (700, "scalar"), "beta": (701, "scalar"), "convolution": (702, "descriptor"), "w": (703, "descriptor"),
        "x": (704, "descriptor"), "y": (705, "descriptor"),
    }),
    "backward_weights": (11, {
        "alpha": (712, "scalar"), "beta": (713, "scalar"), "convolution": (714, "descriptor"),
        "w": (715, "descriptor"), "x": (716, "descriptor"), "y": (717, "descriptor"),
    }),
    "backward_data": (12, {
        "alpha": (706, "scalar"), "beta": (707, "scalar"), "convolution": (708, "descriptor"),
        "w": (709, "descriptor"), "x": (710, "descriptor"), "y": (711, "descriptor"),
    }),
    "operation": (13, {
        "pointwise": (750, "descriptor"), "x": (751, "descriptor"), "b": (752, "descriptor"), "y": (753, "descriptor"),
    }),
    "graph": (15, {"handle": (800, "handle"), "operations": (801, "descriptor"), "engines": (802, "int64")}),
    "pack": (16, {"ids": (1000, "int64"), "pointers": (1001, "pointer"), "workspace": (1003, "pointer")}),
    "tensor": (17, {
        "alignment": (900, "int64"), "type": (901, "data_type"), "dims": (902, "int64"), "strides": (903, "int64"),
        "id": (906, "int64"), "virtual": (907, "bool"),
    }),
}  # fmt: skip

PACKAGE = "nvidia-cudnn-cu13"
#: values that an attribute may have where cuDNN does not say how many there are
_MOST = {"notes": 10, "behavior": 5, "knobs": 44}


class CudnnError(BackendError):
    """A call of cuDNN that failed: what is asked for is not supported, as a rule."""


def candidates() -> list[str]:
    """Where libcudnn may be: in the package, else where the system's loader looks."""
    name = "libcudnn.so.9"
    try:
        spec = importlib.util.find_spec("nvidia.cudnn")
    except ModuleNotFoundError:
        spec = None
    folders = list(spec.submodule_search_locations or ()) if spec else []
    found = [Path(folder) / "lib" / name for folder in folders]
    return [*(str(path) for path in found if path.is_file()), name]


class Library:
    """The loaded library. Raises BackendError, which names the package, where there is none."""

    def __init__(self) -> None:
        said = ""
        for path in candidates():
            try:
                self.c = ctypes.CDLL(path)
                break
            except OSError as error:
                said = str(error)
        else:
            raise BackendError(f'cuDNN 9 is not there ({said}): pip install {PACKAGE}, or "protocaffe[cuda]"')
        self.c.cudnnGetVersion.restype = c_size_t
        self.c.cudnnGetErrorString.restype = ctypes.c_char_p
        self.version = int(self.c.cudnnGetVersion())

    def call(self, name: str, *args: Any) -> None:
        """Call ``name``; raise CudnnError unless it succeeds."""
        status = getattr(self.c, name)(*args)
        if status:
            raise CudnnError(f"cuDNN {self.version}: {name}: {self.c.cudnnGetErrorString(status).decode()}")

    def create(self, stream: int) -> c_void_p:
        """A handle whose work goes to ``stream``."""
        handle = c_void_p()
        self.call("cudnnCreate", byref(handle))
        self.call("cudnnSetStream", handle, c_void_p(stream))
        return handle


@cache
def load() -> Library:
    """The library, loaded once."""
    return Library()


class Descriptor:
    """A descriptor of ``kind`` with its attributes set, and finalised unless it has none (then cuDNN fills it).

    ``trash`` takes what frees it: it may be dropped in any thread, or while a graph is being captured.
    """

    def __init__(
        self, library: Library, kind: str, trash: list[Callable[[], Any]], scalar: str = "float", **attributes: Any
    ) -> None:
        self._library, self._trash = library, trash
        number, self._attributes = _KINDS[kind]
        self._scalar = scalar
        self.pointer = c_void_p()
        library.call("cudnnBackendCreateDescriptor", number, byref(self.pointer))
        #: what cuDNN may only refer to
        self.keep = attributes
        for name, value in attributes.items():
            self._set(name, value if isinstance(value, Sequence) else [value])
        if attributes:
            library.call("cudnnBackendFinalize", self.pointer)

    def _attribute(self, name: str) -> tuple[int, int, Any]:
        number, type_name = self._attributes[name]
        return number, *_TYPES[self._scalar if type_name == "scalar" else type_name]

    def _set(self, name: str, values: Sequence[Any]) -> None:
        number, kind, ctype = self._attribute(name)
        array = (ctype * len(values))(*(v.pointer if isinstance(v, Descriptor) else v for v in values))
        self._library.call("cudnnBackendSetAttribute", self.pointer, number, kind, c_int64(len(values)), array)

    def get(self, name: str) -> list[Any]:
        """All values of an attribute that holds numbers."""
        number, kind, ctype = self._attribute(name)
        array = (ctype * self._count(name))()
        return list(array[: self._read(number, kind, array)])

    def descriptors(self, name: str, kind: str) -> list[Descriptor]:
        """All values of an attribute that holds descriptors, which are of ``kind``."""
        number, type_number, _ = self._attribute(name)
        made = [Descriptor(self._library, kind, self._trash) for _ in range(self._count(name))]
        array = (c_void_p * len(made))(*(d.pointer for d in made))
        return made[: self._read(number, type_number, array)]

    def _count(self, name: str) -> int:
        if name in _MOST:
            return _MOST[name]
        number, kind, _ = self._attribute(name)
        count = c_int64()
        args = (self.pointer, number, kind, c_int64(0), byref(count), None)
        self._library.call("cudnnBackendGetAttribute", *args)
        return count.value

    def _read(self, number: int, kind: int, array: Any) -> int:
        if not len(array):
            return 0
        count = c_int64()
        args = (self.pointer, number, kind, c_int64(len(array)), byref(count), array)
        self._library.call("cudnnBackendGetAttribute", *args)
        return min(count.value, len(array))

    def __del__(self) -> None:
        if getattr(self, "pointer", None):
            self._trash.append(partial(self._library.c.cudnnBackendDestroyDescriptor, self.pointer))
