"""Layer types, one file each; importing the folder registers them (layer.layer_types).

It is also pycaffe's ``L`` (net_spec): a name with a capital letter is a function that makes a layer of that type,
whether or not the type is implemented here; so is any other registered type. Names of files stay modules.

>>> from protocaffe import layers as L
>>> L.ReLU(L.Input(shape=dict(dim=[1, 3])), negative_slope=0.1)
<top 0 of <ReLU layer>>
>>> import protocaffe.layers.relu
>>> L.relu.__name__
'protocaffe.layers.relu'
"""

from __future__ import annotations

import importlib
from typing import Any


def __getattr__(name: str) -> Any:
    from ..layer import _registry

    if name.startswith("_"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if not name[:1].isupper():
        full = f"{__name__}.{name}"
        try:
            return importlib.import_module(full)
        except ModuleNotFoundError as error:
            if error.name != full:
                raise
            if name not in _registry:
                raise AttributeError(f"module {__name__!r} has no attribute {name!r}") from None
    from ..net_spec import layer_function

    return layer_function(name)


def __dir__() -> list[str]:
    from ..layer import layer_types

    return sorted({*globals(), *layer_types()})
