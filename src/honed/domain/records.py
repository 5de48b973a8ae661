"""Records: events as the store keeps them and as learn models read them.

Every record comes from an event through `record_from_event`; nothing else builds one.
"""

import functools
import operator
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, TypeVar

import msgspec
from msgspec import Struct

from honed.domain.events import (
    ActionEvent,
    DependencyGraphEvent,
    Event,
    LearnStatsEvent,
    LlmCallEvent,
    OutcomeEvent,
    Purpose,
    StrategyAdviceEvent,
    Trust,
)
from honed.domain.message import Message, Tool
from honed.domain.outcome import Outcome


class RecordFields(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What all records share."""

    timestamp_ms: int
    """When it happened, Unix milliseconds UTC."""
    record_id: int | None = None
    """The store's id, rising in order of arrival; None before it is stored."""
    event_id: str | None = None
    scenario: str | None = None
    agent: str | None = None
    role: str | None = None
    user: str | None = None
    session_id: str | None = None
    task_id: str | None = None
    group_id: str | None = None
    tags: dict[str, str] = {}
    train: bool = True
    trust: Trust = "trusted"
    purpose: Purpose = "work"

    @property
    def may_teach(self) -> bool:
        """Whether anything may be learned from it: consent given, and real work."""
        return self.train and self.purpose == "work"


class ActionRecord(
    RecordFields, frozen=True, kw_only=True, omit_defaults=True, tag="action", tag_field="type"
):
    """One thing an agent did."""

    task_id: str
    tick: int
    worker_id: int
    action: str
    target: str | None = None
    success: bool = True
    output: str | None = None
    error: str | None = None
    discoveries: int = 0
    kpi_contribution: float | None = None
    duration_ms: int = 0
    selection_logic: str | None = None
    from_guidance: bool = False
    previous_action: str | None = None
    lora: str | None = None
    observation: str | None = None
    extra: dict[str, Any] = {}


class LlmCallRecord(
    RecordFields, frozen=True, kw_only=True, omit_defaults=True, tag="llm", tag_field="type"
):
    """One call of a language model."""

    call_type: str = "chat"
    model: str = ""
    endpoint: str = ""
    messages: tuple[Message, ...] | None = None
    tools: tuple[Tool, ...] | None = None
    response_message: Message | None = None
    prompt: str | None = None
    response: str | None = None
    receipt_id: str | None = None
    response_id: str | None = None
    adapter_id: str | None = None
    lora: str | None = None
    worker_id: int | None = None
    latency_ms: int = 0
    finish_reason: str | None = None
    response_token_ids: tuple[int, ...] | None = None
    response_logprobs: tuple[float, ...] | None = None
    error: str | None = None

    @property
    def is_captured(self) -> bool:
        """Whether the gateway tells of it, which knows what answered: its events go by their receipts."""
        return self.receipt_id is not None and self.receipt_id == self.event_id

    @property
    def names_version(self) -> bool:
        """Whether it says what answered; that of the gateway without an adapter says that it was the base."""
        return bool(self.adapter_id or self.lora) or self.is_captured

    @property
    def is_success(self) -> bool:
        """Whether the call came back without an error and with a text or a tool call."""
        if self.error is not None:
            return False
        answered = self.response_message is not None and not self.response_message.is_empty
        return answered or bool(self.response)


class OutcomeRecord(
    RecordFields, frozen=True, kw_only=True, omit_defaults=True, tag="outcome", tag_field="type"
):
    """What somebody said about an attempt or one call of it."""

    outcome: Outcome | None = None
    receipt_id: str | None = None
    episode_id: str | None = None
    comment: str | None = None
    demonstration: Message | str | None = None
    source: str | None = None
    version: str | None = None
    worker_id: None = None

    @property
    def corrected(self) -> Message | None:
        """The answer as it should have been; None without one, or from a sender that is not trusted."""
        if self.demonstration is None or self.trust != "trusted":
            return None
        if isinstance(self.demonstration, str):
            return Message(role="assistant", content=self.demonstration)
        return msgspec.structs.replace(self.demonstration, role="assistant")


class DependencyGraphRecord(
    RecordFields,
    frozen=True,
    kw_only=True,
    omit_defaults=True,
    tag="dependency_graph",
    tag_field="type",
):
    """One inference of the order in which actions depend on each other."""

    prompt: str
    response: str
    available_actions: tuple[str, ...]
    discover_order: tuple[str, ...]
    """Actions that expand nodes."""
    not_discover_order: tuple[str, ...]
    """Actions that change a node's state."""
    model: str
    endpoint: str
    latency_ms: int
    success: bool
    lora: str | None = None
    error: str | None = None
    worker_id: None = None

    @property
    def is_success(self) -> bool:
        """Whether the inference worked."""
        return self.success and self.error is None


class StrategyAdviceRecord(
    RecordFields,
    frozen=True,
    kw_only=True,
    omit_defaults=True,
    tag="strategy_advice",
    tag_field="type",
):
    """One recommendation of a selection strategy."""

    tick: int
    advisor: str
    current_strategy: str
    recommended: str
    should_change: bool
    confidence: float
    reason: str
    frontier_count: int
    total_visits: int
    failure_rate: float
    latency_ms: int
    success: bool
    error: str | None = None
    worker_id: None = None

    @property
    def is_success(self) -> bool:
        """Whether the advisor answered."""
        return self.success and self.error is None

    @property
    def recommends_change(self) -> bool:
        """Whether the advisor wants another strategy than the current one."""
        return self.should_change


class LearnStatsRecord(
    RecordFields, frozen=True, kw_only=True, omit_defaults=True, tag="learn_stats", tag_field="type"
):
    """The learned statistics of one session."""

    outcome: Outcome
    total_ticks: int
    total_actions: int
    stats: dict[str, Any] = {}
    worker_id: None = None


Record = (
    ActionRecord
    | LlmCallRecord
    | OutcomeRecord
    | DependencyGraphRecord
    | StrategyAdviceRecord
    | LearnStatsRecord
)

Arrival = Event | Record
"""What is looked at to find a group: an event as it came, or the record of it; their common fields are equal."""

R = TypeVar("R", bound=RecordFields)


RECORD_TYPES: Final[dict[type, str]] = {
    event_type: str(record_type.__struct_config__.tag)
    for event_type, record_type in (
        (ActionEvent, ActionRecord),
        (LlmCallEvent, LlmCallRecord),
        (OutcomeEvent, OutcomeRecord),
        (DependencyGraphEvent, DependencyGraphRecord),
        (StrategyAdviceEvent, StrategyAdviceRecord),
        (LearnStatsEvent, LearnStatsRecord),
    )
}
"""The type under which an event of a class is stored."""


def record_from_event(event: Event, *, received_ms: int, record_id: int | None = None) -> Record:
    """The record of an event; `received_ms` stands in for a missing time."""
    match event:
        case ActionEvent():
            return _action_record(event, received_ms, record_id)
        case LlmCallEvent():
            return _copy(event, LlmCallRecord, received_ms, record_id)
        case OutcomeEvent():
            return _copy(event, OutcomeRecord, received_ms, record_id)
        case DependencyGraphEvent():
            return _copy(event, DependencyGraphRecord, received_ms, record_id)
        case StrategyAdviceEvent():
            return _copy(event, StrategyAdviceRecord, received_ms, record_id)
        case LearnStatsEvent():
            stats = event.stats
            if stats is None:
                stats = msgspec.json.decode(event.stats_json or "{}", type=dict[str, Any])
            return _copy(event, LearnStatsRecord, received_ms, record_id, stats=stats)


def records_of(records: Iterable[Record], cls: type[R]) -> list[R]:
    """The records of one class, in their order."""
    return [record for record in records if isinstance(record, cls)]


def by_worker(records: Iterable[Record], worker_id: int | None) -> list[Record]:
    """The records of one worker, in their order."""
    return [record for record in records if record.worker_id == worker_id]


def group_by_worker(records: Sequence[Record]) -> dict[int | None, list[Record]]:
    """A partition of the records by worker, each part in order; those without a worker under None."""
    parts: dict[int | None, list[Record]] = {}
    for record in records:
        parts.setdefault(record.worker_id, []).append(record)
    return parts


def _copy(
    event: Event, cls: type[R], received_ms: int, record_id: int | None, **changed: object
) -> R:
    """A record with the event's fields of the same name."""
    names, read = _same_fields(type(event), cls)
    values: dict[str, Any] = dict(zip(names, read(event), strict=True))
    values["timestamp_ms"] = received_ms if event.timestamp_ms is None else event.timestamp_ms
    values["record_id"] = record_id
    values |= changed
    return cls(**values)


@functools.cache
def _same_fields(
    event_type: type[Struct], cls: type[Struct]
) -> tuple[tuple[str, ...], Callable[[Struct], tuple[Any, ...]]]:
    """The fields that an event and its record share, and how to read them all at once."""
    names = tuple(n for n in cls.__struct_fields__ if n in event_type.__struct_fields__)
    return names, operator.attrgetter(*names)


def _action_record(event: ActionEvent, received_ms: int, record_id: int | None) -> ActionRecord:
    # Field by field: every action passes here before its ack, and `_copy` takes 2 us longer.
    result, context = event.result, event.context
    return ActionRecord(
        timestamp_ms=received_ms if event.timestamp_ms is None else event.timestamp_ms,
        record_id=record_id,
        event_id=event.event_id,
        scenario=event.scenario,
        agent=event.agent,
        role=event.role,
        user=event.user,
        session_id=event.session_id,
        task_id=event.task_id,
        group_id=event.group_id,
        tags=event.tags,
        train=event.train,
        trust=event.trust,
        purpose=event.purpose,
        tick=event.tick,
        worker_id=event.worker_id,
        action=event.action,
        target=event.target,
        success=result.success,
        output=result.output,
        error=result.error,
        discoveries=result.discoveries,
        kpi_contribution=result.kpi_contribution,
        duration_ms=event.duration_ms,
        selection_logic=context.selection_logic,
        from_guidance=context.from_guidance,
        previous_action=context.previous_action,
        lora=context.lora,
        observation=context.observation,
        extra=context.extra,
    )
