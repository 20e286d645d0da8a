"""What the layers that compare scores with labels share."""

from __future__ import annotations

import numpy as np

from ..errors import DataError, ShapeError
from ..layer import Layer


class Labelled(Layer):
    """Bottoms: scores with the classes along one axis, and an integer label for every (outer, inner) position.

    A label outside of [0, classes) that is not ``ignore_label`` is a DataError after the forward pass.
    """

    exact_bottoms = 2

    def class_axis(self) -> int:
        """The axis of the classes, as the prototxt gives it."""
        return self.param.softmax_param.axis

    def setup(self, bottom, top):
        p = self.label_param()
        self.has_ignore, self.ignore = int(p.HasField("ignore_label")), p.ignore_label
        self.status = self.buffer("status", (2,), np.int32)

    def label_param(self):
        """The message that holds ``ignore_label``."""
        return self.param.loss_param

    def shape_rows(self, bottom):
        """Set channels, inner, outer, rows; check that there is a label for each row."""
        x, label = bottom
        axis = self.axis(x, self.class_axis())
        self.channels, self.inner = x.shape[axis], x.count_range(axis + 1)
        self.outer = x.count_range(0, axis)
        self.rows = self.outer * self.inner
        if label.count != self.rows:
            self.fail(
                ShapeError,
                f'bottom "{label.name}" must hold {self.rows} labels, one for each position of "{x.name}" {x.shape} '
                f"but axis {axis}, got {label.count} ({label.shape})",
            )
        self.row_valid = self.buffer("row_valid", (max(1, self.rows),))
        self.row_value = self.buffer("row_value", (max(1, self.rows),))

    def check(self):
        flag, label = self.status.read()
        if flag:
            self.status.array[...] = 0
            self.fail(
                DataError, f"label {label} is out of range: there are {self.channels} classes, 0 to {self.channels - 1}"
            )


class LabelledLoss(Labelled):
    """A mean over the labelled positions, divided as ``loss_param.normalization`` says.

    VALID (default): positions that are not ignored; FULL: all positions; BATCH_SIZE: outer positions; NONE: 1.
    ``normalize`` is the old spelling: true is VALID, false BATCH_SIZE.
    """

    exact_tops = None
    min_tops = 1
    max_tops = 2
    auto_top = True
    default_loss_weight = 1.0

    def setup(self, bottom, top):
        super().setup(bottom, top)
        p = self.param.loss_param
        names = p.DESCRIPTOR.enum_types_by_name["NormalizationMode"].values_by_number
        self.normalization = names[p.normalization].name
        if not p.HasField("normalization") and p.HasField("normalize"):
            self.normalization = "VALID" if p.normalize else "BATCH_SIZE"
        self.normalizer = self.buffer("normalizer", (1,))

    def reshape(self, bottom, top):
        self.shape_rows(bottom)
        top[0].reshape(())
        self.divisor = {"FULL": self.rows, "BATCH_SIZE": self.outer, "NONE": 1, "VALID": -1}[self.normalization]

    def allow_force_backward(self, index):
        return index != 1

    def record_loss(self, values, label, top, logarithms: bool) -> None:
        """top = sum of -log p[label] / divisor; ``values`` are probabilities or their logarithms."""
        self.ops.launch(
            "nll_rows", self.rows, self.channels, self.inner, values, label.data_mem, int(logarithms), self.has_ignore,
            self.ignore, self.row_value, self.row_valid, self.status,
        )  # fmt: skip
        self.record_mean(self.ops, top)

    def record_mean(self, ops, top) -> None:
        """top = sum of the rows' losses / divisor."""
        args = (self.rows, self.row_value, self.row_valid, float(self.divisor), self.normalizer, top.data_mem)
        ops.launch_rows("loss_mean", 1, *args)

    def refuse_label_gradient(self, propagate_down) -> None:
        """Labels have no gradient."""
        if propagate_down[1]:
            self.fail(ShapeError, "cannot propagate a gradient to the labels")
