"""What the demo counts as passed, and what it finds wrong."""

from typing import Any

import msgspec
import pytest

from honed.demo.result import (
    GateVerdict,
    GatewayFigures,
    Measured,
    gateway_figures,
    problems_of,
    verdict_of,
)
from honed.demo.statistics import wilson
from honed.demo.swap import flip_at, swap_figures
from honed.demo.swarm import Call
from honed.domain.trained_model import GateResult, TrainedModel

ADAPTER = GateVerdict(
    model_id="incidents@1",
    selection="successes",
    decision="pass",
    reason="r",
    num_episodes=190,
    incumbent_id=None,
    parent_id=None,
    data_digest="00",
)
CONTROL = msgspec.structs.replace(
    ADAPTER, model_id="incidents@2", selection="blind", decision="fail"
)
GATEWAY = GatewayFigures(requests=7_000, failed=0, captured=7_000, lost=0)


def _measured(hits: int) -> Measured:
    share = wilson(hits, 200)
    return Measured(sampled=share, greedy=share, reading=share, invalid=share)


def _problems(**changed: Any) -> tuple[str, ...]:
    found: dict[str, Any] = {
        "before": _measured(50),
        "after": _measured(190),
        "requests_failed": 0,
        "gateway": GATEWAY,
        "verdicts": (ADAPTER, CONTROL),
        "served_at_end": "incidents@1",
        "daemon_idle_mb": 70.0,
    }
    return problems_of(**(found | changed))


def test_a_clear_gain_without_failures_passes() -> None:
    """With the control refused, or left out."""
    assert _problems() == ()
    assert _problems(verdicts=(ADAPTER,)) == ()
    undecided = msgspec.structs.replace(CONTROL, decision="not_enough_evidence")
    assert _problems(verdicts=(ADAPTER, undecided)) == ()


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"after": _measured(65)}, "intervals overlap"),
        ({"after": _measured(20)}, "intervals overlap"),
        ({"requests_failed": 1}, "1 requests failed"),
        ({"gateway": GatewayFigures(requests=9, failed=2, captured=9, lost=0)}, "gateway counts 2"),
        ({"gateway": GatewayFigures(requests=9, failed=0, captured=6, lost=3)}, "3 captured calls"),
        ({"served_at_end": None}, "the base model serves"),
        ({"served_at_end": "incidents@2"}, "incidents@2 serves"),
        (
            {"verdicts": (ADAPTER, msgspec.structs.replace(CONTROL, decision="pass"))},
            "passed the control incidents@2",
        ),
        ({"daemon_idle_mb": 80.0}, "80 MiB"),
    ],
)
def test_each_broken_promise_is_a_problem(changed: dict[str, Any], said: str) -> None:
    """The demo fails, and says what for."""
    problems = _problems(**changed)
    assert len(problems) == 1
    assert said in problems[0]


def test_the_verdict_is_read_from_the_model_as_the_daemon_lists_it() -> None:
    """Names of the domain, so that a renamed field is noticed here."""
    gate = GateResult(
        decision="fail",
        proof="outcome",
        incumbent_id="incidents@1",
        reason="no better",
        num_successes=40,
        num_failures=160,
    )
    model = TrainedModel(
        id="incidents@2",
        scenario="incidents",
        run_id="r",
        base_model="base",
        learn_model="chat",
        method="sft",
        adapter_path="/a",
        gguf_path=None,
        digest="d",
        data_digest="dd",
        episode_ids=("a", "b"),
        sample_count=2,
        created_at_ms=0,
        selection="blind",
        parent_id="incidents@1",
        gate=gate,
    )
    verdict = verdict_of(msgspec.to_builtins(model))
    assert verdict == GateVerdict(
        model_id="incidents@2",
        selection="blind",
        decision="fail",
        reason="no better",
        num_episodes=2,
        incumbent_id="incidents@1",
        parent_id="incidents@1",
        data_digest="dd",
    )
    ungated = msgspec.to_builtins(msgspec.structs.replace(model, gate=None))
    assert verdict_of(ungated).decision == "none"


def test_lost_calls_are_those_that_no_daemon_has() -> None:
    """Skipped calls hold nothing to learn from; queued ones are still on their way."""
    captured = {"queued": 1, "sent": 90, "dropped": 2, "refused": 3, "skipped": 4}
    lane = {"requests": 100, "failed": 1, "captured": captured}
    expected = GatewayFigures(requests=100, failed=1, captured=90, lost=5)
    assert gateway_figures(lane) == expected


def test_the_flip_is_the_first_answer_of_the_new_model() -> None:
    """Latencies are told apart by who answered; a failed request belongs to nobody."""
    calls = [Call(float(i), 10.0 + i, "base") for i in range(10)]
    calls += [Call(10.0, 900.0, None)]
    calls += [Call(11.0 + i, 1.0, "incidents@1") for i in range(5)]
    assert flip_at(calls, "incidents@1") == 11.0
    assert flip_at(calls, "incidents@9") is None
    figures = swap_figures(calls, "incidents@1")
    assert (figures.requests, figures.p50_before_ms, figures.p99_before_ms) == (16, 14.0, 19.0)
    assert (figures.p50_after_ms, figures.p99_after_ms) == (1.0, 1.0)
