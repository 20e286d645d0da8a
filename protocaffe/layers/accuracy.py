"""Accuracy."""

from __future__ import annotations

from ..errors import ParameterError
from ..layer import register
from .labelled import Labelled


@register("Accuracy")
class Accuracy(Labelled):
    """The share of positions whose label is among the ``top_k`` highest scores; ties count against the label.

    Bottoms: scores (N, C, ...), labels (N, ...); tops: the accuracy, and if wanted that of each class (0 for a class
    without positions). No gradient.

    Options: ``top_k`` 1, ``axis`` 1, ``ignore_label``. Raises ParameterError for top_k above the number of classes,
    ShapeError for a wrong number of labels, DataError for a label out of range.

    Example::

        layer { name: "accuracy" type: "Accuracy" bottom: "ip2" bottom: "label" top: "accuracy" }

    Source: Caffe, src/caffe/layers/accuracy_layer.cpp.
    """

    min_tops = 1
    max_tops = 2
    is_accuracy = True

    def class_axis(self):
        return self.param.accuracy_param.axis

    def label_param(self):
        return self.param.accuracy_param

    def reshape(self, bottom, top):
        self.shape_rows(bottom)
        self.top_k = self.param.accuracy_param.top_k
        if not 1 <= self.top_k <= self.channels:
            self.fail(ParameterError, f"top_k must be 1 to the number of classes {self.channels}, got {self.top_k}")
        top[0].reshape(())
        if len(top) == 2:
            top[1].reshape(self.channels)

    def forward(self, bottom, top):
        x, label = bottom[0].data_mem, bottom[1].data_mem
        self.ops.launch_rows(
            "accuracy_rows", self.rows, self.channels, self.inner, x, label, self.top_k, self.has_ignore, self.ignore,
            self.row_value, self.row_valid, self.status,
        )  # fmt: skip
        for i, t in enumerate(top):
            classes = t.count if i else 1
            args = (self.rows, self.row_value, self.row_valid, label, int(i == 0), t.data_mem)
            self.ops.launch_rows("accuracy_mean", classes, *args)

    def allow_force_backward(self, index):
        return False
