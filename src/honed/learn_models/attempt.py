"""What every learn model reads from the records of one attempt: group, end, outcome, metadata."""

import hashlib
import math
from collections.abc import Sequence
from typing import Final

import msgspec

from honed.domain.composition import PLAIN
from honed.domain.episode import Episode, EpisodeMetadata
from honed.domain.events import ActionEvent, LlmCallEvent, OutcomeEvent
from honed.domain.ids import EpisodeIds
from honed.domain.outcome import Failure, Outcome, Success
from honed.domain.records import (
    ActionRecord,
    Arrival,
    LlmCallRecord,
    OutcomeRecord,
    Record,
    RecordFields,
    records_of,
)
from honed.domain.verdict import Told

DONE: Final = "done"
"""The action that ends a task; its result is the task's."""

SYSTEM_EVENTS: Final = frozenset(
    {
        "tick_start",
        "tick_end",
        "task_start",
        "task_end",
        "guidance",
        "idle",
        "timeout",
        DONE,
    }
)
"""Actions of the engine, not of a worker: never learned."""

ACTIONS: Final = (ActionEvent, ActionRecord)
CALLS: Final = (LlmCallEvent, LlmCallRecord)
OUTCOMES: Final = (OutcomeEvent, OutcomeRecord)

_encoder: Final = msgspec.json.Encoder(order="deterministic")

# one for the process, because ids must rise across all learn models of a process
_EPISODE_IDS = EpisodeIds()


def task_key(task_id: str) -> str:
    """The group of an attempt; the prefix keeps tasks, sessions and single calls apart."""
    return f"task:{task_id}"


def own_key(arrival: Arrival) -> str:
    """The group of what names no attempt: by itself, recognised when it is sent again."""
    if arrival.event_id:
        return f"event:{arrival.event_id}"
    if isinstance(arrival, RecordFields):
        arrival = msgspec.structs.replace(arrival, record_id=None)
    content = _encoder.encode(arrival)
    return f"content:{hashlib.blake2b(content, digest_size=16).hexdigest()}"


def is_done(arrival: Arrival) -> bool:
    """Whether it is the action that ends its task."""
    return isinstance(arrival, ACTIONS) and arrival.action == DONE


def is_closing(arrival: Arrival) -> bool:
    """Whether it ends its group: a verdict or a better answer, or the action `done`."""
    if isinstance(arrival, OUTCOMES):
        return arrival.outcome is not None or arrival.demonstration is not None
    return is_done(arrival)


def in_order(records: Sequence[Record]) -> list[Record]:
    """Actions by tick, then arrival; what has no tick comes after them, in order of arrival."""
    return sorted(
        records,
        key=lambda record: record.tick if isinstance(record, ActionRecord) else math.inf,
    )


def verdict(records: Sequence[Record], *, scored: Sequence[Record] | None = None) -> Outcome | None:
    """The outcome that was told and stands, else what the newest `done` says, else None.

    `scored` are the records whose actions earn the score of a success, if not all of them do.
    """
    told = [
        Told(record.outcome, record.source, record.version)
        for record in records_of(records, OutcomeRecord)
        if record.outcome is not None
    ]
    if said := PLAIN.stands(told):
        return said.outcome
    dones = [record for record in records_of(records, ActionRecord) if is_done(record)]
    if not dones:
        return None
    if dones[-1].success:
        return Success(action_score(records if scored is None else scored))
    return Failure(dones[-1].error or "task failed")


def action_score(records: Sequence[Record]) -> float:
    """What the actions earned, 0..1: the sum of their KPI shares, else the share that succeeded.

    The engine's own events are no actions; without one that is, a task earns 1.
    """
    actions = records_of(records, ActionRecord)
    shares = [a.kpi_contribution for a in actions if a.kpi_contribution is not None]
    if shares:
        return min(1.0, max(0.0, math.fsum(shares)))
    own = [action for action in actions if action.action not in SYSTEM_EVENTS]
    return sum(action.success for action in own) / len(own) if own else 1.0


def episode(
    learn_model: str, records: Sequence[Record], outcome: Outcome, *, now_ms: int
) -> Episode:
    """The episode of these records; task, group, scenario and worker are the first ones named."""
    workers = {
        record.worker_id
        for record in records
        if record.worker_id is not None and not is_closing(record)
    }
    tags: dict[str, str] = {}
    for record in records:
        tags |= record.tags
    return Episode(
        id=_EPISODE_IDS.next(now_ms),
        learn_model=learn_model,
        records=tuple(records),
        metadata=EpisodeMetadata(
            created_at_ms=now_ms,
            scenario=next((r.scenario for r in records if r.scenario), None),
            worker_id=workers.pop() if len(workers) == 1 else None,
            adapter_id=_adapter_id(records),
            tags=tags,
        ),
        task_id=next((r.task_id for r in records if r.task_id), None),
        group_id=next((r.group_id for r in records if r.group_id), None),
        outcome=outcome,
    )


def _adapter_id(records: Sequence[Record]) -> str | None:
    """The adapter behind the last call that says what answered, else behind the last action that names one.

    A client may report a call as well that the gateway has captured, without knowing the adapter.
    """
    if calls := records_of(records, LlmCallRecord):
        told = (call.adapter_id or call.lora for call in reversed(calls) if call.names_version)
        return next(told, None)
    named = (action.lora for action in reversed(records_of(records, ActionRecord)))
    return next((lora for lora in named if lora), None)
