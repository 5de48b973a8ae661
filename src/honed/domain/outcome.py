"""How an attempt ended and what it was worth."""

import math
from typing import Annotated

from msgspec import Meta, Struct

Score = Annotated[float, Meta(ge=0.0, le=1.0)]


class Success(Struct, frozen=True, tag="success", tag_field="type"):
    """The task was done; `score` says how well, 0..1."""

    score: Score = 1.0

    def __post_init__(self) -> None:
        _check(self.score)


class Failure(Struct, frozen=True, tag="failure", tag_field="type"):
    """The task was not done; `reason` says why."""

    reason: str = ""


class Timeout(Struct, frozen=True, tag="timeout", tag_field="type"):
    """The attempt ended without a verdict of its own; what was reached until then is `partial_score`."""

    partial_score: Score | None = None

    def __post_init__(self) -> None:
        if self.partial_score is not None:
            _check(self.partial_score)


class Unknown(Struct, frozen=True, tag="unknown", tag_field="type"):
    """Nobody has said how it ended; counts neither as success nor as failure."""


Outcome = Success | Failure | Timeout | Unknown


def score(outcome: Outcome) -> float:
    """What the outcome was worth, 0..1: the score of a success, the partial score of a timeout, else 0."""
    match outcome:
        case Success(value):
            return value
        case Timeout(partial) if partial is not None:
            return partial
        case _:
            return 0.0


def is_success(outcome: Outcome) -> bool:
    """Whether the task was done."""
    return isinstance(outcome, Success)


def is_known(outcome: Outcome) -> bool:
    """Whether anybody has said how it ended."""
    return not isinstance(outcome, Unknown)


def outcome_from_reward(reward: float) -> Outcome:
    """The outcome of a trajectory with a reward in 0..1: above 0 a success of that score, 0 a failure.

    Raises:
        ValueError: the reward is not a finite number in 0..1.
    """
    _check(reward)
    return Success(reward) if reward > 0 else Failure("reward 0")


def _check(value: float) -> None:
    if not (math.isfinite(value) and 0.0 <= value <= 1.0):
        raise ValueError(f"a score of {value} is out of range: expected a finite number in 0..1")
