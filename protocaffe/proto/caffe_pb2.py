"""The messages of Caffe under pycaffe's module name; the classes are those of `protocaffe.io.schema`.

>>> from protocaffe.proto import caffe_pb2
>>> caffe_pb2.NetParameter(name="lenet").name
'lenet'
"""

from __future__ import annotations

from typing import Any

from ..io import schema


def __getattr__(name: str) -> Any:
    if name.startswith("_"):
        raise AttributeError(name)
    return getattr(schema, name)


def __dir__() -> list[str]:
    return dir(schema)
