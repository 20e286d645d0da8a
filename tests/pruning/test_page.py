"""The page of --report from plain data: what it says, what it escapes, that it needs nothing else, a real browser."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from dataclasses import replace
from html import escape
from html.parser import HTMLParser

import numpy as np
import pytest

from protocaffe.errors import ParameterError
from protocaffe.pruning.magnitude import Weights
from protocaffe.pruning.page import BINS, LayerRow, Page, Point, Speed, State, build, histogram_of
from protocaffe.pruning.report import sparsity_report

pytest.importorskip("matplotlib")
ODD = '<b>&"x"$_{'
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


def page(names=("conv", ODD), masked=True, **changes) -> Page:
    rng = np.random.default_rng(1)
    before = [rng.normal(size=(4, 50)).astype(np.float32) for _ in names]
    after = [np.where(np.abs(w) > 1, w, 0) if masked else w for w in before]
    bias = np.ones(10, np.float32)
    states = [
        State(sparsity_report([Weights(n, v) for n, v in zip(names, w, strict=True)], [*w, bias]), accuracy, size)
        for w, accuracy, size in ((before, 0.9871, 12_345), (after, 0.9765, 6_789))
    ]
    speed = Speed([1.0, 1.1, 1.2, 1.1, 1.0], [1.1, 1.0, 1.2, 1.0, 1.1])
    rows = [
        LayerRow(*(state.report.layers[i] for state in states), histogram_of(before[i], after[i]), (0, 4), speed)
        for i in range(len(names))
    ]
    facts = [("command", "protocaffe prune --model m")]
    return replace(Page("protocaffe prune: net", facts, *states, rows, masked, "as timed", speed), **changes)


class Read(HTMLParser):
    """Tags, ids, attributes and visible text; complains about tags that do not match."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.text = ""
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]
        if tag != "meta":
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] not in ("style", "script"):
            self.text += data


def test_what_it_says():
    one = page()
    read = Read(build(one))
    report = one.after.report
    for words in (
        "0.9871", "0.9765", "12,345", "6,789", f"{report.sparsity:.2%} ({report.zeros:,} of 400)",
        f"{report.nonzeros:,} of 410", f"{report.ratio:.2f}x", "protocaffe prune --model m", "as timed",
        "1.100 (1.000 to 1.200)", "The whole net: no gain here.", "0 of 2 layers measured faster", "protocaffe shrink",
        "no output channel here is wholly zero", "Pruned in one step.",
    ):  # fmt: skip
        assert words in read.text, words
    widths = re.findall(r'<i style="width:([\d.]+)%">', build(one))
    assert [float(w) for w in widths] == [round(100 * layer.sparsity, 1) for layer in report.layers]
    assert read.tags.count("svg") == 2


def test_names_from_the_net_are_text_only():
    text = build(page(title=f"net {ODD}", facts=[("weights", ODD)], history=[
        Point(0, {"conv": 0.0, ODD: 0.0}), Point(5, {"conv": 0.5, ODD: 0.9}),
    ]))  # fmt: skip
    read = Read(text)
    assert "b" not in read.tags and ODD not in text
    assert text.count(escape(ODD)) == 7  # title twice, facts, layers, legend, speed, histogram
    assert read.text.count(ODD) == 7


def test_it_needs_nothing_from_elsewhere():
    read = Read(build(page(history=[Point(0, {"conv": 0.0}), Point(1, {"conv": 0.5})])))
    assert not {"script", "link", "img", "iframe", "object", "image"} & set(read.tags)
    for name, value in read.attributes:
        assert name.startswith("xmlns") or "//" not in value, (name, value)
        if name in ("src", "href", "xlink:href"):
            assert value.startswith("#")
    ids = [value for name, value in read.attributes if name == "id"]
    assert len(ids) == len(set(ids)) > 0
    used = [value[1:] for name, value in read.attributes if name == "xlink:href"]
    assert used and set(used) <= set(ids)


def test_history_over_time_and_rounds():
    points = [Point(0, {"conv": 0.0, ODD: 0.0}, 0.99), Point(1, {"conv": 0.5, ODD: 0.25}, 0.98, True),
              Point(2, {"conv": 0.9, ODD: 0.9}, 0.51, False)]  # fmt: skip
    text = build(page(history=points, axis="round"))
    read = Read(text)
    assert read.tags.count("svg") == 2 + 1 + 2  # histograms, the chart, its legend
    assert "as it came" in read.text and "undone: too much" in read.text and "0.5100" in read.text
    assert "37.50%" in read.text  # both layers together
    assert "as it came" not in Read(build(page(history=[replace(p, kept=None) for p in points]))).text


def test_no_masks_no_scores_no_timing():
    one = page(masked=False, net_speed=None, timing="Not measured (--no-timing).")
    rows = [replace(row, speed=None, channels=None, histogram=None) for row in one.layers]
    read = Read(build(replace(one, layers=rows, before=State(one.before.report), after=State(one.after.report))))
    assert read.text.count("not scored") == 2 and read.text.count("no file") == 2
    assert "The net has no masks" in read.text and "Not measured (--no-timing)." in read.text
    assert "measured faster" not in read.text and "The sparsity did not change." in read.text
    assert read.text.count("no finite weights") == 2


def test_channels_that_could_go_are_counted():
    one = page()
    text = Read(build(replace(one, layers=[replace(row, channels=(3, 4)) for row in one.layers]))).text
    assert "6 of 8 output channels of the prunable layers have no weight left" in text and "3 of 4" in text


@pytest.mark.parametrize(
    ("dense", "pruned", "verdict"),
    [
        ([2.0] * 5, [1.0] * 5, "2.00x faster"),
        ([1.0] * 5, [2.0] * 5, "no gain here: 2.00x slower"),
        ([2.0, 2.0, 2.0, 2.0, 1.0], [1.0] * 5, "no gain here"),
        ([2.0] * 4, [1.0] * 4, "not measured"),
        ([0.0] * 5, [0.0] * 5, "no gain here"),
    ],
)
def test_verdicts(dense, pruned, verdict):
    assert Speed(dense, pruned).verdict == verdict


def test_histograms_share_their_bins_and_lose_no_weight():
    before, after = np.array([-2.0, 0.5, 1.0, np.nan]), np.array([0.0, 0.0, 3.0, np.inf])
    found = histogram_of(before, after)
    assert found.before.sum() == 3 and found.after.sum() == 3
    assert found.after[BINS // 2] == 2 and found.edges[0] == -3 and found.edges[-1] == 3
    assert histogram_of(np.zeros(3), np.zeros(3)).before[BINS // 2] == 3
    assert histogram_of(np.zeros(0), np.full(2, np.nan)) is None


def test_without_matplotlib_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ParameterError, match=r"--report needs matplotlib .*: pip install \"protocaffe\[plots\]\""):
        build(page())


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here")
def test_a_browser_shows_it_whole(tmp_path):
    """The text of a layer called as a tag is text there, pictures have a size, nothing is wider than the page."""
    path = tmp_path / "report.html"
    points = [Point(i, {"conv": i / 4, ODD: i / 5}, 0.9, True) for i in range(4)]
    text = build(page(history=points, axis="round"))
    probe = (
        "<script>const size = [...document.querySelectorAll('figure svg')].map(s => s.getBoundingClientRect());"
        "document.body.insertAdjacentHTML('beforeend', `<pre id=found>${size.filter(s => s.width > 100 && s.height > 50"
        ").length} ${document.documentElement.scrollWidth <= innerWidth} ${document.querySelectorAll('b').length} "
        "${[...document.querySelectorAll('figcaption')].map(c => c.textContent.length)}</pre>`)</script>"
    )
    policy = re.compile(r"<meta http-equiv[^>]*>")
    assert policy.search(text), "the page forbids scripts: the test's own needs that taken out"
    path.write_text(policy.sub("", text).replace("</body>", probe + "</body>"))
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
             "--disable-component-update", "--disable-sync", "--disable-quic",
             f"--user-data-dir={tmp_path / 'profile'}",
             "--window-size=1100,900", "--dump-dom"]  # fmt: skip
    done = subprocess.run([CHROMIUM, *flags, path.as_uri()], capture_output=True, text=True, timeout=120)
    found = re.search(r'<pre id="found">(.*?)</pre>', done.stdout)
    assert found, done.stderr[-2000:]
    assert found[1] == f"2 true 0 4,{len(ODD)}"
