"""What can be told of an episode without understanding it: tools used, length of the answer, whose it was.

A reward that is gamed shows here first: successes go up while the work behind them vanishes (`rewards.alarms`).
"""

from typing import NamedTuple

from honed.domain.episode import Episode
from honed.domain.ids import is_adapter_id
from honed.domain.records import ActionRecord, LlmCallRecord, Record, records_of


class Traits(NamedTuple):
    """Counts of one episode; None where it has nothing of the kind."""

    num_tool_calls: int | None
    """Calls of tools by the model, and actions of the engine's workers."""
    answer_chars: int | None
    """Characters of the last answer that has text."""
    unit: str | None
    """What the gateway has one version answer as a whole: its task, else its session, else its group. None where
    versions may not be compared by it: it belongs to nothing, several versions answered, or a call had named one."""


def traits(episode: Episode) -> Traits:
    """The counts of an episode."""
    calls = [found for record in episode.records if (found := _answer(record)) is not None]
    num_actions = sum(isinstance(record, ActionRecord) for record in episode.records)
    if not calls and not num_actions:
        return Traits(None, None, None)
    lengths = [chars for _, chars in calls if chars]
    num_tools = num_actions + sum(num for num, _ in calls)
    return Traits(num_tools, lengths[-1] if lengths else None, _unit(episode))


def _unit(episode: Episode) -> str | None:
    calls = records_of(episode.records, LlmCallRecord)
    versions = {call.adapter_id or call.lora for call in calls if call.names_version}
    if len(versions) > 1 or any(call.is_captured and is_adapter_id(call.model) for call in calls):
        return None
    named = [(each.task_id, each.session_id, each.group_id) for each in episode.records]
    return next((unit for units in zip(*named, strict=True) for unit in units if unit), None)


def _answer(record: Record) -> tuple[int, int] | None:
    """Tool calls and characters of a model's answer; None for what is none."""
    if not isinstance(record, LlmCallRecord) or not record.is_success:
        return None
    said = record.response_message
    if said is None:
        return 0, len(record.response or "")
    return len(said.tool_calls or ()), len(said.text)
