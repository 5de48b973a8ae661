"""What can be counted of an episode without understanding it: tools used, length of the answer.

A reward that is gamed shows here first: successes go up while the work behind them vanishes (`rewards.alarms`).
"""

from typing import NamedTuple

from honed.domain.episode import Episode
from honed.domain.records import ActionRecord, LlmCallRecord, Record


class Traits(NamedTuple):
    """Counts of one episode; None where it has nothing of the kind."""

    num_tool_calls: int | None
    """Calls of tools by the model, and actions of the engine's workers."""
    answer_chars: int | None
    """Characters of the last answer that has text."""


def traits(episode: Episode) -> Traits:
    """The counts of an episode."""
    calls = [found for record in episode.records if (found := _answer(record)) is not None]
    num_actions = sum(isinstance(record, ActionRecord) for record in episode.records)
    if not calls and not num_actions:
        return Traits(None, None)
    lengths = [chars for _, chars in calls if chars]
    return Traits(num_actions + sum(num for num, _ in calls), lengths[-1] if lengths else None)


def _answer(record: Record) -> tuple[int, int] | None:
    """Tool calls and characters of a model's answer; None for what is none."""
    if not isinstance(record, LlmCallRecord) or not record.is_success:
        return None
    said = record.response_message
    if said is None:
        return 0, len(record.response or "")
    return len(said.tool_calls or ()), len(said.text)
