"""Functions of the user's that run before or after a layer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


class Handle:
    """A registered hook; ``remove()`` takes it off."""

    def __init__(self, hooks: list[Any], entry: Any) -> None:
        self._hooks, self._entry = hooks, entry

    def remove(self) -> None:
        """Take the hook off; doing it twice is fine."""
        self._hooks[:] = [entry for entry in self._hooks if entry is not self._entry]


class Hooks:
    """The part of Net that keeps hooks.

    >>> from protocaffe import Net
    >>> net = Net("models/lenet/deploy.prototxt", 1)
    >>> seen = []
    >>> handle = net.after_forward(seen.append, "ip1")
    >>> out = net.forward()
    >>> handle.remove()
    >>> seen
    ['ip1']
    """

    _layer_names: list[str]
    _index: Callable[[str, str], int]

    def _init_hooks(self) -> None:
        self._hooks: dict[str, list[Any]] = {k: [] for k in ("bf", "af", "bb", "ab")}

    def _hook(self, kind: str, function: Callable[[str], Any], layer: str | None) -> Handle:
        if layer is not None:
            self._index(layer, "hook")
        entry = (function, layer)
        self._hooks[kind].append(entry)
        return Handle(self._hooks[kind], entry)

    def _call_hooks(self, kind: str, index: int) -> None:
        name = self._layer_names[index]
        for function, layer in list(self._hooks[kind]):
            if layer is None or layer == name:
                function(name)

    def before_forward(self, function: Callable[[str], Any], layer: str | None = None) -> Handle:
        """Call ``function(layer name)`` before the forward pass of ``layer``, or of each layer."""
        return self._hook("bf", function, layer)

    def after_forward(self, function: Callable[[str], Any], layer: str | None = None) -> Handle:
        """Call ``function(layer name)`` after the forward pass of ``layer``, or of each layer."""
        return self._hook("af", function, layer)

    def before_backward(self, function: Callable[[str], Any], layer: str | None = None) -> Handle:
        """Call ``function(layer name)`` before the backward pass of ``layer``, or of each layer."""
        return self._hook("bb", function, layer)

    def after_backward(self, function: Callable[[str], Any], layer: str | None = None) -> Handle:
        """Call ``function(layer name)`` after the backward pass of ``layer``, or of each layer."""
        return self._hook("ab", function, layer)
