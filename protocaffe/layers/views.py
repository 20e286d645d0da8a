"""What Crop and Permute share: a top that is a view of the bottom."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

from ..errors import ShapeError
from ..layer import Layer

MAX_AXES = 8


def steps_of(shape: Sequence[int]) -> list[int]:
    """Elements from one index to the next, axis by axis.

    >>> steps_of((2, 3, 4))
    [12, 4, 1]
    """
    return [prod(shape[a + 1 :]) for a in range(len(shape))]


class View(Layer):
    """Copies a view of bottom 0, which a subclass describes by ``look``, and its gradient back."""

    exact_tops = 1
    rows: int
    view: dict[str, Any]

    def look(self, x: Any, extents: Sequence[int], steps: Sequence[int], offset: int = 0) -> None:
        """Set the view: extents of the top, and how many elements of ``x`` lie between neighbours along each axis."""
        if not 1 <= len(extents) <= MAX_AXES or x.count >= 2**31:
            self.fail(ShapeError, f"takes 1 to {MAX_AXES} axes and less than 2^31 values, got bottom {x.shape}")
        self.rows = prod(extents[:-1]) if prod(extents) else 0
        self.view = {"axes": len(extents), "offset": offset, "extent": tuple(extents), "step": tuple(steps)}

    def forward(self, bottom, top):
        args = (self.view, bottom[0].data_mem, top[0].data_mem)
        self.ops.launch_rows("view_gather", self.rows, *args)

    def backward(self, top, propagate_down, bottom):
        if propagate_down[0]:
            if top[0].count < bottom[0].count:
                self.ops.launch("fill", bottom[0].count, bottom[0].diff_mem, 0.0)
            args = (self.view, top[0].diff_mem, bottom[0].diff_mem)
            self.ops.launch_rows("view_scatter", self.rows, *args)
