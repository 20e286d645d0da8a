"""The page that ``--report`` writes: plain data in, one self-contained HTML file out."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from html import escape

import numpy as np

from . import charts
from .report import LayerSparsity, SparsityReport

BINS = 61  # odd: the middle one of a symmetric range holds zero
#: the fewest measurements of either kind that say something: two sets of five lie apart once in 126 times by chance
REPETITIONS = 5


@dataclass(frozen=True)
class Speed:
    """Milliseconds of the same work, measured in turns: with dense weights and with the pruned ones."""

    dense: Sequence[float]
    pruned: Sequence[float]

    @property
    def verdict(self) -> str:
        """What can be said: a difference counts when all measurements of one are below all of the other.

        >>> Speed([1.0, 1.1, 1.2, 1.1, 1.0], [1.1, 1.0, 1.2, 1.0, 1.1]).verdict
        'no gain here'
        >>> Speed([2.0, 2.1, 2.2, 2.0, 2.1], [1.0, 1.1, 1.0, 1.0, 1.0]).verdict
        '2.10x faster'
        """
        if min(len(self.dense), len(self.pruned)) < REPETITIONS:
            return "not measured"
        dense, pruned = statistics.median(self.dense), statistics.median(self.pruned)
        if max(self.pruned) < min(self.dense) and pruned > 0:
            return f"{dense / pruned:.2f}x faster"
        if max(self.dense) < min(self.pruned) and dense > 0:
            return f"no gain here: {pruned / dense:.2f}x slower"
        return "no gain here"

    @property
    def faster(self) -> bool:
        return self.verdict.endswith("faster")


@dataclass(frozen=True)
class State:
    """The net before or after: what is in it, its accuracy if it was scored, the bytes of its file if there is one."""

    report: SparsityReport
    accuracy: float | None = None
    file_bytes: int | None = None


@dataclass(frozen=True)
class Histogram:
    """Counts of weights before and after, in the same bins."""

    edges: np.ndarray
    before: np.ndarray
    after: np.ndarray


@dataclass(frozen=True)
class LayerRow:
    """One prunable parameter. ``channels``: output channels that are wholly zero, of how many, where that is known."""

    before: LayerSparsity
    after: LayerSparsity
    histogram: Histogram | None = None
    channels: tuple[int, int] | None = None
    speed: Speed | None = None


@dataclass(frozen=True)
class Point:
    """Sparsity by layer at an iteration or after a round, with what the round came to."""

    step: int
    sparsity: dict[str, float]
    accuracy: float | None = None
    kept: bool | None = None


@dataclass(frozen=True)
class Page:
    """All that a report shows. ``timing``: how it was measured, or why not; ``axis``: what history's steps are."""

    title: str
    facts: Sequence[tuple[str, str]]
    before: State
    after: State
    layers: Sequence[LayerRow]
    masked: bool
    timing: str
    net_speed: Speed | None = None
    history: Sequence[Point] = field(default_factory=tuple)
    axis: str = "iteration"


def histogram_of(before: np.ndarray, after: np.ndarray) -> Histogram | None:
    """Histograms over one range that holds both; None where there is no finite weight."""
    a, b = (np.asarray(values, np.float64).ravel() for values in (before, after))
    a, b = a[np.isfinite(a)], b[np.isfinite(b)]
    largest = max((float(np.abs(values).max()) for values in (a, b) if values.size), default=0.0)
    if not a.size and not b.size:
        return None
    edges = np.linspace(-(largest or 1.0), largest or 1.0, BINS + 1)
    return Histogram(edges, np.histogram(a, edges)[0], np.histogram(b, edges)[0])


# ------------------------------------------------------------------------------------------------------------- HTML
_CSS = """
body { font: 15px/1.45 system-ui, sans-serif; color: #1f2933; max-width: 64rem; margin: 2rem auto; padding: 0 1rem }
h1 { font-size: 1.5rem } h2 { font-size: 1.15rem; margin-top: 2rem; border-bottom: 1px solid #d5dae1 }
table { border-collapse: collapse } th, td { padding: .2rem .7rem; text-align: right; border-bottom: 1px solid #e6e9ee }
th:first-child, td:first-child { text-align: left; overflow-wrap: break-word; max-width: 20rem }
thead th { color: #52606d }
.wide { overflow-x: auto } dt { float: left; clear: left; width: 9rem; color: #52606d }
dd { margin-left: 9.5rem; overflow-wrap: anywhere }
.bar { display: inline-block; width: 7rem; height: .8rem; background: #e6e9ee; vertical-align: middle }
.bar i { display: block; height: 100%; background: #c2410c }
.verdict { background: #fff7ed; border-left: 4px solid #c2410c; padding: .5rem 1rem } .note { color: #52606d }
.grid { display: flex; flex-wrap: wrap; gap: 1rem } figure { margin: 0 } figcaption { overflow-wrap: anywhere }
figure { max-width: 100% } svg { max-width: 100%; height: auto } .key { margin-right: 1rem; white-space: nowrap }
.key svg { vertical-align: middle }
"""


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table; cells are HTML already."""
    head = "".join(f'<th scope="col">{cell}</th>' for cell in heads)
    body = "\n".join(
        f'<tr><th scope="row">{row[0]}</th>' + "".join(f"<td>{cell}</td>" for cell in row[1:]) + "</tr>" for row in rows
    )
    return f'<div class="wide"><table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody></table></div>'


def _score(accuracy: float | None) -> str:
    return "not scored" if accuracy is None else f"{accuracy:.4f}"


def _bar(share: float) -> str:
    width = 100 * min(1.0, max(0.0, share))
    return f'{share:.2%} <span class="bar"><i style="width:{width:.1f}%"></i></span>'


def _ratio(report: SparsityReport) -> str:
    return f"{report.ratio:.2f}x" if report.nonzeros else "nothing is left"


def _summary(page: Page) -> str:
    def row(name: str, state: State) -> list[str]:
        report, size = state.report, state.file_bytes
        return [
            name, _score(state.accuracy), f"{report.sparsity:.2%} ({report.zeros:,} of {report.prunable:,})",
            f"{report.nonzeros:,} of {report.parameters:,}", _ratio(report), "no file" if size is None else f"{size:,}",
        ]  # fmt: skip

    heads = ["", "accuracy", "sparsity (zeros of prunable weights)", "non-zeros of all parameters",
             "ratio (all / non-zero parameters)", "bytes of the file"]  # fmt: skip
    return _table(heads, [row("before", page.before), row("after", page.after)])


def _layers(page: Page) -> str:
    rows = []
    for row in page.layers:
        shape = " × ".join(map(str, row.after.shape))
        channels = "" if row.channels is None else f"{row.channels[0]:,} of {row.channels[1]:,}"
        rows.append([
            escape(row.after.name), shape, f"{row.after.count:,}", f"{row.after.zeros:,}",
            f"{row.before.sparsity:.2%}", _bar(row.after.sparsity), channels,
        ])  # fmt: skip
    heads = ["layer", "shape", "weights", "zeros", "sparsity before", "sparsity after", "output channels all zero"]
    return _table(heads, rows)


def _history(page: Page) -> str:
    if len(page.history) < 2:
        changed = page.before.report.zeros != page.after.report.zeros
        text = "Pruned in one step." if changed else "The sparsity did not change."
        return f'<p class="note">{text}</p>'
    names = [row.after.name for row in page.layers]
    shown = [point for point in page.history if point.kept is not False]
    series = [[point.sparsity.get(name, 0.0) for point in shown] for name in names]
    keys = "".join(_key(index, name) for index, name in enumerate(names))
    out = [charts.lines([point.step for point in shown], series, page.axis, page.axis == "round"), f"<p>{keys}</p>"]
    if any(point.kept is not None for point in page.history):
        words = {True: "kept", False: "undone: too much", None: "as it came"}
        total = {row.after.name: row.after.count for row in page.layers}
        rows = []
        for point in page.history:
            zeros = sum(share * total.get(name, 0) for name, share in point.sparsity.items())
            share = zeros / max(1, sum(total.values()))
            rows.append([str(point.step), _bar(share), _score(point.accuracy), words[point.kept]])
        out.append(_table(["round", "sparsity", "accuracy", ""], rows))
    return "\n".join(out)


def _key(index: int, name: str) -> str:
    color, dashes = charts.line_style(index)
    dash = "" if dashes == "solid" else f' stroke-dasharray="{" ".join(str(2 * part) for part in dashes[1])}"'
    line = f'<line x1="0" y1="4" x2="26" y2="4" stroke="{color}" stroke-width="2"{dash}/>'
    return f'<span class="key"><svg width="26" height="8" aria-hidden="true">{line}</svg> {escape(name)}</span>'


def _histograms(page: Page) -> str:
    parts = []
    for row in page.layers:
        h = row.histogram
        picture = '<p class="note">no finite weights</p>' if h is None else charts.histogram(h.edges, h.before, h.after)
        parts.append(f"<figure><figcaption>{escape(row.after.name)}</figcaption>{picture}</figure>")
    key = (
        f'<p class="note">Grey: before. <span style="color:{charts.AFTER}">Line: after.</span> The same {BINS} bins, '
        "logarithmic counts; zeros are in the middle bin.</p>"
    )
    return key + f'<div class="grid">{"".join(parts)}</div>'


def _spread(values: Sequence[float]) -> str:
    return f"{statistics.median(values):.3f} ({min(values):.3f} to {max(values):.3f})" if values else ""


def _speed_text(page: Page) -> str:
    """The verdict on speed in words."""
    measured = [row for row in page.layers if row.speed is not None and row.speed.verdict != "not measured"]
    faster = [row for row in measured if row.speed is not None and row.speed.faster]
    words = []
    if page.net_speed is not None:
        words.append(f"The whole net: {page.net_speed.verdict}.")
    if measured:
        names = ", ".join(escape(row.after.name) for row in faster)
        words.append(f"{len(faster)} of {len(measured)} layers measured faster{': ' + names if names else ''}.")
    words.append(
        "Masked weights are computed with like any others, so zeros that lie scattered save bytes of a compressed "
        "file, not time."
        if page.masked
        else "The net has no masks: every weight is computed with."
    )
    channels = [row.channels for row in page.layers if row.channels is not None]
    zero, total = sum(c[0] for c in channels), sum(c[1] for c in channels)
    words.append("What makes a net faster is fewer channels (<code>protocaffe shrink</code>):")
    words.append(
        f"{zero:,} of {total:,} output channels of the prunable layers have no weight left and could be taken out."
        if zero
        else "no output channel here is wholly zero, so there is none to take out."
    )
    return " ".join(words)


def _speed(page: Page) -> str:
    rows = []
    for name, speed in [*((row.after.name, row.speed) for row in page.layers), ("the whole net", page.net_speed)]:
        if speed is not None:
            rows.append([escape(name), _spread(speed.dense), _spread(speed.pruned), escape(speed.verdict)])
    table = _table(["layer", "dense, ms", "pruned, ms", "verdict"], rows) if rows else ""
    return f'<p class="verdict">{_speed_text(page)}</p>\n{table}\n<p class="note">{escape(page.timing)}</p>'


def build(page: Page) -> str:
    """The page as HTML. It needs nothing but itself: no script, no file, no network."""
    facts = "\n".join(f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in page.facts)
    sections = [
        ("What was run", f"<dl>{facts}</dl>"), ("Before and after", _summary(page)), ("Layers", _layers(page)),
        ("Sparsity over time", _history(page)), ("Speed", _speed(page)), ("Weights", _histograms(page)),
    ]  # fmt: skip
    body = "\n".join(f"<section><h2>{heading}</h2>\n{content}\n</section>" for heading, content in sections)
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">"
        f"<title>{escape(page.title)}</title><style>{_CSS}</style></head>\n"
        f"<body><h1>{escape(page.title)}</h1>\n{body}\n</body></html>\n"
    )
