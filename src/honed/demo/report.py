"""The demo's report: one HTML file that needs nothing else, no script, no font, no network."""

from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path
from typing import Final

import honed
from honed.demo.phases import Learned
from honed.demo.plots import Bar, Mark, Point, bar_chart, curve, scatter
from honed.demo.result import DemoResult, GateVerdict
from honed.demo.statistics import Share
from honed.demo.swap import flip_at

_STYLE: Final = """\
body { font: 15px/1.5 system-ui, sans-serif; color: #1b2330; background: #fbfbf9; max-width: 46rem;
  margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.1rem; margin-top: 2rem; }
table { border-collapse: collapse; width: 100%; } td, th { padding: .25rem .5rem; text-align: left;
  border-bottom: 1px solid #dcdcd4; vertical-align: top; } td.n, th.n { text-align: right;
  font-variant-numeric: tabular-nums; }
code { font-size: .85em; overflow-wrap: anywhere; } .good { color: #1f7a4d; } .bad { color: #b3372f; }
svg { width: 100%; height: auto; background: #fff; border: 1px solid #e3e3dc; border-radius: 4px; }
svg text { font: 12px system-ui, sans-serif; text-anchor: middle; fill: #39424f; }
svg .note { font-size: 11px; fill: #5c6672; } svg .end { text-anchor: end; } svg .start { text-anchor: start; }
svg .grid { stroke: #ececE6; fill: none; } svg .whisker { stroke: #1b2330; fill: none; stroke-width: 1.5; }
svg .mark { stroke: #b3372f; stroke-dasharray: 4 3; fill: none; } svg .line { fill: none; stroke-width: 1.8; }
svg rect.before, svg circle.before { fill: #8c97a6; } svg rect.after, svg circle.after { fill: #2b7a78; }
svg circle.failed { fill: #b3372f; }
svg path.adapter { stroke: #2b7a78; } svg path.control { stroke: #c27c2c; }
svg text.key.adapter { fill: #2b7a78; } svg text.key.control { fill: #c27c2c; }
"""


def write_report(result: DemoResult, learned: Learned, control: Learned | None) -> None:
    """Write the report to `result.report_path`."""
    Path(result.report_path).write_text(report_html(result, learned, control), encoding="utf-8")


def report_html(result: DemoResult, learned: Learned, control: Learned | None) -> str:
    """The report as one HTML document."""
    loss_note = _LOSS_NOTE + (_CONTROL_NOTE if control else "")
    sections = [
        _summary(result),
        _section("Success before and after", _success_chart(result), _SUCCESS_NOTE),
        _section("Loss while training", _loss_chart(learned, control), loss_note),
        _section("Latency across the swap", _latency_chart(result, learned), _swap_note(result)),
        _section("What the gate said", _verdict_table(result.verdicts), _GATE_NOTE),
        _section("Lineage", _lineage(result)),
        _section("Why the base is weak", _base_table(result), _BASE_NOTE),
        _section("Phases", _phase_table(result)),
    ]
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"/>'
        f"<title>honed demo, seed {result.seed}</title><style>{_STYLE}</style></head><body>"
        + "".join(sections)
        + "</body></html>\n"
    )


_SUCCESS_NOTE: Final = (
    "Share of fresh incidents that the swarm resolved, with 95 % Wilson intervals. "
    "Each measurement has incidents of its own; none of them was worked on while collecting."
)
_LOSS_NOTE: Final = "A falling loss proves that the successes are imitated, and no more."
_CONTROL_NOTE: Final = (
    " The control was shown as many episodes, drawn without a look at their outcome: it learned to "
    "imitate them too."
)
_GATE_NOTE: Final = (
    "Judged on held-out episodes: a candidate must find the successes likelier than before, by more "
    "than it does the failures."
)
_BASE_NOTE: Final = (
    "The text that the base model was made from names causes rightly and draws every change blindly; "
    "which change ends which cause is a permutation drawn from the seed, which the text never shows."
)


def _summary(result: DemoResult) -> str:
    verdict = (
        '<strong class="good">passed</strong>'
        if result.passed
        else '<strong class="bad">not passed</strong>: ' + escape("; ".join(result.problems))
    )
    before, after = result.before.sampled, result.after.sampled
    factor = f" ({after.value / before.value:.1f} times as much)" if before.value else ""
    return (
        "<h1>honed: the loop, closed</h1>"
        f"<p>Resolved incidents: <strong>{escape(str(before))}</strong> with the base model, "
        f"<strong>{escape(str(after))}</strong> after one training{factor}. "
        f"{result.requests} requests, {result.requests_failed} failed. "
        f"{result.total_s:.0f} s in all. Idle daemon: {result.daemon_idle_mb:.0f} MiB resident. "
        f"Verdict: {verdict}.</p>"
        f"<p><small>honed {escape(honed.__version__)}, seed {result.seed}</small></p>"
    )


def _section(title: str, body: str, note: str = "") -> str:
    return f"<h2>{escape(title)}</h2>{body}" + (f"<p>{escape(note)}</p>" if note else "")


def _success_chart(result: DemoResult) -> str:
    bars = [
        Bar("before, T 0.7", result.before.sampled, "before"),
        Bar("after, T 0.7", result.after.sampled, "after"),
        Bar("before, T 0", result.before.greedy, "before"),
        Bar("after, T 0", result.after.greedy, "after"),
    ]
    return bar_chart(bars, title="Success before and after")


def _loss_chart(learned: Learned, control: Learned | None) -> str:
    lines = {"adapter": _points(learned)}
    if control is not None:
        lines["control"] = _points(control)
    return curve(lines, title="Loss while training", x_name="step", y_name="loss, nats per token")


def _points(learned: Learned) -> list[Point]:
    return [Point(step, loss) for step, loss in learned.losses]


def _latency_chart(result: DemoResult, learned: Learned) -> str:
    model_id = learned.model["id"]
    flip = flip_at(learned.calls, model_id)
    start = learned.calls[0].at_s - learned.calls[0].latency_ms / 1000 if learned.calls else 0.0
    points = [
        Point(
            call.at_s - start,
            max(0.1, call.latency_ms),
            "failed" if call.model is None else "after" if call.model == model_id else "before",
        )
        for call in learned.calls
    ]
    marks = [Mark(flip - start, f"{model_id} answers")] if flip is not None else []
    return scatter(
        points,
        title="Latency across the swap",
        x_name="seconds since collecting ended",
        y_name="latency, ms",
        marks=marks,
    )


def _swap_note(result: DemoResult) -> str:
    swap = result.swap
    return (
        f"{swap.requests} requests while the daemon trained and swapped, "
        f"{result.requests_failed} failed. Latency p50 {swap.p50_before_ms:.1f} ms and p99 "
        f"{swap.p99_before_ms:.0f} ms while the base model answered, {swap.p50_after_ms:.1f} ms and "
        f"{swap.p99_after_ms:.0f} ms after; the slowest request within a second of the flip took "
        f"{swap.slowest_near_flip_ms:.0f} ms."
    )


def _verdict_table(verdicts: Sequence[GateVerdict]) -> str:
    rows = [
        (
            f"<code>{escape(verdict.model_id)}</code>",
            "control" if verdict.selection == "blind" else "adapter",
            str(verdict.num_episodes),
            _decision(verdict.decision),
            escape(verdict.reason),
        )
        for verdict in verdicts
    ]
    return _table(("candidate", "kind", "episodes", "decision", "reason"), rows)


def _decision(decision: str) -> str:
    style = "good" if decision == "pass" else "bad"
    return f'<strong class="{style}">{escape(decision.replace("_", " "))}</strong>'


def _lineage(result: DemoResult) -> str:
    rows = [
        (
            f"<code>{escape(verdict.model_id)}</code>",
            escape(verdict.parent_id or "base model"),
            escape(verdict.incumbent_id or "base model"),
            f"<code>{escape(verdict.data_digest)}</code>",
            "in service" if verdict.model_id == result.served_at_end else "not served",
        )
        for verdict in result.verdicts
    ]
    return _table(
        ("adapter", "served before", "measured against", "data digest", "at the end"), rows
    )


def _base_table(result: DemoResult) -> str:
    rows = [
        (name, escape(str(share)), f"{share.hits} of {share.total}")
        for name, share in _base_shares(result)
    ]
    return _table(("measure", "share", "count"), rows)


def _base_shares(result: DemoResult) -> list[tuple[str, Share]]:
    return [
        ("right changes in its text (chance 12.5 %)", result.chance_in_text),
        ("causes named rightly by the base model", result.before.reading),
        ("replies of the base model that name no action", result.before.invalid),
        ("incidents resolved while collecting, a fifth of the actions drawn", result.collected),
    ]


def _phase_table(result: DemoResult) -> str:
    rows = [(escape(name), f"{seconds:.1f}") for name, seconds in result.seconds.items()]
    return _table(("phase", "seconds"), [*rows, ("in all", f"{result.total_s:.1f}")])


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table; the cells are HTML already."""
    head = "".join(f"<th>{escape(name)}</th>" for name in heads)
    body = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table><tr>{head}</tr>{body}</table>"
