"""pycaffe's ``params``: the enum values of layer parameters, by layer type.

>>> from protocaffe import params as P
>>> P.Pooling.MAX, P.Pooling.AVE, P.Data.LMDB, P.Loss.VALID
(0, 1, 1, 1)
"""

from __future__ import annotations

from .errors import did_you_mean
from .io import schema


class EnumValues:
    """The enum values of one message: ``P.Eltwise.SUM``."""

    def __init__(self, message_name: str) -> None:
        self._message = message_name

    def _values(self) -> dict[str, int]:
        enums = schema.message_class(self._message).DESCRIPTOR.enum_types
        return {value.name: value.number for enum in enums for value in enum.values}

    def __getattr__(self, name: str) -> int:
        if name.startswith("_"):
            raise AttributeError(name)
        values = self._values()
        if name not in values:
            hint = did_you_mean(name, values) or (f"; it has {', '.join(values)}" if values else "")
            raise AttributeError(f'{self._message} has no enum value "{name}"{hint}')
        return values[name]

    def __dir__(self) -> list[str]:
        return sorted(self._values())

    def __repr__(self) -> str:
        return f"<enum values of {self._message}>"


def _messages() -> list[str]:
    return [name.removesuffix("Parameter") for name in dir(schema) if name.endswith("Parameter")]


def __getattr__(name: str) -> EnumValues:
    if name.startswith("_") or not name[:1].isupper():
        raise AttributeError(name)
    if name not in _messages():
        raise AttributeError(f'the schema has no message "{name}Parameter"{did_you_mean(name, _messages())}')
    return EnumValues(f"{name}Parameter")


def __dir__() -> list[str]:
    return sorted({*globals(), *_messages()})
