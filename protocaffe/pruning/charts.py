"""Charts of a report as inline SVG.

No name from a net gets into them: matplotlib reads `$` and `_` in texts its own way.
"""

from __future__ import annotations

import io
import itertools
import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..errors import ParameterError

COLORS = ("#1f77b4", "#ff7f0e", "#2ca02c", "#d62728", "#9467bd", "#8c564b", "#e377c2", "#7f7f7f", "#bcbd22", "#17becf")
DASHES: tuple[Any, ...] = ("solid", (0, (5, 2)), (0, (1, 1.5)), (0, (6, 2, 1, 2)))
BEFORE, AFTER = "#9aa5b1", "#c2410c"
_STYLE = {"svg.fonttype": "none", "svg.hashsalt": "protocaffe", "font.family": "sans-serif", "font.size": 8}
_serial = itertools.count(1)


def need_matplotlib(option: str) -> Any:
    """matplotlib, or a ParameterError that says how to get it."""
    try:
        import matplotlib
        import matplotlib.figure
    except ImportError as error:
        raise ParameterError(f'{option} needs matplotlib ({error}): pip install "protocaffe[plots]"') from error
    return matplotlib


def _figure(width: float, height: float) -> tuple[Any, Any]:
    figure = need_matplotlib("--report").figure.Figure(figsize=(width, height), layout="constrained")
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _svg(figure: Any) -> str:
    """The figure as an <svg> element whose ids no other chart of the page has."""
    out = io.StringIO()
    figure.savefig(out, format="svg", metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    text = out.getvalue()
    text = re.sub(r"<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.DOTALL)
    return re.sub(r'( id="|url\(#|href="#)', rf"\1c{next(_serial)}-", text)


def line_style(index: int) -> tuple[str, Any]:
    """Colour and dashes of the n-th line."""
    return COLORS[index % len(COLORS)], DASHES[index // len(COLORS) % len(DASHES)]


def lines(steps: Sequence[int], series: Sequence[Sequence[float]], axis: str, points: bool = False) -> str:
    """Sparsity over time, a line for each of ``series``; it stays as it is until the next step."""
    with need_matplotlib("--report").rc_context(_STYLE):
        figure, axes = _figure(7.5, 3)
        for index, values in enumerate(series):
            color, dashes = line_style(index)
            marker = "o" if points else None
            axes.plot(steps, values, color=color, linestyle=dashes, lw=1.2, marker=marker, ms=3, drawstyle="steps-post")
        axes.set(xlabel=axis, ylabel="sparsity", ylim=(-0.02, 1.02))
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.grid(lw=0.3)
        return _svg(figure)


def histogram(edges: np.ndarray, before: np.ndarray, after: np.ndarray) -> str:
    """Counts of weights before (filled) and after (a line), in the same bins, on a logarithmic axis."""
    with need_matplotlib("--report").rc_context(_STYLE):
        figure, axes = _figure(3.6, 1.9)
        axes.stairs(before, edges, fill=True, color=BEFORE)
        axes.stairs(after, edges, color=AFTER, lw=1)
        axes.set_yscale("log", nonpositive="clip")
        axes.set(xlabel="weight", ylabel="count", ylim=(0.7, 2 * max(1, int(before.max()), int(after.max()))))
        return _svg(figure)
