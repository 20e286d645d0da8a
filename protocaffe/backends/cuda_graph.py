"""Calls as CUDA graphs: a launch costs the host 10 microseconds, one of a graph costs the GPU a quarter of that."""

from __future__ import annotations

import gc
from collections.abc import Sequence
from functools import partial
from typing import Any

from ..errors import BackendError
from .base import Bound, HostCall


class Segment:
    """Calls with no Python between them: made one by one the first time, then captured, then launched as one.

    The first time warms up what allocates inside libraries, which a capture must not see.
    """

    def __init__(self, device: Any, calls: Sequence[Bound]) -> None:
        from cuda.bindings import driver

        self._driver = driver
        self._stream = device.stream
        self._trash = device.trash
        self._calls = list(calls)
        self._warm = False
        self._graph: Any = None

    def warm(self) -> None:
        """Capture at the next call: every call has been made before."""
        self._warm = True

    def __call__(self) -> None:
        """Do what the calls do."""
        if self._graph is None:
            if not self._warm:
                for call in self._calls:
                    call()
                self._warm = True
                return
            self._graph = self._capture()
        self._do(self._driver.cuGraphLaunch(self._graph, self._stream.handle))

    def _do(self, result: tuple[Any, ...]) -> Any:
        if result[0] != self._driver.CUresult.CUDA_SUCCESS:
            raise BackendError(f"the GPU's driver: {result[0].name}")
        return result[1] if len(result) > 1 else None

    def _capture(self) -> Any:
        driver, handle = self._driver, self._stream.handle
        mode = driver.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL
        collecting = gc.isenabled()
        gc.disable()  # a destructor that frees memory of the GPU would break the capture
        try:
            self._do(driver.cuStreamBeginCapture(handle, mode))
            try:
                for call in self._calls:
                    call()
            finally:
                ended = driver.cuStreamEndCapture(handle)
            graph = self._do(ended)
        finally:
            if collecting:
                gc.enable()
        try:
            return self._do(driver.cuGraphInstantiate(graph, 0))
        finally:
            driver.cuGraphDestroy(graph)

    def __del__(self) -> None:
        if getattr(self, "_graph", None) is not None:
            self._trash.append(partial(self._driver.cuGraphExecDestroy, self._graph))


def segments(device: Any, calls: Sequence[Bound]) -> list[Bound]:
    """The calls with each run of two or more between host calls made into a `Segment`."""
    out: list[Bound] = []
    run: list[Bound] = []
    for call in calls:
        if isinstance(call, HostCall):
            out += [*_joined(device, run), call]
            run = []
        else:
            run.append(call)
    return out + _joined(device, run)


def _joined(device: Any, run: list[Bound]) -> list[Bound]:
    return [Segment(device, run)] if len(run) > 1 else run
