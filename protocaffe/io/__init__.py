"""Reading and writing Caffe's files.

Names are loaded when first used: ``protocaffe.io.read_net``, ``protocaffe.io.array_to_datum`` ...
"""

from __future__ import annotations

import importlib
from typing import Any

_WHERE = {
    "prototxt": ["parse_message", "parse_net", "parse_solver", "read_net", "read_solver", "to_text"],
    "files": ["atomic_write"],
    "caffemodel": ["LayerWeights", "read_caffemodel", "read_structure", "write_caffemodel"],
    "solverstate": ["SolverState", "read_solverstate", "write_solverstate"],
    "binaryproto": [
        "array_to_blobproto",
        "array_to_datum",
        "arraylist_to_blobprotovector_str",
        "blobproto_to_array",
        "blobprotovector_str_to_arraylist",
        "datum_to_array",
        "read_mean",
        "write_mean",
    ],
    "transformer": ["Transformer", "load_image", "oversample", "resize_image"],
}
_MODULE = {name: module for module, names in _WHERE.items() for name in names}


def __getattr__(name: str) -> Any:
    if name in _MODULE:
        value = getattr(importlib.import_module(f".{_MODULE[name]}", __name__), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_MODULE})
