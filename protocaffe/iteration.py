"""The passes of a training iteration, and their losses, which a device need not be waited for.

Where nothing has its say between the layers, clearing the gradients, forward, backward and noting the loss are one
sequence of calls: on a GPU one graph. Losses lie in a ring on the device until somebody looks.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from math import isfinite
from typing import TYPE_CHECKING

import numpy as np

from .plan import Pass, Plan

if TYPE_CHECKING:
    from .backends.base import Bound
    from .memory import Memory
    from .net import Net

logger = logging.getLogger("protocaffe.solver")

#: iterations whose losses are kept on the device
RING = 1024


class Iteration:
    """Runs the passes of ``net``, a training net whose gradients are summed over ``size`` passes.

    ``clip[1]`` is set where a loss is not finite, so that updates stop (kernels/update.cu), until that is looked at.
    """

    def __init__(self, net: Net, size: int, clip: Memory) -> None:
        self.net = net
        self.size = size
        self._clip = clip
        backend = net.backend
        self._ring = backend.empty((RING,))
        self._count = backend.empty((1,), np.uint64)
        self._clear = backend.bind_launch("fill", net.arena.size, (net.arena_memory("diff"), 0.0))
        self._ran = 0  # iterations
        self._seen = 0  # of them those whose losses were looked at
        self._last = 0  # the number of the last one
        self._whole = True  # the last iteration came to its end
        self._undivided = True
        self._joined: dict[bool, tuple[Plan, Plan, int, Pass]] = {}
        self._noted: Plan | None = None
        self._notes: dict[bool, list[Bound]] = {}

    def run(self, iteration: int) -> None:
        """The passes of an iteration: what they leave is the sum of the gradients, and a loss to be looked at."""
        undivided = self.net.undivided
        if undivided != self._undivided and not self.net.backend.unified:
            how = "as one sequence" if undivided else "layer by layer (debug_info, hooks, or tops of changing shape)"
            logger.info("Iteration %d: from here on the device is given the passes %s", iteration, how)
        self._undivided = undivided
        if not self._whole:  # it may have begun a place in the ring
            self._count.assign([self._ran])
        self._whole = False
        for number in range(self.size):
            if undivided:
                self._pass(number == 0).run()
            else:
                self._run_in_pieces(number == 0)
        self._ran += 1
        self._last = iteration
        self._whole = True

    @property
    def waiting(self) -> int:
        """Iterations whose losses were not looked at yet; there is room for `RING` of them."""
        return self._ran - self._seen

    def look(self) -> list[tuple[int, float]]:
        """Number and loss of each iteration since the last look; waits for the device if there are any."""
        if not self.waiting:
            return []
        self.net.check()
        ring = self._ring.read()
        places = range(self._seen, self._ran)
        self._seen = self._ran
        losses = [(self._last + 1 + i - self._ran, float(ring[i % RING]) / self.size) for i in places]
        if not all(isfinite(loss) for _, loss in losses):
            self._clip.array[1] = 0
        return losses

    def _run_in_pieces(self, first: bool) -> None:
        backend = self.net.backend
        if first:
            backend.replay((self._clear,))
        self.net.run_forward(check=False)
        self.net.run_backward()
        backend.replay(self._note(self.net.plans()[0], first))

    def _pass(self, first: bool) -> Pass:
        forward, backward = self.net.plans()
        version = self.net.arena.version
        known = self._joined.get(first)
        if known is None or known[0] is not forward or known[1] is not backward or known[2] != version:
            before = [self._clear] if first else []
            after = [*self.net.mask_gradients(), *self._note(forward, first)]
            known = forward, backward, version, Pass(forward, backward, len(self.net.layers), before, after)
            self._joined[first] = known
        return known[3]

    def _note(self, plan: Plan, first: bool) -> Sequence[Bound]:
        """Calls that add the pass's loss to the iteration's, which the first one begins."""
        if self._noted is not plan:
            self._noted, self._notes = plan, {first: self._bind_notes(first) for first in (True, False)}
        return self._notes[first]

    def _bind_notes(self, first: bool) -> list[Bound]:
        net = self.net
        calls: list[Bound] = []
        for blob, weight in net.loss_tops():
            top, begins = blob.data_mem, int(first and not calls)
            args = (top.count, top, weight, begins, RING, self._count, self._ring, self._clip)
            calls.append(net.backend.bind_launch("loss_note", 1, args, rows=True))
        if first and not calls:
            calls.append(net.backend.bind_launch("count_up", 1, (self._count,)))
        return calls
