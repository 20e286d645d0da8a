"""One layer on a bench: its blobs, its recorded calls, and nothing of a net."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from protocaffe.blob import Blob
from protocaffe.io import prototxt
from protocaffe.layer import create_layer
from protocaffe.memory import Slot
from protocaffe.plan import Recorder


def layer_param(text: str) -> Any:
    """The LayerParameter of ``layer { ... }``; it is called "L" unless it has a name."""
    (param,) = prototxt.parse_net(text).layer
    if not param.name:
        param.name = "L"
    return param


class Bench:
    """A layer, its bottoms of the given shapes, and its tops; ``inplace`` makes them the same blobs."""

    def __init__(
        self,
        text: str,
        shapes: Mapping[str, Sequence[int]],
        backend: Any,
        phase: int = 0,
        seed: int = 1,
        inplace: bool = False,
    ) -> None:
        self.backend = backend
        param = layer_param(text)
        assert list(shapes) == list(param.bottom), f"shapes are given for {list(shapes)}, bottoms are {param.bottom}"
        self.bottom = [Blob(backend, name, tuple(shape)) for name, shape in shapes.items()]
        self.forward_count = backend.empty((1,), np.uint64)
        self.layer = create_layer(param, phase, backend, seed, self.forward_count)
        self.top = self.bottom if inplace else [Blob(backend, name) for name in param.top]
        self.scratch = Slot(backend, backend.real)
        self.layer.check_counts(len(self.bottom), len(self.top))
        self.layer.setup(self.bottom, self.top)
        self.layer.reshape(self.bottom, self.top)
        self._forward: list[Any] | None = None

    @property
    def params(self) -> list[Blob]:
        """The layer's parameters."""
        return self.layer.blobs

    def reshape(self, shapes: Mapping[str, Sequence[int]]) -> None:
        """Give the bottoms other shapes."""
        for blob in self.bottom:
            blob.reshape(tuple(shapes[blob.name]))
        self.layer.reshape(self.bottom, self.top)
        self._forward = None

    def _record(self, step: str, *args: Any) -> list[Any]:
        self.layer.ops = Recorder(self.backend, self.layer.name, self.scratch)
        getattr(self.layer, step)(*args)
        return [call.run for call in self.layer.ops.calls]

    def forward(self, inputs: Sequence[np.ndarray] = ()) -> list[np.ndarray]:
        """Set the bottoms, run, return copies of the tops' values."""
        for blob, values in zip(self.bottom, inputs, strict=False):
            blob.data[...] = values
        if self._forward is None:
            self._forward = self._record("forward", self.bottom, self.top)
        self.backend.replay(self._forward)
        self.layer.check()
        return [blob.data.copy() for blob in self.top]

    def backward(
        self,
        top_diffs: Sequence[np.ndarray],
        down: Sequence[bool],
        params: Sequence[bool] | None = None,
        junk: float = np.nan,
        before: Sequence[np.ndarray] = (),
    ) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """Run after a forward pass; returns copies of the diffs of bottoms and parameters.

        The diffs of the bottoms are ``junk`` before, those of the parameters ``before``.
        """
        for blob in self.bottom:
            blob.diff[...] = junk
        for blob, values in zip(self.params, before, strict=True):
            blob.diff[...] = values
        for blob, values in zip(self.top, top_diffs, strict=True):
            blob.diff[...] = values
        self.layer.param_propagate_down = list(params or [True] * len(self.params))
        self.backend.replay(self._record("backward", self.top, list(down), self.bottom))
        self.layer.check()
        return [blob.diff.copy() for blob in self.bottom], [blob.diff.copy() for blob in self.params]
