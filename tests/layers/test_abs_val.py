"""AbsVal against its formula."""

import numpy as np
import pytest

from protocaffe.backends import get_backend
from protocaffe.errors import NetError
from tests.support.bench import Bench
from tests.support.check_layer import check_error, check_layer

LAYER = 'layer { type: "AbsVal" bottom: "x" top: "y" }'


@pytest.mark.parametrize("shape", [(2, 3, 4, 5), (2, 1, 3, 2, 2), (7,), (1,), (), (0, 3)], ids=str)
def test_abs_val(shape):
    def gradient(arrays, diffs):
        return [diffs[0] * np.sign(arrays[0])]

    check_layer(LAYER, {"x": shape}, np.abs, gradient, kinks=[0], reshaped="batch" if shape else {"x": (3,)},
                large={"x": (50, 20, 41)})  # fmt: skip


def test_zero_has_no_gradient():
    bench = Bench(LAYER, {"x": (3,)}, get_backend("cpu"))
    assert bench.forward([np.array([-2.0, 0.0, 3.0])])[0].tolist() == [2, 0, 3]
    assert bench.backward([np.ones(3)], [True])[0][0].tolist() == [-1, 0, 1]


def test_errors():
    check_error(NetError, "takes 1 bottom blob, got 2", LAYER.replace("top", 'bottom: "z" top', 1),
                {"x": (2,), "z": (2,)})  # fmt: skip
