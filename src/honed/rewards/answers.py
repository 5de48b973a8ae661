"""What verifiers and judges answer, read strictly: anything else is garbage, and garbage is no verdict."""

import math
from collections.abc import Sequence
from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import Meta, Struct

from honed.domain.outcome import Failure, Outcome, Success, Unknown, outcome_from_reward
from honed.errors import RewardError
from honed.ports import Answer

REASON_CHARS: Final = 2_000
"""A longer reason or comment is cut: it is for people."""
_FENCE: Final = "```"
_outcome = msgspec.json.Decoder(Outcome)


class _Told(Struct, forbid_unknown_fields=True):
    """The long form of a verifier's answer."""

    outcome: Outcome | None = None
    comment: str | None = None
    version: str | None = None


class _Verdict(Struct):
    """A judge's answer; models add keys of their own, which say nothing."""

    score: Annotated[float, Meta(ge=0.0, le=1.0)] | None = None
    verdict: Literal["success", "failure"] | None = None
    reason: str = ""


class _Ranking(Struct):
    ranking: list[int]
    reason: str = ""


class Vote(Struct, frozen=True):
    """What a judge has said once."""

    is_success: bool
    score: float
    reason: str


def verifier_answer(text: bytes) -> Answer | None:
    """What a verifier has written: an outcome, `{"outcome": …, "comment": …}`, a score, true or false; null is nothing.

    Raises:
        RewardError: it is none of these.
    """
    try:
        found: Any = msgspec.json.decode(text)
        match found:
            case None:
                return None
            case bool():
                return Answer(Success() if found else Failure("the verifier says no"))
            case int() | float():
                return Answer(outcome_from_reward(float(found)))
            case {"type": _}:
                return _answer(_outcome.decode(text), None, None)
            case {"outcome": _}:
                told = msgspec.json.decode(text, type=_Told)
                return _answer(told.outcome, told.comment, told.version)
    except (msgspec.DecodeError, ValueError, OverflowError, RecursionError) as error:
        raise RewardError(f"the answer is no outcome: {error}", advice=_FORMS) from None
    raise RewardError(f"the answer is {type(found).__name__}, and no outcome", advice=_FORMS)


_FORMS: Final = (
    'expected {"type": "success", "score": 0.9}, {"outcome": ..., "comment": ...}, a number in 0..1, '
    "true, false or null"
)


def _answer(outcome: Outcome | None, comment: str | None, version: str | None) -> Answer | None:
    if outcome is None or isinstance(outcome, Unknown):
        return None
    return Answer(outcome, comment and comment[:REASON_CHARS], version and version[:20])


def vote(text: str) -> Vote:
    """What a judge has said: a score, a verdict, or both, and a reason.

    A score without a verdict is a success from 0.5 on; a verdict without a score is worth 1 or 0. Of both the verdict
    decides, and the score says how good it was: a poor success and a good attempt that failed in the end are no
    contradiction, but a success that is worth nothing is, and a failure that is worth everything.

    Raises:
        RewardError: it is not one JSON object, or says neither, or both against each other.
    """
    told = _decode(text, _Verdict)
    if told.verdict is None and told.score is None:
        raise RewardError("the answer has neither a score nor a verdict")
    if (told.verdict, told.score) in {("success", 0.0), ("failure", 1.0)}:
        raise RewardError(
            f"the answer contradicts itself: expected a score above 0 with success and below 1 with failure,"
            f" found {told.score:g} with {told.verdict}"
        )
    is_success = told.verdict == "success" if told.verdict else (told.score or 0.0) >= 0.5
    score = told.score if told.score is not None else float(is_success)
    return Vote(is_success, score, told.reason[:REASON_CHARS])


def ranking(text: str, num: int) -> list[int]:
    """The places of attempts 1 to `num`, best first, from 0.

    Raises:
        RewardError: it does not name each of them once.
    """
    told = _decode(text, _Ranking).ranking
    if sorted(told) != list(range(1, num + 1)):
        raise RewardError(f"the ranking does not name each of {num} attempts once")
    return [number - 1 for number in told]


def _decode(text: str, cls: Any) -> Any:
    """One JSON object, in a fence or not; nothing before it and nothing after it."""
    text = text.strip()
    if text.startswith(_FENCE) and text.endswith(_FENCE) and len(text) > 2 * len(_FENCE):
        text = text[len(_FENCE) : -len(_FENCE)].removeprefix("json").strip()
    try:
        return msgspec.json.decode(text.encode("utf-8", "surrogatepass"), type=cls)
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        raise RewardError(f"the answer is not the JSON that was asked for: {error}") from None


def together(votes: Sequence[Vote], asked: int) -> tuple[Outcome, float] | None:
    """What more than half of all that were asked say, and which share of those that answered agree with it.

    The score is the mean of the votes for it; None without a majority.
    """
    yes = [each for each in votes if each.is_success]
    no = [each for each in votes if not each.is_success]
    most = max(yes, no, key=len)
    if not 2 * len(most) > asked:
        return None
    agreement = len(most) / len(votes)
    if most is yes:
        return Success(math.fsum(each.score for each in yes) / len(yes)), agreement
    return Failure(next((each.reason for each in no if each.reason), "")), agreement
