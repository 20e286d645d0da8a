"""Solver states: the goldens, round trips, damage."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from protocaffe.errors import FileFormatError
from protocaffe.io import schema
from protocaffe.io.solverstate import SolverState, read_solverstate, write_solverstate

GOLDENS = Path(__file__).resolve().parents[1] / "goldens"
FILES = sorted(GOLDENS.glob("files/**/*.solverstate"))


@pytest.mark.parametrize("file", FILES, ids=lambda f: f.parent.name)
def test_read_as_protobuf_does(file, tmp_path):
    proto = schema.SolverState.FromString(file.read_bytes())
    state = read_solverstate(file)
    assert (state.iter, state.learned_net, state.current_step) == (5, proto.learned_net, proto.current_step)
    assert state.resume is None and len(state.history) == len(proto.history) > 0
    for got, blob in zip(state.history, proto.history, strict=True):
        assert got.shape == tuple(blob.shape.dim)
        np.testing.assert_array_equal(got.ravel(), np.array(blob.data, np.float32))
    copy = tmp_path / "copy.solverstate"
    write_solverstate(copy, state)
    assert schema.SolverState.FromString(copy.read_bytes()) == proto


def example() -> SolverState:
    resume = schema.ResumeState(seed=2**63 + 1, forward_count=9, loss_window=[0.5, 0.25])
    resume.source.add(layer="data", position=640)
    return SolverState(7, "a/b.caffemodel", 2, [np.ones((2, 3), np.float32), np.zeros((), np.float32)], resume)


def test_round_trip_with_resume(tmp_path):
    file = tmp_path / "a.solverstate"
    state = example()
    write_solverstate(file, state)
    got = read_solverstate(file)
    assert (got.iter, got.learned_net, got.current_step) == (7, "a/b.caffemodel", 2)
    assert got.resume == state.resume and [h.shape for h in got.history] == [(2, 3), ()]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "empty"),
        (b"\x0a\x05LeNet", "malformed iter"),
        (b"\x20\x01", "names no iteration"),
        (b"\x08\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", "impossible iter -1"),
        (b"\x08\x05\x1a\x06\x2a\x04\0\0", "ends too early"),
        (b"\x08\x05\x1a\x06\x2a\x04\0\0\0", "ends too early"),
        (b"\x08\x05\x1a\x0a\x2a\x04\0\0\0\0\x3a\x02\x08\x02", r"\(history 0\)"),
    ],
)
def test_damage_is_named(tmp_path, content, said):
    file = tmp_path / "bad.solverstate"
    file.write_bytes(content)
    with pytest.raises(FileFormatError, match=said) as caught:
        read_solverstate(file)
    assert "bad.solverstate" in str(caught.value)


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.data())
def test_damaged_files_raise_nothing_else(tmp_path, data):
    good = tmp_path / "good.solverstate"
    write_solverstate(good, example())
    content = bytearray(good.read_bytes())[: data.draw(st.integers(0, 120))]
    for bit in data.draw(st.lists(st.integers(0, max(8 * len(content) - 1, 0)), max_size=4)):
        if content:
            content[bit // 8] ^= 1 << bit % 8
    good.write_bytes(bytes(content))
    try:
        read_solverstate(good)
    except FileFormatError as e:
        assert "good.solverstate" in str(e)
