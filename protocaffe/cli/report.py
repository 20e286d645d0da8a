"""``--report``: what ``prune`` and ``finetune`` note down for the page of pruning/page.py, and the timing on it."""

from __future__ import annotations

import os
import platform
import shlex
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any, TypeVar

import click
import numpy as np

from protocaffe.errors import ParameterError

if TYPE_CHECKING:
    from protocaffe.io.caffemodel import LayerWeights
    from protocaffe.net import Net
    from protocaffe.pruning import SparsityReport
    from protocaffe.pruning.page import Point, Speed

F = TypeVar("F", bound=Callable[..., Any])
#: seconds that timing may take; at most so many repetitions, at least REPETITIONS of pruning/page.py
BUDGET, MOST = 6.0, 9
#: batches that prune scores a net with
BATCHES = 50


def report_options(command: F) -> F:
    """Add ``--report`` and ``--no-timing``, as ``page`` and ``no_timing``."""
    no_timing = click.option("--no-timing", is_flag=True, help="With --report: do not measure speed (a few seconds).")
    page = click.option("--report", "page", metavar="FILE", help="Write a page (HTML) of what was done: accuracy, "
                        "sparsity, size, speed (needs protocaffe[plots]).")  # fmt: skip
    return page(no_timing(command))


def copied(net: Any) -> list[LayerWeights]:
    """The weights and masks of a net, as they are now."""
    out = []
    for layer in net.layer_weights():
        masks = [None if mask is None else mask.copy() for mask in layer.masks]
        out.append(replace(layer, blobs=[np.array(blob) for blob in layer.blobs], masks=masks))
    return out


def fresh(net: Net, weights: Sequence[LayerWeights]) -> Net:
    """Another net as this one, with other weights: its data start at the beginning, and nothing of this one changes."""
    from protocaffe.net import Net

    param = type(net.param)()
    param.CopyFrom(net.param)
    for layer in param.layer:  # chosen already
        layer.ClearField("include")
        layer.ClearField("exclude")
    other = Net(param, net.phase, backend=net.backend, seed=1)
    other.copy_weights(weights)
    return other


def score_of(net: Net, weights: Sequence[LayerWeights]) -> float | None:
    """The accuracy over the first batches of the net's data; None where it has no accuracy."""
    from protocaffe.cli.sensitivity import accuracy_of
    from protocaffe.scoring import accuracies

    if not accuracies(net) or net.inputs:
        return None
    other = fresh(net, weights)
    try:
        return accuracy_of(other, BATCHES)
    finally:
        other.close()


def file_bytes(paths: Sequence[str]) -> int | None:
    """Bytes of these files together; None where there are none."""
    return sum(os.path.getsize(path) for path in paths) if paths else None


def without_zeros(weights: Sequence[LayerWeights]) -> list[LayerWeights]:
    """The same shapes with no mask and no zero, but in parameters of one axis: what dense weights cost."""
    rng = np.random.default_rng(0)
    out = []
    for layer in weights:
        blobs = []
        for blob in layer.blobs:
            values = np.array(blob)
            if values.ndim > 1 and not values.all():
                scale = float(np.std(values[values != 0])) if values.any() else 0.01
                values[values == 0] = rng.normal(scale=scale or 0.01, size=int((values == 0).sum()))
            blobs.append(values)
        out.append(replace(layer, blobs=blobs, masks=[None] * len(blobs)))
    return out


def zero_channels(layer: Any, values: np.ndarray) -> tuple[int, int] | None:
    """Output channels of a layer's weight that are wholly zero, of how many; None for types that are not known."""
    if layer.type == "Deconvolution":  # inputs, outputs of a group, kernel
        group = layer.param.convolution_param.group
        used = values.reshape(group, values.shape[0] // group, values.shape[1], -1).any(axis=(1, 3))
    elif layer.type == "InnerProduct" and layer.param.inner_product_param.transpose:
        used = values.any(axis=0)
    elif layer.type in ("Convolution", "InnerProduct"):
        used = values.reshape(values.shape[0], -1).any(axis=1)
    else:
        return None
    return used.size - int(np.count_nonzero(used)), used.size


def measure(net: Net, dense: Sequence[LayerWeights], pruned: Sequence[LayerWeights]) -> tuple[dict[str, Speed], str]:
    """Time a net's forward pass, whole ("" is its name) and by layer, with either weights in turns; and say how."""
    from protocaffe.cli.time import forward_times
    from protocaffe.pruning.page import REPETITIONS, Speed

    warm = 1 if net.backend.unified else 2

    def once(weights: Sequence[LayerWeights], iterations: int) -> dict[str, float]:
        net.copy_weights(weights, keep_masks=False)
        whole, layers = forward_times(net, iterations, warm)
        return {**layers, "": whole}

    begun = perf_counter()
    net.run_forward()
    single = perf_counter() - begun
    least = 2 * REPETITIONS * 2 * (warm + 1)  # passes: whole and by layer, some of them not counted
    if single * least > BUDGET:
        return {}, f"Not measured: a pass takes {single:.2f} s, and {least} would be needed within {BUDGET:g} s."
    start = perf_counter()
    once(dense, 1)
    cost = max(perf_counter() - start, 1e-6)
    iterations = int(min(50, max(1, BUDGET / 2 / (2 * MOST * cost))))
    found: dict[bool, list[dict[str, float]]] = {True: [], False: []}
    longest = 0.0
    for turn in range(MOST):
        started = perf_counter()
        if started - begun + longest > BUDGET:
            break
        for which in (True, False) if turn % 2 else (False, True):
            found[which].append(once(dense if which else pruned, iterations))
        longest = max(longest, perf_counter() - started)
    times = {
        name: Speed([run[name] for run in found[True]], [run[name] for run in found[False]])
        for name in ["", *net._layer_names]
    }
    how = (
        f"Forward pass of this net on {net.backend.name}, as 'protocaffe time' measures it: the median (smallest to "
        f"largest) of {len(found[True])} measurements of {iterations} passes each, dense and pruned in turns in the "
        "same memory. Dense: the same shapes without masks and without zeros. Faster means that every measurement of "
        "the pruned weights was below every one of the dense ones; all else is no gain."
    )
    return times, how


class Report:
    """Notes what a command does and writes the page; without a path it does nothing.

    ``before`` and ``after`` are told the net, its files and how accurate it is; ``rounds`` and ``training`` say what
    lay between. Raises ParameterError, before anything is done, where the page could not be made.
    """

    def __init__(self, path: str | None, timing: bool = True) -> None:
        self.path, self.timing = path, timing
        self.history: list[Point] = []
        self.axis = "iteration"
        if path is None:
            return
        from protocaffe.pruning.charts import need_matplotlib

        need_matplotlib("--report")
        if not Path(path).resolve().parent.is_dir():
            raise ParameterError(f'--report: there is no folder "{Path(path).resolve().parent}"')
        context = click.get_current_context()
        self.command = context.info_name or ""
        self.facts = [("command", f"protocaffe {self.command} {_given(context)}")]

    def before(self, net: Net, weights: str, accuracy: Callable[[], float | None] | None = None) -> None:
        """The net as it comes, from these files; ``accuracy`` scores it (by default the net's own data do)."""
        if self.path is None:
            return
        from protocaffe.cli.session import split
        from protocaffe.pruning import sparsity_of_net
        from protocaffe.pruning.page import State

        self.was = copied(net)
        score = score_of(net, self.was) if accuracy is None else accuracy()
        self.start = State(sparsity_of_net(net), score, file_bytes(split(weights)))

    def training(self, solver: Any) -> None:
        """What the solver's pruning_param did, iteration by iteration."""
        if self.path is not None and solver._pruner is not None and self.axis == "iteration":
            for iteration, report in solver._pruner.history:
                self._point(iteration, report)
            if self.history:
                from protocaffe.pruning import sparsity_of_net

                self._point(solver.iter, sparsity_of_net(solver.net))

    def round(self, number: int, report: SparsityReport, accuracy: float, kept: bool) -> None:
        """What a round came to."""
        if self.path is not None:
            self.axis = "round"
            self._point(number, report, accuracy, kept)

    def _point(
        self, step: int, report: SparsityReport, accuracy: float | None = None, kept: bool | None = None
    ) -> None:
        from protocaffe.pruning.page import Point

        if not self.history and (self.axis == "round" or step > 0):
            start = {layer.name: layer.sparsity for layer in self.start.report.layers}
            self.history.append(Point(0, start, self.start.accuracy))
        self.history.append(Point(step, {layer.name: layer.sparsity for layer in report.layers}, accuracy, kept))

    def after(
        self, net: Net, output: str | None, accuracy: Callable[[], float | None] | None = None, timed: Net | None = None
    ) -> None:
        """The net in the end, and the page. ``timed``: a net of the same layers to time, by default ``net``."""
        if self.path is None:
            return
        from protocaffe import __version__
        from protocaffe.io.files import atomic_write
        from protocaffe.pruning import sparsity_of_net
        from protocaffe.pruning.net import own_parameters
        from protocaffe.pruning.page import LayerRow, Page, State, build, histogram_of

        now = copied(net)
        score = score_of(net, now) if accuracy is None else accuracy()
        end = State(sparsity_of_net(net), score, file_bytes([output] if output else []))
        times, how = self._times(timed or net, now)
        old = {id(blob): values for layer, entry in zip(_with_weights(net), self.was, strict=True)
               for blob, values in zip(layer.blobs, entry.blobs, strict=True)}  # fmt: skip
        layers = {layer.name: layer for layer in net.layers}
        rows: list[LayerRow] = []
        prunable = [(name, blob) for name, blobs in own_parameters(net) for blob in blobs if blob.prunable]
        for i, (name, blob) in enumerate(prunable):
            was, values = old[id(blob)], np.array(blob.data)
            rows.append(LayerRow(
                self.start.report.layers[i], end.report.layers[i], histogram_of(was, values),
                zero_channels(layers[name], values), times.get(name),
            ))  # fmt: skip
        facts = [
            *self.facts, ("net", net.name or "(no name)"), ("device", net.backend.name),
            ("date", datetime.now().astimezone().strftime("%Y-%m-%d %H:%M:%S %z")),
            ("versions", f"protocaffe {__version__}, Python {platform.python_version()}, NumPy {np.__version__}"),
            ("machine", f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores"),
        ]  # fmt: skip
        masked = any(blob.mask is not None for blob in net.prunable())
        page = Page(
            f"protocaffe {self.command}: {net.name or 'net'}", facts, self.start, end, rows, masked, how, times.get(""),
            self.history, self.axis,
        )  # fmt: skip
        with atomic_write(self.path) as file:
            file.write(build(page).encode("utf-8", "backslashreplace"))
        click.echo(f"wrote {self.path}")

    def _times(self, net: Net, now: Sequence[LayerWeights]) -> tuple[dict[str, Speed], str]:
        if not self.timing:
            return {}, "Not measured (--no-timing)."
        other = fresh(net, now)
        try:
            return measure(other, without_zeros(now), now)
        finally:
            other.close()


def _with_weights(net: Net) -> list[Any]:
    return [layer for layer in net.layers if layer.blobs]


def _given(context: click.Context) -> str:
    """The options of the command line, spelt out."""
    from click.core import ParameterSource

    parts: list[str] = []
    for param in context.command.params:
        if param.name is None or context.get_parameter_source(param.name) != ParameterSource.COMMANDLINE:
            continue
        value, flag = context.params.get(param.name), max(param.opts, key=len)
        if value is True or (value is None and getattr(param, "is_flag", False)):
            parts.append(flag)
            continue
        for one in value if isinstance(value, tuple) else (value,):
            parts += [flag, shlex.quote(str(one))]
    return " ".join(parts)
