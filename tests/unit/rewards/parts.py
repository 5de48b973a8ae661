"""What tests of rewards share."""

from typing import Any

from honed.domain.episode import Episode, EpisodeMetadata
from honed.domain.ids import EpisodeIds
from honed.domain.message import FunctionCall, Message, ToolCall
from honed.domain.outcome import Outcome, Unknown
from honed.domain.records import LlmCallRecord, Record

_IDS = EpisodeIds()


def made(
    *records: Record,
    outcome: Outcome | None = None,
    created_at_ms: int = 1_700_000_000_000,
    **fields: Any,
) -> Episode:
    """An episode of these records, else of one question and its answer."""
    return Episode(
        id=_IDS.next(created_at_ms),
        learn_model="chat",
        records=records or (called(),),
        metadata=EpisodeMetadata(created_at_ms=created_at_ms, scenario="s"),
        outcome=outcome or Unknown(),
        **fields,
    )


def called(
    question: str = "Which queue?", answer: str = "billing", tools: tuple[str, ...] = ()
) -> LlmCallRecord:
    """A call of a model, with calls of tools if any are named."""
    calls = tuple(
        ToolCall(function=FunctionCall(name=name, arguments='{"a": 1}'), id=f"c{n}")
        for n, name in enumerate(tools)
    )
    return LlmCallRecord(
        timestamp_ms=1,
        messages=(Message(role="user", content=question),),
        response_message=Message(role="assistant", content=answer, tool_calls=calls or None),
    )
