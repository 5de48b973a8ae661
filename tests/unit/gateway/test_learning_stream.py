"""From a client's call to a row that is trained on: only work that may be learned from gets that far."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest

from honed.client import AsyncHonedClient
from honed.gateway.feed import FeedSender
from honed.training_sets import EpisodeTrainingSets, HeldOutSplit
from tests.feed_parts import CHAT, Intake, open_feed
from tests.unit.gateway.stub import Front, Request, answering, relaying

pytestmark = pytest.mark.anyio

SECRET = bytes(range(32))
SPLIT = HeldOutSplit(SECRET, 0.2)
KEPT = [name for name in (f"task-{i}" for i in range(100)) if not SPLIT.is_held_out(name)]
USAGE = {"input_tokens": 5, "output_tokens": 2}
ANSWERS: dict[str, dict[str, Any]] = {
    "/v1/completions": {
        "choices": [{"index": 0, "text": "a text", "finish_reason": "stop"}],
    },
    "/v1/messages": {
        "id": "m",
        "content": [{"type": "text", "text": "a message"}],
        "stop_reason": "end_turn",
        "usage": USAGE,
    },
    "/v1/responses": {
        "id": "r",
        "status": "completed",
        "output": [
            {
                "type": "message",
                "role": "assistant",
                "content": [{"type": "output_text", "text": "a response"}],
            }
        ],
        "usage": USAGE,
    },
}


async def script(request: Request, writer: asyncio.StreamWriter) -> None:
    """Answer in the protocol that was asked in; a chat with what it was asked to say."""
    path = request.line.split()[1]
    answer = ANSWERS.get(path)
    if answer is None:
        said = json.loads(request.body)["messages"][-1]["content"].removeprefix("say ")
        message = {"role": "assistant", "content": said}
        answer = {"choices": [{"index": 0, "finish_reason": "stop", "message": message}]}
    await answering(answer)(request, writer)


@asynccontextmanager
async def learning(folder: Path) -> AsyncIterator[tuple[Front, Intake, AsyncHonedClient]]:
    """A gateway that captures for a running daemon's sink, and a client that tells outcomes."""
    async with (
        open_feed(folder) as intake,
        relaying(script, folder) as front,
        AsyncHonedClient(folder / "feed.sock") as client,
        anyio.create_task_group() as tasks,
    ):
        tasks.start_soon(FeedSender(front.lane.captured, lambda: folder / "feed.sock").run)
        yield front, intake, client
        tasks.cancel_scope.cancel()


async def ended(
    intake: Intake,
    front: Front,
    client: AsyncHonedClient,
    names: list[str],
    *,
    num_episodes: int | None = None,
) -> None:
    """Everything captured is stored, the attempts are successes and have become episodes."""
    with anyio.fail_after(60):
        await front.lane.captured.wait_empty()
        outcome = {"type": "success", "score": 1.0}
        for name in names:
            await client.send({"type": "outcome", "task_id": name, "outcome": outcome})
        for _ in range(len(names) if num_episodes is None else num_episodes):
            await intake.episodes.receive()


async def trained_on(intake: Intake, folder: Path) -> list[str]:
    """The answers that a run would imitate."""
    sets = EpisodeTrainingSets(intake.store, CHAT, scenario="airline", secret=SECRET, min_rows=1)
    found = await sets.build(folder / "run", selection="successes")
    rows = [json.loads(line) for line in Path(found.data_path).read_text().splitlines()]
    return sorted(
        turn["content"]
        for row in rows
        for i, turn in enumerate(row["messages"])
        if turn["role"] == "assistant" and i in row.get("trained_turns", [i])
    )


async def test_only_work_is_learned_from(tmp_path: Path) -> None:
    """Evaluation, probes and what its sender keeps out are stored, and no run ever learns from them."""
    labels: list[dict[str, str]] = [
        {},
        {"x-honed-purpose": "evaluation"},
        {"x-honed-purpose": "probe"},
        {"x-honed-train": "false"},
        {"x-honed-purpose": "work", "x-honed-train": "true"},
    ]
    async with learning(tmp_path) as (front, intake, client):
        for i, headers in enumerate(labels):
            await front.chat(f"say answer {i}", headers=headers | {"x-honed-task": KEPT[i]})
        # Evaluation and probes are no attempts; what was kept out is one, and teaches nothing.
        await ended(intake, front, client, KEPT[: len(labels)], num_episodes=3)
        assert (await intake.store.stats()).num_records == 2 * len(labels)
        assert await trained_on(intake, tmp_path) == ["answer 0", "answer 4"]


async def test_one_call_that_is_kept_out_keeps_its_attempt_out(tmp_path: Path) -> None:
    """Its answer is in the history of the calls after it."""
    async with learning(tmp_path) as (front, intake, client):
        await front.chat("say free", headers={"x-honed-task": KEPT[0]})
        task = {"x-honed-task": KEPT[1]}
        await front.chat("say before", headers=task)
        await front.chat("say secret", headers=task | {"x-honed-train": "false"})
        await front.chat("say after", headers=task)
        await ended(intake, front, client, KEPT[:2])
        assert await trained_on(intake, tmp_path) == ["free"]


async def test_calls_in_every_protocol_are_learned_from(tmp_path: Path) -> None:
    """A call is a call, whichever endpoint it came through."""
    asked = [{"role": "user", "content": "say something"}]
    bodies: dict[str, dict[str, Any]] = {
        "/v1/chat/completions": {"messages": asked},
        "/v1/completions": {"prompt": "say something"},
        "/v1/messages": {"messages": asked, "max_tokens": 9},
        "/v1/responses": {"input": "say something"},
    }
    async with learning(tmp_path) as (front, intake, client):
        for name, (path, body) in zip(KEPT, bodies.items(), strict=False):
            answer = await front.client.post(
                path, json={"model": "tiny", **body}, headers={"x-honed-task": name}
            )
            assert answer.status_code == 200
        await ended(intake, front, client, KEPT[: len(bodies)])
        expected = ["a message", "a response", "a text", "something"]
        assert await trained_on(intake, tmp_path) == expected
