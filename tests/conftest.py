"""What all tests share: Hypothesis draws the same examples each time and writes nothing into the source tree."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis.configuration import set_hypothesis_home_dir

import protocaffe
from protocaffe.backends import get_backend

set_hypothesis_home_dir(Path(tempfile.gettempdir()) / "protocaffe-hypothesis")
settings.register_profile("protocaffe", derandomize=True, deadline=None, database=None, max_examples=25)
settings.load_profile("protocaffe")

protocaffe.set_math("fp32")  # what is compared with float64 is computed exactly
os.environ.setdefault("PROTOCAFFE_TUNE", "0")
if os.environ.get("PROTOCAFFE_TEST_DEVICE") == "gpu":
    protocaffe.set_mode_gpu()


@pytest.fixture(scope="session")
def cpu():
    """The CPU in float32."""
    return get_backend("cpu")


@pytest.fixture(scope="session")
def cpu64():
    """The CPU's check build, in float64."""
    return get_backend("cpu", "float64")
