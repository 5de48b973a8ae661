"""What tests of the feed share: events as dictionaries, events as the store takes them, a running sink."""

import hashlib
import json
import math
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple

import anyio
import msgspec
from anyio.streams.memory import MemoryObjectReceiveStream

from honed.client.wire import new_event_id
from honed.domain.consent import Consent
from honed.domain.episode import Episode
from honed.domain.events import parse_event
from honed.domain.records import record_from_event
from honed.learn_models import LearnModel, create
from honed.ports import Closing, GroupMark, IncomingEvent
from honed.redaction import Redaction
from honed.sink import Sink
from honed.sources import SocketSource
from honed.stores import SqlStore, open_store

SECRET = b"k" * 32
CHAT = create("chat")


def action(*, task_id: str = "t1", name: str = "look", **fields: Any) -> dict[str, Any]:
    """An action event with an id of its own."""
    return {
        "type": "action",
        "event_id": new_event_id(),
        "task_id": task_id,
        "tick": 1,
        "worker_id": 0,
        "action": name,
        "result": {"success": True},
        **fields,
    }


def call(**fields: Any) -> dict[str, Any]:
    """A call of a language model with an id of its own."""
    return {
        "type": "llm_call",
        "event_id": new_event_id(),
        "messages": [{"role": "user", "content": "what now?"}],
        "response_message": {"role": "assistant", "content": "look"},
        **fields,
    }


def success(score: float = 1.0, **fields: Any) -> dict[str, Any]:
    """A verdict: success."""
    outcome = {"type": "success", "score": score}
    return {"type": "outcome", "event_id": new_event_id(), "outcome": outcome, **fields}


def failure(reason: str = "no", **fields: Any) -> dict[str, Any]:
    """A verdict: failure."""
    outcome = {"type": "failure", "reason": reason}
    return {"type": "outcome", "event_id": new_event_id(), "outcome": outcome, **fields}


def line(event: dict[str, Any]) -> bytes:
    """The event as it goes over the wire, without the newline."""
    return json.dumps(event).encode()


def incoming(event: dict[str, Any], *, received_ms: int = 1_000) -> IncomingEvent:
    """The event as the sink hands it to the store, grouped by the chat model."""
    body = line(event)
    parsed = parse_event(body)
    record = record_from_event(parsed, received_ms=received_ms)
    receipt_id = event.get("receipt_id")
    follows_call = event["type"] == "outcome" and receipt_id and "task_id" not in event
    key = None if follows_call else CHAT.group_key(record)
    return IncomingEvent(
        event_id=event.get("event_id"),
        digest=hashlib.blake2b(body, digest_size=16, key=SECRET).digest(),
        type=str(record.__struct_config__.tag),
        task_id=event.get("task_id"),
        group_id=event.get("group_id"),
        session_id=event.get("session_id"),
        receipt_id=receipt_id,
        worker_id=record.worker_id,
        received_ms=received_ms,
        body=body,
        groups=() if key is None else (GroupMark(CHAT.name, key, CHAT.is_closing(record)),),
    )


async def close_all(
    store: SqlStore, *, scenario: str = "airline", now_ms: int = 5_000
) -> list[Episode]:
    """Close every open group the way the sink does; the new episodes."""
    made: list[Episode] = []
    for group in await store.open_groups(
        settled_before_ms=now_ms, idle_before_ms=now_ms, now_ms=now_ms
    ):
        records = (await store.group_records([group.id]))[group.id]
        episodes = [
            msgspec.structs.replace(
                episode, metadata=msgspec.structs.replace(episode.metadata, scenario=scenario)
            )
            for episode in CHAT.build_episodes(records, now_ms=now_ms, final=True)
        ]
        assert await store.close_groups([Closing(group.id, tuple(episodes), len(records))])
        made += episodes
    return made


class Intake(NamedTuple):
    """A running sink and what comes out of it."""

    store: SqlStore
    sink: Sink
    episodes: MemoryObjectReceiveStream[Episode]


@asynccontextmanager
async def open_intake(
    database: Path | None,
    *,
    learn_models: Sequence[LearnModel] = (CHAT,),
    settle: timedelta = timedelta(0),
    idle: timedelta = timedelta(minutes=5),
    consent: Consent = Consent(),  # noqa: B008 - a value
    redaction: Redaction = Redaction(),  # noqa: B008 - a value
) -> AsyncIterator[Intake]:
    """Store and sink, its closing loop running; in memory without a path."""
    send, episodes = anyio.create_memory_object_stream[Episode](math.inf)
    url = f"sqlite:///{database}" if database else "sqlite://"
    async with open_store(url) as store, anyio.create_task_group() as tasks:
        sink = Sink(
            store,
            learn_models,
            scenario="airline",
            secret=SECRET,
            settle=settle,
            idle=idle,
            on_episode=send.send_nowait,
            consent=consent,
            redaction=redaction,
        )
        tasks.start_soon(sink.run)
        with send, episodes:
            yield Intake(store, sink, episodes)
        tasks.cancel_scope.cancel()


@asynccontextmanager
async def open_feed(
    folder: Path, *, line_max: int = 1 << 20, name: str = "feed.sock"
) -> AsyncIterator[Intake]:
    """The same behind a socket in `folder`."""
    async with open_intake(folder / "honed.db") as intake:
        source = SocketSource(folder / name, intake.sink, scenario="airline", line_max=line_max)
        async with source.open():
            yield intake
