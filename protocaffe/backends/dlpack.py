"""DLPack capsules in Python: how libraries hand each other an array where it lies (https://dmlc.github.io/dlpack)."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

import numpy as np

_NAME = b"dltensor"  # a consumer renames it to "used_dltensor" and calls the deleter itself
_CODES = {"i": 0, "u": 1, "f": 2}


class _Tensor(ctypes.Structure):
    """DLManagedTensor."""

    _fields_ = [
        ("data", ctypes.c_void_p),
        ("device_type", ctypes.c_int32),
        ("device_number", ctypes.c_int32),
        ("axes", ctypes.c_int32),
        ("code", ctypes.c_uint8),
        ("bits", ctypes.c_uint8),
        ("lanes", ctypes.c_uint16),
        ("shape", ctypes.c_void_p),
        ("strides", ctypes.c_void_p),
        ("offset", ctypes.c_uint64),
        ("context", ctypes.c_void_p),
        ("deleter", ctypes.c_void_p),
    ]


#: what must live until the consumer calls the deleter, by the tensor's address
_held: dict[int, tuple[Any, ...]] = {}


@ctypes.CFUNCTYPE(None, ctypes.c_void_p)
def _delete(tensor: int) -> None:
    _held.pop(tensor, None)


@ctypes.CFUNCTYPE(None, ctypes.c_void_p)
def _drop(capsule: int) -> None:
    if _is_valid(capsule, _NAME):  # nobody took it
        _held.pop(_pointer(capsule, _NAME), None)


def _function(name: str, result: Any, *arguments: Any) -> Any:
    return ctypes.PYFUNCTYPE(result, *arguments)((name, ctypes.pythonapi))


_new = _function("PyCapsule_New", ctypes.py_object, ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p)
_is_valid = _function("PyCapsule_IsValid", ctypes.c_int, ctypes.c_void_p, ctypes.c_char_p)
_pointer = _function("PyCapsule_GetPointer", ctypes.c_void_p, ctypes.c_void_p, ctypes.c_char_p)


def capsule(holder: Any, address: int, shape: Sequence[int], dtype: np.dtype, device: tuple[int, int]) -> Any:
    """A capsule for a contiguous array at ``address``; ``holder`` lives as long as it, or what is made of it, does."""
    extents = (ctypes.c_int64 * len(shape))(*shape)
    tensor = _Tensor(
        data=address, device_type=device[0], device_number=device[1], axes=len(shape),
        code=_CODES[dtype.kind], bits=8 * dtype.itemsize, lanes=1,
        shape=ctypes.addressof(extents), deleter=ctypes.cast(_delete, ctypes.c_void_p),
    )  # fmt: skip
    _held[ctypes.addressof(tensor)] = tensor, extents, holder
    return _new(ctypes.addressof(tensor), _NAME, ctypes.cast(_drop, ctypes.c_void_p))
