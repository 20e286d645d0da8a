"""Which values of a weight belong to which output of its layer."""

from __future__ import annotations

from math import prod
from typing import NamedTuple

import numpy as np


class WeightLayout(NamedTuple):
    """How a weight lies in memory, as its layer declares it: whatever shape its blob has been given since.

    ``axis`` counts the outputs, of each of ``groups`` parts of what lies before it: (outputs, inputs...) with axis 0,
    a transposed InnerProduct's (inputs, outputs) with axis 1, a grouped Deconvolution's (inputs, outputs of a group,
    kernel...) with axis 1 and its groups.

    >>> turned = WeightLayout((3, 2), axis=1)
    >>> turned.rows(np.arange(6))
    array([[0, 2, 4],
           [1, 3, 5]])
    >>> turned.values(turned.rows(np.arange(6)), (6,))
    array([0, 1, 2, 3, 4, 5])
    """

    shape: tuple[int, ...]
    axis: int = 0
    groups: int = 1

    @property
    def outputs(self) -> int:
        """How many outputs (filters, channels) the layer has."""
        return self.groups * self.shape[self.axis] if self.shape else 1

    @property
    def _extents(self) -> tuple[int, int, int, int]:
        """Groups, then before, at and behind the outputs' axis."""
        before, behind = self.shape[: self.axis], self.shape[self.axis + 1 :]
        return self.groups, prod(before) // self.groups, self.outputs // self.groups, prod(behind)

    def rows(self, values: np.ndarray) -> np.ndarray:
        """``values`` as a matrix: a row for each output, which holds its inputs in order; a view where one will do."""
        groups, before, outputs, behind = self._extents
        parts = values.reshape(groups, before, outputs, behind)
        return parts.transpose(0, 2, 1, 3).reshape(groups * outputs, before * behind)

    def values(self, rows: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        """The inverse of `rows`: in the order in which they lie in memory, in ``shape``."""
        groups, before, outputs, behind = self._extents
        return rows.reshape(groups, outputs, before, behind).transpose(0, 2, 1, 3).reshape(shape)
