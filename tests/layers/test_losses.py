"""SoftmaxWithLoss and NLLLoss against their formulas, and against each other."""

from functools import partial

import numpy as np
import pytest

from protocaffe.backends import get_backend
from protocaffe.errors import DataError, NetError, ParseError, ShapeError
from protocaffe.io import prototxt
from protocaffe.net import Net
from tests.support import oracles
from tests.support.bench import Bench
from tests.support.check_layer import check_error, check_layer, labels

KINDS = {"SoftmaxWithLoss": "softmax_loss", "NLLLoss": "nll_loss"}


def layer(kind, options="", axis=1, tops=("loss",)):
    blobs = "".join(f' top: "{t}"' for t in tops)
    return (f'layer {{ type: "{kind}" bottom: "x" bottom: "label"{blobs} softmax_param {{ axis: {axis} }} '
            f"loss_param {{ {options} }} }}")  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("options", "x", "label", "oracle"),
    [
        ("", (5, 4), (5,), {}),
        ("", (3, 4), (3, 1, 1, 1), {}),
        ("", (2, 3, 4, 2), (2, 4, 2), {}),
        ("", (2, 3, 4, 2), (2, 1, 4, 2), {}),
        ("ignore_label: 1", (6, 3), (6,), {"ignore": 1}),
        ("ignore_label: 255", (2, 3, 4), (2, 4), {"ignore": 255}),
        ("ignore_label: -1 normalization: VALID", (2, 3, 4), (2, 4), {"ignore": -1}),
        ("ignore_label: 2 normalization: FULL", (2, 3, 4), (2, 4), {"ignore": 2, "normalization": "FULL"}),
        ("ignore_label: 2 normalization: BATCH_SIZE", (2, 3, 4), (2, 4), {"ignore": 2, "normalization": "BATCH_SIZE"}),
        ("ignore_label: 2 normalization: NONE", (2, 3, 4), (2, 4), {"ignore": 2, "normalization": "NONE"}),
        ("normalize: true", (2, 3, 4), (2, 4), {}),
        ("normalize: false", (2, 3, 4), (2, 4), {"normalization": "BATCH_SIZE"}),
        ("normalize: false normalization: FULL", (2, 3, 4), (2, 4), {"normalization": "FULL"}),
        ("axis -1", (2, 4, 3), (2, 4), {"axis": -1}),
        ("axis 0", (3, 4), (4,), {"axis": 0}),
    ],
)
def test_against_the_oracle(kind, options, x, label, oracle):
    axis = oracle.get("axis", 1)
    text = layer(kind, "" if options.startswith("axis") else options, axis)
    reference, gradient = (partial(getattr(oracles, KINDS[kind] + end), **oracle) for end in ("", "_gradient"))
    ignore = oracle.get("ignore")
    draw = labels(x[axis], *([] if ignore is None else [ignore]))
    large = {"x": (600, 50), "label": (600,)} if len(x) == 2 and axis == 1 and ignore is None else None
    check_layer(text, {"x": x, "label": label}, reference, gradient, inputs={"label": labels(50) if large else draw}
                if False else {"label": draw}, reshaped="batch" if axis else {"x": (3, 6), "label": (6,)},
                large=large)  # fmt: skip
