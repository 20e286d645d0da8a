"""Testing while training: mean outputs of the test nets, and Caffe's log lines about outputs."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from .net import Net

logger = logging.getLogger("protocaffe.solver")


def number(value: float) -> str:
    """A number as C++ streams print it: six digits, no trailing zeros.

    >>> number(0.1), number(1e-07), number(87.33654), number(float("nan"))
    ('0.1', '1e-07', '87.3365', 'nan')
    """
    return f"{value:.6g}"


def accuracies(net: Net) -> list[str]:
    """The outputs of ``net`` that are accuracies: first tops of layers that say so; a second one is by class."""
    tops = {wire.tops[0] for wire in net._wires if wire.layer.is_accuracy and wire.tops}
    return [name for name in net.outputs if name in tops]


class Scoring:
    """The part of Solver that tests nets and reports outputs."""

    iter: int
    param: Any
    net: Net
    test_nets: list[Net]
    _timer: tuple[float, int]
    test_scores: list[dict[str, np.ndarray]]
    action: Callable[[], str | None]
    snapshot: Callable[[], Any]
    _stopped: bool

    @staticmethod
    def _log_outputs(which: str, net: Net, outputs: dict[str, np.ndarray]) -> None:
        line = 0
        weights = net.blob_loss_weights
        for name, values in outputs.items():
            weight = weights[name]
            for value in np.ravel(values):
                extra = f" (* {number(weight)} = {number(weight * float(value))} loss)" if weight else ""
                logger.info("    %s net output #%d: %s = %s%s", which, line, name, number(float(value)), extra)
                line += 1

    def _display(self, loss: float) -> None:
        (then, since), now = self._timer, time.perf_counter()
        passed = now - then
        rate = (self.iter - since) / passed if passed > 0 and self.iter > since else 0.0
        self._timer = (now, self.iter)
        logger.info(
            "Iteration %d (%s iter/s, %ss/%d iters), loss = %s",
            self.iter, number(rate), number(passed), self.param.display, number(loss),
        )  # fmt: skip
        self._log_outputs("Train", self.net, {name: self.net.blobs[name].data for name in self.net.outputs})

    def test_all(self) -> None:
        """Run every test net; no parameter, mask or history changes."""
        for index in range(len(self.test_nets)):
            if self._stopped:
                return
            self.test(index)

    def test(self, index: int = 0) -> dict[str, np.ndarray]:
        """Mean outputs of test net ``index`` over its ``test_iter`` batches."""
        logger.info("Iteration %d, Testing net (#%d)", self.iter, index)
        net, batches = self.test_nets[index], self.param.test_iter[index]
        sums: dict[str, np.ndarray] = {}
        loss = 0.0
        for _ in range(batches):
            wanted = self.action()
            while wanted is not None and not self._stopped:
                if wanted == "snapshot":
                    self.snapshot()
                self._stopped = wanted == "stop"
                wanted = self.action()
            if self._stopped:
                logger.info("Test interrupted.")
                return {}
            net.run_forward()
            loss += net.loss()
            for name in net.outputs:
                values = net.blobs[name].data.astype(np.float64)
                sums[name] = sums[name] + values if name in sums else values
        if self.param.test_compute_loss:
            logger.info("Test loss: %s", number(loss / batches))
        means = {name: values / batches for name, values in sums.items()}
        self.test_scores[index] = means
        self._log_outputs("Test", net, means)
        return means
