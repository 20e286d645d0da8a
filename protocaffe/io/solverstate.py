"""A solver's state in Caffe's binary format (.solverstate)."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..errors import FileFormatError
from . import schema, wire
from .caffemodel import read_bytes
from .files import atomic_write


@dataclass
class SolverState:
    """Where a solver stopped.

    Attributes
    ----------
    iter : iterations done
    learned_net : path of the weights that belong to it
    current_step : how many steps the learning-rate policy has taken
    history : the update rule's arrays (momentum and so on), in Caffe's order
    resume : a ResumeState message with what a bit-identical resume needs; None in Caffe's own files
    """

    iter: int = 0
    learned_net: str = ""
    current_step: int = 0
    history: list[np.ndarray] = field(default_factory=list)
    resume: Any = None


def read_solverstate(path: str | os.PathLike[str]) -> SolverState:
    """Read a .solverstate.

    Raises
    ------
    FileFormatError : truncated, damaged or no solver state; names the file
    OSError : the file cannot be read
    """
    from google.protobuf.message import DecodeError

    buf = read_bytes(path, "solverstate")
    state = SolverState()
    resume = b""
    known = False
    try:
        for number, kind, a, b in wire.scan(buf, 0, len(buf)):
            known = known or number == 1
            if number in (1, 4):
                wire.expect(kind, wire.VARINT, "iter" if number == 1 else "current_step")
                value = wire.signed(a)
                if not 0 <= value < 1 << 31:
                    raise wire.WireError(f"has the impossible {'iter' if number == 1 else 'current_step'} {value}")
                if number == 1:
                    state.iter = value
                else:
                    state.current_step = value
            elif number == 2:
                wire.expect(kind, wire.LENGTH, "learned_net")
                state.learned_net = wire.text(buf, a, b, "learned_net")
            elif number == 3:
                wire.expect(kind, wire.LENGTH, f"history {len(state.history)}")
                state.history.append(_history(buf, a, b, len(state.history)))
            elif number == 5000:
                wire.expect(kind, wire.LENGTH, "resume")
                resume += buf[a:b]
                state.resume = True
        if state.resume:
            state.resume = schema.ResumeState.FromString(resume)
            [s.layer for s in state.resume.source]
    except (ValueError, OverflowError, DecodeError) as e:
        raise FileFormatError(f'"{os.fspath(path)}" is not a valid solverstate: it {e}') from e
    if not known:
        raise FileFormatError(f'"{os.fspath(path)}" is not a solverstate: it names no iteration')
    return state


def _history(buf: bytes, begin: int, stop: int, index: int) -> np.ndarray:
    try:
        return wire.read_blob(buf, begin, stop).data
    except (ValueError, OverflowError) as e:
        raise wire.WireError(f"{e} (history {index})") from e


def write_solverstate(path: str | os.PathLike[str], state: SolverState) -> None:
    """Write a .solverstate that BVLC Caffe reads too (it skips `resume`)."""
    name = state.learned_net.encode()
    parts: list[Any] = [wire.varint_field(1, state.iter), wire.head(2, len(name)), name]
    for array in state.history:
        parts += wire.wrapped(3, wire.blob_parts(array))
    parts.append(wire.varint_field(4, state.current_step))
    if state.resume is not None:
        parts += wire.wrapped(5000, [state.resume.SerializeToString()])
    with atomic_write(path) as file:
        file.writelines(parts)
