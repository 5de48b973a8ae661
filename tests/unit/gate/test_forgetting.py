"""The forgetting budget: how far a candidate may move the model on the probe set."""

import re

import pytest

from honed.domain.trained_model import GateResult
from honed.gate import HeldOutGate
from tests.unit.gate.test_held_out_gate import measured

BETTER = measured(51, 349, on_successes=0.1, on_failures=-0.1)


def judge(*, max_kl: float | None, probe_kl: float | None) -> GateResult:
    gate = HeldOutGate(max_kl=max_kl)
    held_out, scores = [p[0] for p in BETTER], [p[1] for p in BETTER]
    return gate.judge(held_out, scores, incumbent_id=None, now_ms=7, probe_kl=probe_kl)


@pytest.mark.parametrize(
    ("max_kl", "probe_kl", "decision", "says"),
    [
        (None, 9.0, "pass", "successes gained"),
        (0.5, 0.5, "pass", "successes gained"),
        (0.5, 0.51, "fail", "forgets too much: 0.51 nats per token .* at most 0.5"),
        (0.5, None, "not_enough_evidence", "was not measured, and gate.max_kl limits it"),
    ],
    ids=["no budget", "within", "beyond", "not measured"],
)
def test_a_better_candidate_keeps_to_the_budget(
    max_kl: float | None, probe_kl: float | None, decision: str, says: str
) -> None:
    """What forgets too much does not pass, however much it gained; what nobody measured waits."""
    result = judge(max_kl=max_kl, probe_kl=probe_kl)
    assert result.decision == decision
    assert re.search(says, result.reason)
