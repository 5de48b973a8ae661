"""The demo's report: one well-formed file that needs nothing else."""

import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import msgspec
import pytest

from honed.demo.phases import Learned
from honed.demo.plots import Bar, Mark, Point, bar_chart, curve, scatter
from honed.demo.report import report_html, write_report
from honed.demo.result import (
    DemoResult,
    GateVerdict,
    GatewayFigures,
    Measured,
    SwapFigures,
)
from honed.demo.statistics import wilson
from honed.demo.swarm import Call


def _verdict(model_id: str, selection: str, decision: str) -> GateVerdict:
    return GateVerdict(
        model_id=model_id,
        selection=selection,
        decision=decision,
        reason="contrast +0.2 <b>&amp;",
        num_episodes=190,
        incumbent_id=None,
        parent_id=None,
        data_digest="ab" * 32,
    )


def _measured(hits: int) -> Measured:
    share = wilson(hits, 200)
    return Measured(sampled=share, greedy=share, reading=wilson(300, 300), invalid=wilson(0, 500))


def _result(path: Path = Path("report.html"), **changed: Any) -> DemoResult:
    result = DemoResult(
        seed=1,
        passed=True,
        problems=(),
        chance_in_text=wilson(1_000, 8_000),
        before=_measured(44),
        after=_measured(190),
        collected=wilson(250, 1_200),
        requests=7_000,
        requests_failed=0,
        gateway=GatewayFigures(requests=7_000, failed=0, captured=7_000, lost=0),
        swap=SwapFigures(
            requests=600,
            p50_before_ms=9.0,
            p99_before_ms=30.0,
            p50_after_ms=8.0,
            p99_after_ms=12.0,
            slowest_near_flip_ms=25.0,
        ),
        verdicts=(
            _verdict("incidents@1", "successes", "pass"),
            _verdict("incidents@2", "blind", "fail"),
        ),
        served_at_end="incidents@1",
        daemon_idle_mb=70.0,
        seconds={"make a tiny base model": 20.0, "collect": 12.0},
        total_s=90.0,
        report_path=str(path),
    )
    return msgspec.structs.replace(result, **changed)


def _learned(model_id: str) -> Learned:
    events = [
        {"type": "training.progress", "step": step, "loss": 1 / step} for step in range(5, 200, 5)
    ]
    calls = [
        Call(1e9 + i / 20, 5.0 + i % 7, "base" if i < 300 else "incidents@1") for i in range(350)
    ]
    return Learned({"id": model_id}, events, [*calls, Call(1e9 + 9, 60_000.0, None)])


class _Tags(HTMLParser):
    """What a browser would fetch, and whether elements are closed in order."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.names: list[str] = []
        self.references: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.open.append(tag)
        self.handle_startendtag(tag, attrs)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names.append(tag)
        fetching = {"src", "href", "srcset", "data", "action", "xlink:href", "background"}
        self.references += [value or "" for name, value in attrs if name in fetching]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def _read(html: str) -> _Tags:
    tags = _Tags()
    tags.feed(html)
    tags.close()
    assert tags.open == []
    return tags


def test_the_report_needs_nothing_else(tmp_path: Path) -> None:
    """No script, no reference to another file or host; it may be mailed."""
    write_report(
        _result(tmp_path / "report.html"), _learned("incidents@1"), _learned("incidents@2")
    )
    html = (tmp_path / "report.html").read_text(encoding="utf-8")
    tags = _read(html)
    assert not {"script", "link", "iframe", "img", "object", "embed"} & set(tags.names)
    assert tags.references == []
    assert not re.search(r"https?://|url\(|@import|//[a-z]", html)
    assert tags.names.count("svg") == 3


def test_the_report_is_well_formed() -> None:
    """It is XML as well, with or without the control, and whatever a reason holds."""
    for control in (_learned("incidents@2"), None):
        html = report_html(_result(), _learned("incidents@1"), control)
        ET.fromstring(html.partition("\n")[2])
        assert "contrast +0.2 &lt;b&gt;&amp;amp;" in html


def test_the_report_tells_the_figures() -> None:
    """Both success rates with intervals, the factor, the failures, and each phase."""
    html = report_html(_result(), _learned("incidents@1"), _learned("incidents@2"))
    for text in (
        "22.0 % [16.8, 28.2]",
        "95.0 % [91.0, 97.3]",
        "4.3 times",
        "0 failed",
        "make a tiny",
    ):
        assert text in html
    assert 'class="good">passed' in html


def test_a_demo_that_did_not_pass_says_why() -> None:
    """On the first lines of the report."""
    result = _result(passed=False, problems=("1 requests failed: expected none",))
    html = report_html(result, _learned("incidents@1"), None)
    assert "not passed</strong>: 1 requests failed" in html


def test_a_training_without_figures_still_gives_a_report() -> None:
    """No loss and no request is an empty plot, not a fault."""
    html = report_html(_result(), Learned({"id": "incidents@1"}, [], []), None)
    ET.fromstring(html.partition("\n")[2])


def test_bars_stand_on_one_line_and_whiskers_reach_the_interval() -> None:
    """A share of zero has no height, one of all reaches the top; the interval is drawn round it."""
    svg = ET.fromstring(
        bar_chart([Bar("a", wilson(0, 10), "before"), Bar("b", wilson(10, 10), "after")], title="t")
    )
    none, whole = (
        (float(bar.attrib["y"]), float(bar.attrib["height"])) for bar in svg.iter("rect")
    )
    assert none[1] == 0
    assert whole[0] + whole[1] == none[0]
    assert whole[1] > 150


@pytest.mark.parametrize("values", [[0.4], [0.0, 0.0], [5.0, 5.0], [1e-6, 1e6], [-3.0, 2.0], []])
def test_every_range_has_an_axis(values: list[float]) -> None:
    """One point, equal points, and very unequal ones are drawn inside the frame."""
    svg = curve(
        {"adapter": [Point(i, y) for i, y in enumerate(values)]}, title="t", x_name="x", y_name="y"
    )
    for path in ET.fromstring(svg).iter("path"):
        if "line" in path.attrib["class"]:
            numbers = [float(n) for n in re.findall(r"-?[\d.]+", path.attrib["d"])]
            assert all(0 <= n <= 680 for n in numbers)


def test_the_flip_is_marked() -> None:
    """A vertical line with a word, at its time."""
    svg = ET.fromstring(
        scatter(
            [Point(0, 1), Point(10, 100)],
            title="t",
            x_name="x",
            y_name="y",
            marks=[Mark(5, "incidents@1 answers")],
        )
    )
    assert [path.attrib["class"] for path in svg.iter("path")].count("mark") == 1
    assert "incidents@1 answers" in [text.text for text in svg.iter("text")]
    assert len(list(svg.iter("circle"))) == 2
