"""What a held-out episode is part of: where the gate looks for harm."""

from collections.abc import Iterator
from itertools import islice
from typing import Final

from honed.domain.episode import Episode
from honed.domain.records import ActionRecord, LlmCallRecord, OutcomeRecord

LIMIT: Final = 64
"""Slices of one episode; an agent that names a tool of its own for each call must not fill the memory."""


def slices_of(episode: Episode) -> tuple[tuple[str, str], ...]:
    """Kind and value: scenario, each tag by its own key (language, skill, suite), worker, agent, role, action, tool."""
    return tuple(islice(dict.fromkeys(_slices(episode)), LIMIT))


def _slices(episode: Episode) -> Iterator[tuple[str, str]]:
    if episode.metadata.scenario is not None:
        yield "scenario", episode.metadata.scenario
    yield from sorted(episode.metadata.tags.items())
    if episode.metadata.worker_id is not None:
        yield "worker", str(episode.metadata.worker_id)
    for record in episode.records:
        if isinstance(record, OutcomeRecord):
            continue  # who judges an attempt has no part in it
        for kind, name in (("agent", record.agent), ("role", record.role)):
            if name is not None:
                yield kind, name
        match record:
            case ActionRecord():
                yield "worker", str(record.worker_id)
                yield "action", record.action
            case LlmCallRecord():
                if record.worker_id is not None:
                    yield "worker", str(record.worker_id)
                called = record.response_message.tool_calls if record.response_message else None
                for call in called or ():
                    yield "tool", call.function.name
