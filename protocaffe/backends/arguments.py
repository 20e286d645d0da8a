"""The kernels that a backend knows, and the check of what they are called with: the same on every device."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import KernelError
from ..memory import Memory
from . import manifest

_RANGES = {"int": (-(1 << 31), 1 << 31), "u32": (0, 1 << 32), "long": (-(1 << 63), 1 << 63), "u64": (0, 1 << 64)}


class Kernels:
    """The signatures of ``folder`` and of users' own files; ``real`` is the backend's type of arithmetic."""

    def __init__(self, folder: Path, real: np.dtype) -> None:
        self.folder = folder
        self._manifest = manifest.parse([*sorted(folder.glob("*.h")), *sorted(folder.glob("*.cu"))])
        self._pointees = {
            "store": real,
            "real": real,
            "int": np.dtype(np.int32),
            "u8": np.dtype(np.uint8),
            "u64": np.dtype(np.uint64),
        }

    def read(self, path: Path) -> manifest.Manifest:
        """What a user's own file defines. Raises KernelError for what is no kernel, or a name that is taken."""
        try:
            more = manifest.parse([path])
        except (OSError, ValueError) as error:
            raise KernelError(f"kernels of {path}: {error}") from error
        for name in more.kernels:
            known = self._manifest.kernels.get(name)
            if known is not None and known.source != path.name:
                raise KernelError(f'kernels of {path}: "{name}" is already defined in {known.source}')
        return more

    def add(self, more: manifest.Manifest) -> None:
        """Know these kernels, too."""
        self._manifest.kernels.update(more.kernels)
        self._manifest.structs.update(more.structs)

    def names(self) -> list[str]:
        """Names of all kernels."""
        return sorted(self._manifest.kernels)

    def fields(self, struct: str) -> tuple[tuple[str, int | None], ...]:
        """Names and lengths (None: a plain int) of a struct's fields."""
        return self._manifest.structs[struct].fields

    def signature(self, kernel: str) -> manifest.Signature:
        """The kernel's signature. Raises KernelError if there is none."""
        found = self._manifest.kernels.get(kernel)
        if found is None:
            raise KernelError(f'no kernel "{kernel}"; there are {", ".join(self.names())}')
        return found

    def check(self, signature: manifest.Signature, values: Sequence[Any]) -> list[Any]:
        """One value per parameter: Memory or None, a float, an int, or a struct's ints in a row.

        Raises KernelError where the values do not fit the signature.
        """
        if len(values) != len(signature.parameters):
            raise KernelError(f"kernel {signature} takes {len(signature.parameters)} arguments, got {len(values)}")
        return [self._argument(signature, p, v) for p, v in zip(signature.parameters, values, strict=True)]

    def _argument(self, signature: manifest.Signature, parameter: manifest.Parameter, value: Any) -> Any:
        def fail(expected: str) -> KernelError:
            got = f"{value.dtype} memory" if isinstance(value, Memory) else f"{type(value).__name__} {value!r}"
            return KernelError(f'kernel {signature}: argument "{parameter.name}" must be {expected}, got {got}')

        if parameter.pointer:
            dtype = self._pointees[parameter.type]
            if value is not None and (not isinstance(value, Memory) or value.dtype != dtype):
                raise fail(f"{dtype} memory")
            return value
        if parameter.type == "real":
            if not isinstance(value, (int, float, np.integer, np.floating)):
                raise fail("a number")
            return float(value)
        if parameter.type in _RANGES:
            if not isinstance(value, (int, np.integer)):
                raise fail(f"an integer ({parameter.type})")
            _check_range(parameter.type, value, fail)
            return int(value)
        if not isinstance(value, dict):
            raise fail(f"a dict with the fields of {parameter.type}")
        return self._ints(parameter.type, value, fail)

    def _ints(self, struct: str, values: dict[str, Any], fail: Any) -> tuple[int, ...]:
        fields = self.fields(struct)
        if set(values) != {field for field, _ in fields}:
            raise fail(f"a dict with the fields {', '.join(field for field, _ in fields)}")
        out: list[int] = []
        for field, length in fields:
            numbers = [values[field]] if length is None else list(values[field])
            for number in numbers:
                _check_range("int", number, fail)
            if length is not None and len(numbers) > length:
                raise fail(f"at most {length} values of {field}")
            out += [int(number) for number in numbers] + [0] * ((length or 1) - len(numbers))
        return tuple(out)


def _check_range(kind: str, value: Any, fail: Any) -> None:
    low, end = _RANGES[kind]  # a device's call would cut it silently
    if not low <= value < end:
        raise fail(f"from {low} to {end - 1}")
