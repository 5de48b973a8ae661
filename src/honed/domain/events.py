"""Events: what a swarm tells the daemon, one JSON object each, told apart by `type`.

Every event may carry the envelope (identity, who, where, whether it may be learned from). Unknown keys are ignored,
because a source may be newer than we are; a missing or ill-typed field raises `ValidationError` with its path.
"""

import re
from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import Meta, Struct

from honed.domain.message import Message, Tool
from honed.domain.outcome import Outcome
from honed.errors import ValidationError

EventId = Annotated[str, Meta(min_length=1, max_length=64)]
Name = Annotated[str, Meta(min_length=1, max_length=200)]
Count = Annotated[int, Meta(ge=0)]
WorkerId = Annotated[int, Meta(ge=0, le=0xFFFF)]
Share = Annotated[float, Meta(ge=0.0, le=1.0)]
UnixMs = Annotated[int, Meta(ge=0)]
Purpose = Literal["work", "evaluation", "probe"]
Trust = Literal["trusted", "untrusted"]


class Envelope(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What every event may carry besides its own fields."""

    event_id: EventId | None = None
    """Identity, made by the client (time-ordered uuid7); a repeat with equal content is stored once."""
    scenario: str | None = None
    """Kind of work; the daemon's own scenario when absent."""
    agent: str | None = None
    role: str | None = None
    user: str | None = None
    session_id: str | None = None
    """Ties calls that name no task into one conversation."""
    task_id: str | None = None
    """One attempt at one task."""
    group_id: str | None = None
    """Ties attempts under one condition, so that they may be compared; never split by the held-out hash."""
    parent_task_id: str | None = None
    tags: dict[str, str] = {}
    train: bool = True
    """False keeps the event out of every training set."""
    trust: Trust = "trusted"
    """Untrusted content is context, never a target of learning."""
    purpose: Purpose = "work"
    """Only `work` is learned from; evaluation and probe traffic is kept apart."""
    timestamp_ms: UnixMs | None = None
    """When it happened, Unix milliseconds UTC; the time of arrival when absent."""


class ActionResult(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What an action led to."""

    success: bool
    output: str | None = None
    error: str | None = None
    discoveries: Count = 0
    """Nodes found while exploring."""
    kpi_contribution: float | None = None
    """Share of the task's goal that this action earned."""

    @classmethod
    def ok(
        cls, output: str | None = None, *, kpi_contribution: float | None = None
    ) -> "ActionResult":
        """The result of an action that worked."""
        return cls(success=True, output=output, kpi_contribution=kpi_contribution)

    @classmethod
    def failed(cls, error: str, *, output: str | None = None) -> "ActionResult":
        """The result of an action that did not work."""
        return cls(success=False, error=error, output=output)


class ActionContext(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What led to an action."""

    selection_logic: str | None = None
    from_guidance: bool = False
    previous_action: str | None = None
    lora: str | None = None
    """Id of the adapter that served the choice."""
    observation: str | None = None
    """What the worker saw before it chose; the first one of a task states the task."""
    extra: dict[str, Any] = {}


class ActionEvent(
    Envelope, frozen=True, kw_only=True, omit_defaults=True, tag="action", tag_field="type"
):
    """One thing an agent did. A line without `type` is an action."""

    task_id: str
    tick: Count
    worker_id: WorkerId
    action: Name
    result: ActionResult
    id: str | int | None = None
    """The engine's own id: 16 hex digits, or the same as an integer."""
    target: str | None = None
    duration_ms: Count = 0
    context: ActionContext = ActionContext()


class LlmCallEvent(
    Envelope, frozen=True, kw_only=True, omit_defaults=True, tag="llm_call", tag_field="type"
):
    """One call of a language model, as its caller or the gateway saw it."""

    call_type: str = "chat"
    model: str = ""
    endpoint: str = ""
    messages: tuple[Message, ...] | None = None
    """The conversation that was sent."""
    tools: tuple[Tool, ...] | None = None
    response_message: Message | None = None
    """The turn that came back, tool calls included."""
    prompt: str | None = None
    """The prompt as text, when only that is known."""
    response: str | None = None
    """The answer as text, when only that is known."""
    receipt_id: str | None = None
    """Given by the gateway with the answer; a later outcome may name it."""
    response_id: str | None = None
    """The model server's id of the answer; with the receipt it tells reports of one call."""
    adapter_id: str | None = None
    """The adapter that answered, `scenario@n`; None for the base model."""
    lora: str | None = None
    worker_id: WorkerId | None = None
    latency_ms: Count = 0
    prompt_tokens: Count | None = None
    completion_tokens: Count | None = None
    finish_reason: str | None = None
    response_token_ids: tuple[Count, ...] | None = None
    """The tokens that were sampled, where the caller asked the server for them; all of them or None."""
    response_logprobs: tuple[float, ...] | None = None
    """The natural log-probability of each of them, under the model that answered."""
    error: str | None = None


class OutcomeEvent(
    Envelope, frozen=True, kw_only=True, omit_defaults=True, tag="outcome", tag_field="type"
):
    """What somebody says about an attempt, now or days later: a verdict, a comment, a better answer.

    It speaks of one call (`receipt_id`), of an attempt (`task_id`, `session_id`), or, naming a `group_id`
    alone, of every attempt of the group that had begun by then. docs/outcomes.md tells what becomes of it.
    """

    outcome: Outcome | None = None
    """How the attempt ended; None says nothing about that, `unknown` takes back what was said."""
    receipt_id: str | None = None
    episode_id: str | None = None
    """By itself: this one attempt, which has become an episode, whatever its calls were named."""
    comment: str | None = None
    """Words for people; nothing is learned from them."""
    demonstration: Message | str | None = None
    """The answer as it should have been: of the call, else the last one of the attempt."""
    source: str | None = None
    """Who says so: a verifier, a judge, a person."""
    version: str | None = None
    """Which version of the source said so."""

    def __post_init__(self) -> None:
        said = self.demonstration
        if self.outcome is None and self.comment is None and said is None:
            raise ValueError("expected an outcome, a comment or a demonstration")
        if said is not None and (not said if isinstance(said, str) else said.is_empty):
            raise ValueError("the demonstration is empty: expected a text or a tool call")


class DependencyGraphEvent(
    Envelope,
    frozen=True,
    kw_only=True,
    omit_defaults=True,
    tag="dependency_graph_inference",
    tag_field="type",
):
    """A model was asked in which order actions depend on each other."""

    timestamp_ms: UnixMs
    prompt: str
    response: str
    available_actions: tuple[str, ...]
    discover_order: tuple[str, ...]
    not_discover_order: tuple[str, ...]
    model: str
    endpoint: str
    latency_ms: Count
    success: bool
    lora: str | None = None
    error: str | None = None


class StrategyAdviceEvent(
    Envelope, frozen=True, kw_only=True, omit_defaults=True, tag="strategy_advice", tag_field="type"
):
    """An advisor recommended a selection strategy."""

    timestamp_ms: UnixMs
    tick: Count
    advisor: str
    current_strategy: str
    recommended: str
    should_change: bool
    confidence: Share
    reason: str
    frontier_count: Count
    total_visits: Count
    failure_rate: Share
    latency_ms: Count
    success: bool
    error: str | None = None


class LearnStatsEvent(
    Envelope,
    frozen=True,
    kw_only=True,
    omit_defaults=True,
    tag="learn_stats_snapshot",
    tag_field="type",
):
    """The learned statistics of one session, sent when it ends."""

    timestamp_ms: UnixMs
    scenario: str
    session_id: str
    outcome: Outcome
    total_ticks: Count
    total_actions: Count
    stats: dict[str, Any] | None = None
    stats_json: str | None = None
    """`stats` as JSON text, as older engines send it."""


Event = (
    ActionEvent
    | LlmCallEvent
    | OutcomeEvent
    | DependencyGraphEvent
    | StrategyAdviceEvent
    | LearnStatsEvent
)

LearningEvent = StrategyAdviceEvent | DependencyGraphEvent | LearnStatsEvent
"""What a swarm that learns tells of its learning."""

EVENT_TYPES: Final = (
    ActionEvent,
    LlmCallEvent,
    OutcomeEvent,
    DependencyGraphEvent,
    StrategyAdviceEvent,
    LearnStatsEvent,
)

_decoder: msgspec.json.Decoder[Event] = msgspec.json.Decoder(Event)
_action_decoder = msgspec.json.Decoder(ActionEvent)
_encoder = msgspec.json.Encoder()

TOO_DEEP: Final = (
    "the line nests too deep to be read: expected a few hundred arrays and objects within each other"
    " at most"
)

_AT_PATH = re.compile(r"^(?P<what>.*?)(?: - at `(?P<path>\$[^`]*)`)?$", re.DOTALL)
_MISSING = re.compile(r"Object missing required field `(?P<name>[^`]+)`")


def parse_event(line: bytes | bytearray | memoryview) -> Event:
    """Read one event from its JSON.

    Raises:
        ValidationError: not JSON, an unknown type, or a field that is missing or ill-typed; `path` names it.
    """
    try:
        try:
            return _decoder.decode(line)
        except msgspec.ValidationError as error:
            if "missing required field `type`" not in str(error) or "- at" in str(error):
                raise
            return _action_decoder.decode(line)
    except msgspec.ValidationError as error:
        raise _field_error(str(error)) from None
    except msgspec.DecodeError as error:
        raise ValidationError(f"the line is not JSON: {error}") from None
    except UnicodeDecodeError as error:
        found = f"byte 0x{error.object[error.start]:02x}, {error.reason}"
        raise ValidationError(f"the line is not UTF-8: {found}") from None
    except RecursionError:
        raise ValidationError(TOO_DEEP) from None


def format_event(event: Event) -> bytes:
    """The event as one line of JSON, without the newline; fields with their default value are left out."""
    return _encoder.encode(event)


def _field_error(text: str) -> ValidationError:
    match = _AT_PATH.match(text)
    assert match is not None
    what, path = match["what"], match["path"] or "$"
    if missing := _MISSING.search(what):
        path = f"{path}.{missing['name']}"
        what = "a required field is missing"
    return ValidationError(f"{path}: {what}", path=path)
