"""The CPU backend as a citizen of a Python process."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from protocaffe import backends
from protocaffe.backends import get_backend
from protocaffe.errors import BackendError

FORK = """
import os, sys
import numpy as np
import protocaffe
net = protocaffe.Net("models/lenet/deploy.prototxt", seed=1)
net.blobs["data"].data = np.random.default_rng(0).random((64, 1, 28, 28))
before = net.forward()["prob"].copy()
child = os.fork()
same = bool((net.forward()["prob"] == before).all())
if not child:
    os._exit(0 if same else 3)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) if same else 4)
"""


def test_a_forked_child_computes_too():
    """libgomp's threads do not survive a fork; a child that waited for them would hang."""
    assert subprocess.run([sys.executable, "-W", "ignore", "-c", FORK], timeout=60).returncode == 0


def test_loading_the_kernels_leaves_the_environment_and_flush_to_zero_alone():
    code = (
        "import os; before = dict(os.environ); import numpy as np; from protocaffe.backends import get_backend; "
        "get_backend('cpu'); assert dict(os.environ) == before; "
        "tiny = np.float32(1e-38) * np.float32(0.1); assert tiny > 0"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0


def test_an_unknown_device_is_an_error():
    with pytest.raises(BackendError, match='no backend "gpu"'):
        get_backend("gpu")
    with pytest.raises(BackendError, match="float32 or float64, got float16"):
        backends.get_backend("cpu", "float16")


def test_memory_is_aligned_and_zeroed():
    memory = get_backend("cpu").empty((3, 5))
    assert memory.storage.device % 64 == 0
    np.testing.assert_array_equal(memory.array, np.zeros((3, 5)))
