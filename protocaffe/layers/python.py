"""Python: a layer that a user wrote as a Python class."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import ClassVar

from ..blob import Blob
from ..errors import NetError, ProtocaffeError
from ..layer import Layer, register


class BlobVec(list):
    """``self.blobs`` of a user's layer: its parameters, as pycaffe has them."""

    def __init__(self, owner: Layer) -> None:
        super().__init__()
        self._owner = owner

    def add_blob(self, *shape: int) -> Blob:
        """Add a parameter of this shape, filled with zeros."""
        return self._owner.add_param(shape)


@register("Python")
class Python(Layer):
    """Runs a class of the user's: ``layer`` in the Python module ``module``, found along ``sys.path``.

    The class derives from ``protocaffe.Layer`` and has pycaffe's methods: ``setup(bottom, top)``, once;
    ``reshape(bottom, top)``, before each forward pass; ``forward(bottom, top)``; ``backward(top, propagate_down,
    bottom)``. Bottoms and tops are Blobs, whose ``data`` and ``diff`` are NumPy arrays. In ``setup`` it may add
    parameters, ``self.blobs.add_blob(3, 4)``; ``backward`` adds to their diffs, and writes over the bottoms'. It finds
    ``self.param_str`` and ``self.phase``. A top may be given another shape in any of these methods.
    ``is_accuracy = True`` in the class says that its first top is an accuracy.

    Naming a module in a prototxt runs its code: build nets with such layers from files that you trust.

    Options: ``module``, ``layer``, ``param_str``, ``share_in_parallel`` (accepted; it changes nothing where one solver
    trains). Raises NetError where the class is not found, is no Layer, or raises an error of its own, which the message
    names.

    Example::

        layer { name: "loss" type: "Python" bottom: "a" bottom: "b" top: "loss" loss_weight: 1
                python_param { module: "my_layers" layer: "MyLoss" param_str: "{'margin': 2}" } }

    Source: Caffe, include/caffe/layers/python_layer.hpp.
    """

    dynamic_tops: ClassVar[bool] = True
    inplace_ok = True

    def setup(self, bottom, top):
        p = self.param.python_param
        cls = self._class(p.module, p.layer)
        self.what = f"{p.module}.{p.layer}"
        with self._users_code("__init__"):
            self.inner = cls(self.param, self.phase, self.backend, self.rng_seed, self.forward_count)
        self.is_accuracy = self.inner.is_accuracy
        self.inner.param_str = self.inner.param_str_ = p.param_str
        self.inner.blobs = self.blobs = BlobVec(self)
        with self._users_code("setup"):
            self.inner.setup(bottom, top)

    def _class(self, module: str, name: str) -> type[Layer]:
        if not module or not name:
            self.fail(NetError, f'python_param must give a module and a layer, got "{module}" and "{name}"')
        try:
            cls = getattr(importlib.import_module(module), name, None)
        except Exception as error:
            text = f'the module "{module}" cannot be imported: {type(error).__name__}: {error}'
            raise NetError(f"{self.describe()}: {text} (is its folder on PYTHONPATH?)") from error
        if not isinstance(cls, type) or not issubclass(cls, Layer):
            text = f'the module "{module}" must hold a class "{name}" that derives from protocaffe.Layer'
            self.fail(NetError, f"{text}, got {'none' if cls is None else repr(cls)}")
        return cls

    @contextmanager
    def _users_code(self, method: str) -> Iterator[None]:
        try:
            yield
        except ProtocaffeError:
            raise
        except Exception as error:
            text = f"{self.what}.{method} raised {type(error).__name__}: {error}"
            raise NetError(f"{self.describe()}: {text}") from error

    def reshape(self, bottom, top):
        with self.context(), self._users_code("reshape"):
            self.inner.reshape(bottom, top)

    def forward(self, bottom, top):
        bottoms, tops = list(bottom), list(top)

        def run() -> None:
            self.reshape(bottoms, tops)
            with self.context(), self._users_code("forward"):
                self.inner.forward(bottoms, tops)

        self.ops.host(run, reads=bottoms, writes=tops, name="python")

    def backward(self, top, propagate_down, bottom):
        tops, down, bottoms = list(top), list(propagate_down), list(bottom)

        def run() -> None:
            with self.context(), self._users_code("backward"):
                self.inner.backward(tops, down, bottoms)

        self.ops.host(run, reads=tops, writes=bottoms, name="python")

    def close(self):
        self.inner.close()
