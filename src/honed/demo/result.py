"""What the demo found out, as values: printed, reported and judged from here."""

from typing import Any

from msgspec import Struct

from honed.demo.statistics import Share

IDLE_LIMIT_MB = 80.0
"""What the idle daemon may hold resident, MiB."""


class GateVerdict(Struct, frozen=True, kw_only=True):
    """One candidate and what the gate said about it."""

    model_id: str
    selection: str
    """`successes`, or `blind` for the control."""
    decision: str
    reason: str
    num_episodes: int
    """Episodes that it was trained on."""
    incumbent_id: str | None
    parent_id: str | None
    data_digest: str


class SwapFigures(Struct, frozen=True, kw_only=True):
    """Requests while the daemon trained and swapped, as the agents saw them."""

    requests: int
    p50_before_ms: float
    p99_before_ms: float
    """Latency of the requests that the base model answered."""
    p50_after_ms: float
    p99_after_ms: float
    slowest_near_flip_ms: float
    """The slowest request within a second of the flip, on either side."""


class GatewayFigures(Struct, frozen=True, kw_only=True):
    """What the gateway itself counted."""

    requests: int
    failed: int
    """Requests that got no complete answer although their client stayed."""
    captured: int
    """Calls that reached the daemon's feed."""
    lost: int
    """Calls that did not: dropped, or refused by the daemon."""


class Measured(Struct, frozen=True, kw_only=True):
    """What the swarm achieved on fresh incidents."""

    sampled: Share
    """Incidents resolved at temperature 0.7, the measure that counts."""
    greedy: Share
    """At temperature 0."""
    reading: Share
    """Replies to a finding that name the right cause."""
    invalid: Share
    """Replies that name no action."""


class DemoResult(Struct, frozen=True, kw_only=True):
    """Everything that the demo measured. Shares run 0..1, with 95 % Wilson intervals."""

    seed: int
    passed: bool
    """Whether the gain is real, no request failed, and the gate refused the control."""
    problems: tuple[str, ...]
    """Why it did not pass."""
    chance_in_text: Share
    """Right changes among those in the base model's text; chance is 1 in 8."""
    before: Measured
    after: Measured
    collected: Share
    """Incidents resolved while collecting, with exploration."""
    requests: int
    requests_failed: int
    """As the agents counted them."""
    gateway: GatewayFigures
    swap: SwapFigures
    verdicts: tuple[GateVerdict, ...]
    """The adapter's, then the control's."""
    served_at_end: str | None
    daemon_idle_mb: float
    """Resident memory of the daemon before its first event, MiB."""
    seconds: dict[str, float]
    """Phase to duration."""
    total_s: float
    report_path: str


def verdict_of(model: dict[str, Any]) -> GateVerdict:
    """The verdict in a model as the control API lists it."""
    gate = model["gate"] or {}
    return GateVerdict(
        model_id=model["id"],
        selection=model["selection"],
        decision=gate.get("decision", "none"),
        reason=gate.get("reason", "the gate is off"),
        num_episodes=len(model["episode_ids"]),
        incumbent_id=gate.get("incumbent_id"),
        parent_id=model["parent_id"],
        data_digest=model["data_digest"],
    )


def gateway_figures(lane: dict[str, Any]) -> GatewayFigures:
    """The counts of a lane as the gateway lists it."""
    captured = lane["captured"]
    return GatewayFigures(
        requests=lane["requests"],
        failed=lane["failed"],
        captured=captured["sent"],
        lost=captured["dropped"] + captured["refused"],
    )


def problems_of(
    *,
    before: Measured,
    after: Measured,
    requests_failed: int,
    gateway: GatewayFigures,
    verdicts: tuple[GateVerdict, ...],
    served_at_end: str | None,
    daemon_idle_mb: float,
) -> tuple[str, ...]:
    """Why the demo did not show what it is there to show; empty when it did."""
    adapter, *controls = verdicts
    problems = []
    if after.sampled.low <= before.sampled.high:
        problems.append(
            f"the gain is not clear: {before.sampled} before, {after.sampled} after, and the intervals overlap"
        )
    if requests_failed:
        problems.append(f"{requests_failed} requests failed: expected none")
    if gateway.failed:
        problems.append(f"the gateway counts {gateway.failed} failed requests: expected none")
    if gateway.lost:
        problems.append(f"{gateway.lost} captured calls did not reach the daemon: expected none")
    if served_at_end != adapter.model_id:
        problems.append(
            f"{served_at_end or 'the base model'} serves at the end: expected {adapter.model_id}"
        )
    problems += [
        f"the gate passed the control {control.model_id}, which learned without outcomes"
        for control in controls
        if control.decision == "pass"
    ]
    if daemon_idle_mb >= IDLE_LIMIT_MB:
        problems.append(
            f"the idle daemon held {daemon_idle_mb:.0f} MiB: expected under {IDLE_LIMIT_MB:g}"
        )
    return tuple(problems)
