"""Held-out episodes say what they are part of, so that the gate can look at each part."""

from honed.domain.episode import Episode, EpisodeMetadata
from honed.domain.message import FunctionCall, Message, ToolCall
from honed.domain.outcome import Success
from honed.domain.records import ActionRecord, LlmCallRecord, OutcomeRecord
from honed.training_sets.slices import LIMIT, slices_of


def test_every_kind_is_named_once() -> None:
    """Scenario, tags, worker, agent, role, actions and tools; who judged it is no part of it."""
    called = ToolCall(id="1", function=FunctionCall(name="search", arguments="{}"))
    answer = Message(role="assistant", content=None, tool_calls=(called, called))
    episode = Episode(
        id="e",
        learn_model="chat",
        records=(
            LlmCallRecord(timestamp_ms=1, agent="ann", role="clerk", response_message=answer),
            ActionRecord(timestamp_ms=2, task_id="t", tick=1, worker_id=7, action="restart"),
            OutcomeRecord(timestamp_ms=3, agent="judge", outcome=Success(1.0)),
        ),
        metadata=EpisodeMetadata(
            created_at_ms=9, scenario="ops", tags={"skill": "repair", "language": "de"}
        ),
    )
    assert slices_of(episode) == (
        ("scenario", "ops"),
        ("language", "de"),
        ("skill", "repair"),
        ("agent", "ann"),
        ("role", "clerk"),
        ("tool", "search"),
        ("worker", "7"),
        ("action", "restart"),
    )


def test_an_episode_of_countless_tools_has_a_limit() -> None:
    """A tool of its own for each call does not fill the memory of the run."""
    records = tuple(
        ActionRecord(timestamp_ms=i, task_id="t", tick=i, worker_id=1, action=f"do {i}")
        for i in range(1_000)
    )
    episode = Episode(
        id="e", learn_model="chat", records=records, metadata=EpisodeMetadata(created_at_ms=1)
    )
    assert len(slices_of(episode)) == LIMIT
