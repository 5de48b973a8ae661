"""A user's own measures are told, may be protected, and never pass a candidate by breaking."""

import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from honed.domain.episode_score import EpisodeScore
from honed.domain.trained_model import GateResult
from honed.errors import ConfigError
from honed.gate import HeldOutGate, load_metrics
from honed.ports import HeldOut

HELD_OUT = [HeldOut(episode_id=f"e{i}", group=f"g{i}", is_success=i % 2 == 0) for i in range(200)]
SCORES = [
    EpisodeScore(num_tokens=9, candidate=-2 + (0.1 if i % 2 == 0 else -0.1), incumbent=-2)
    for i in range(200)
]


def judge(metric: Any, **settings: Any) -> GateResult:
    gate = HeldOutGate(metrics={"brevity": metric}, **settings)
    return gate.judge(HELD_OUT, SCORES, incumbent_id=None, now_ms=0)


def falling(held_out: Sequence[HeldOut], scores: Sequence[EpisodeScore]) -> list[float]:
    return [-1.0 - i % 3 for i in range(len(held_out))]


def rising(held_out: Sequence[HeldOut], scores: Sequence[EpisodeScore]) -> list[float]:
    return [1.0 + i % 3 for i in range(len(held_out))]


def test_a_metric_is_told_and_does_not_decide() -> None:
    """What the operator has not protected is only reported."""
    result = judge(falling)
    assert result.passed
    assert [(each.name, each.p_worse < 0.01) for each in result.metrics] == [("brevity", True)]


def test_a_protected_metric_that_falls_fails() -> None:
    """A protected measure cannot be outvoted by success."""
    result = judge(falling, protected=["metric=brevity"])
    assert result.decision == "fail"
    assert "protected metric=brevity became worse" in result.reason
    assert judge(rising, protected=["metric=brevity"]).passed


@pytest.mark.parametrize(
    ("broken", "told"),
    [
        (lambda held_out, scores: [1.0], "gave 1 finite numbers: expected 200"),
        (lambda held_out, scores: [math.nan] * 200, "gave 0 finite numbers: expected 200"),
        (lambda held_out, scores: 1 / 0, "ZeroDivisionError"),
        (lambda held_out, scores: None, "TypeError"),
    ],
    ids=["short", "nan", "raises", "nothing"],
)
def test_a_metric_that_breaks_is_not_a_pass(broken: Any, told: str) -> None:
    """Whatever a user's function does, the candidate waits and the reason says why."""
    result = judge(broken)
    assert result.decision == "not_enough_evidence"
    assert "an evaluator broke: metric brevity" in result.reason
    assert told in result.reason


def test_a_protected_metric_must_be_measured() -> None:
    """Protecting what is not measured is a mistake in the config."""
    with pytest.raises(ConfigError, match="metric=brevity is not measured"):
        HeldOutGate(protected=["metric=brevity"])


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """An installed package with a metric in the entry point group."""
    (tmp_path / "gate_metrics_of_a_user.py").write_text(
        "def terse(held_out, scores):\n    return [score.candidate for score in scores]\n"
    )
    info = tmp_path / "gate_metrics_of_a_user-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Name: gate-metrics-of-a-user\nVersion: 1\n")
    (info / "entry_points.txt").write_text(
        "[honed.metrics]\nterse = gate_metrics_of_a_user:terse\nbroken = no_such_module:f\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    return "terse"


def test_metrics_are_found_by_entry_point(package: str) -> None:
    """An installed package's function is called with episodes and scores."""
    metrics = load_metrics([package])
    assert metrics["terse"](HELD_OUT[:2], SCORES[:2]) == [-1.9, -2.1]
    sys.modules.pop("gate_metrics_of_a_user")


@pytest.mark.parametrize(
    ("name", "told"),
    [("brief", "0 entry points honed.metrics are called brief"), ("broken", "cannot be loaded")],
)
def test_a_metric_that_is_not_there_is_refused(package: str, name: str, told: str) -> None:
    """A config that names nothing, or something that cannot be imported, is told at the start."""
    with pytest.raises(ConfigError, match=told):
        load_metrics([name])
