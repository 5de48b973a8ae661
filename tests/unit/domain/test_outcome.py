"""Outcomes: their JSON, what they are worth, what they count as."""

import json
import math
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from honed.domain.outcome import (
    Failure,
    Outcome,
    Success,
    Timeout,
    Unknown,
    is_known,
    is_success,
    outcome_from_reward,
    score,
)

_scores = st.floats(0, 1)
outcomes: st.SearchStrategy[Outcome] = st.one_of(
    st.builds(Success, _scores),
    st.builds(Failure, st.text()),
    st.builds(Timeout, st.none() | _scores),
    st.just(Unknown()),
)


@pytest.mark.feature("SE-053")
@given(outcomes)
def test_round_trip(outcome: Outcome) -> None:
    """An outcome survives its JSON."""
    assert msgspec.json.decode(msgspec.json.encode(outcome), type=Outcome) == outcome


@pytest.mark.feature("SE-053")
@pytest.mark.parametrize(
    ("outcome", "written", "worth", "success", "known"),
    [
        (Success(0.9), {"type": "success", "score": 0.9}, 0.9, True, True),
        (Success(0.0), {"type": "success", "score": 0.0}, 0.0, True, True),
        (Failure("no"), {"type": "failure", "reason": "no"}, 0.0, False, True),
        (Timeout(0.4), {"type": "timeout", "partial_score": 0.4}, 0.4, False, True),
        (Timeout(), {"type": "timeout", "partial_score": None}, 0.0, False, True),
        (Unknown(), {"type": "unknown"}, 0.0, False, False),
    ],
)
def test_the_four_outcomes(
    outcome: Outcome, written: dict[str, Any], worth: float, success: bool, known: bool
) -> None:
    """Only a success is a success, only Unknown is unknown; a timeout keeps what it reached."""
    assert json.loads(msgspec.json.encode(outcome)) == written
    assert (score(outcome), is_success(outcome), is_known(outcome)) == (worth, success, known)


@pytest.mark.feature("SE-053")
@pytest.mark.parametrize("value", [-0.1, 1.1, math.nan, math.inf])
def test_scores_out_of_range(value: float) -> None:
    """A score is a finite number in 0..1, in code as on the wire."""
    for make in (Success, Timeout, outcome_from_reward):
        with pytest.raises(ValueError, match=r"0\.\.1"):
            make(value)
    if math.isfinite(value):
        with pytest.raises(msgspec.ValidationError):
            msgspec.json.decode(f'{{"type":"success","score":{value}}}', type=Outcome)


def test_rewards() -> None:
    """A reward above zero is a success of that score, zero a failure."""
    assert outcome_from_reward(1.0) == Success(1.0)
    assert outcome_from_reward(0.25) == Success(0.25)
    assert outcome_from_reward(0.0) == Failure("reward 0")
