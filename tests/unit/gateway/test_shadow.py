"""A candidate in the shadow answers copies of its share, unseen: no request waits for it or fails with it."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import anyio
import httpx
import msgspec
import pytest

from honed.config import ServeSection
from honed.domain.events import LlmCallEvent, parse_event
from honed.domain.serving import AdapterRef, CanaryOrder
from honed.gateway import shadow
from honed.gateway.candidate import Candidate
from honed.gateway.capture import Call
from honed.gateway.lane import Lane
from tests.unit.gateway.stub import (
    ANSWER,
    CHAT,
    Request,
    Script,
    Upstream,
    answering,
    backend_at,
    fronted,
    remember,
    stream,
    until_closed,
    upstream,
)

pytestmark = pytest.mark.anyio

BODY = {"model": "tiny", "messages": [{"role": "user", "content": "hi"}]}
TASK = {"x-honed-task": "t1"}


@dataclass
class Shadowed:
    """A lane whose live server answers, and a shadow that follows a script."""

    client: httpx.AsyncClient
    lane: Lane
    candidate: Candidate
    seen: Upstream

    @property
    def calls(self) -> list[Call]:
        return list(self.lane.captured._calls)

    async def until(self, **counts: int) -> None:
        """Wait until the shadow's counters are these."""
        with anyio.fail_after(30):
            while any(getattr(self.candidate, name) != count for name, count in counts.items()):
                await anyio.sleep(0.001)


@asynccontextmanager
async def shadowed(
    script: Script, folder: Path, *, live: Script | None = None
) -> AsyncIterator[Shadowed]:
    lane = Lane("tiny", ServeSection(parallel=2), folder, remember)
    order = CanaryOrder(model_id="tiny@4", adapter_path="/nowhere", share=1.0, is_shadow=True)
    candidate = lane.arms.candidate = Candidate("tiny", order)
    async with upstream(live or answering()) as front, upstream(script) as seen:
        lane.backend = backend_at(front.address)
        trial = backend_at(seen.address)
        trial.adapter = AdapterRef("tiny@4", "/nowhere")
        candidate.serve(trial)
        async with anyio.create_task_group() as candidate.copies:
            async with (
                fronted({"tiny": lane}) as address,
                httpx.AsyncClient(base_url=str(address), timeout=20) as client,
            ):
                yield Shadowed(client, lane, candidate, seen)
            candidate.copies.cancel_scope.cancel()
        assert (candidate.num_copies, trial.in_flight) == (0, 0)


def event_of(call: Call) -> LlmCallEvent:
    """As the daemon reads it."""
    event = parse_event(call.event())
    assert isinstance(event, LlmCallEvent)
    return event


@pytest.mark.parametrize("streams", [False, True])
async def test_copy_is_answered_and_never_learned_from(tmp_path: Path, streams: bool) -> None:
    """The client has the live version's answer; the shadow's becomes a probe that names the call it copies."""
    other = ANSWER | {"usage": {"prompt_tokens": 7, "completion_tokens": 99}}
    script = stream if streams else answering(other)
    async with shadowed(script, tmp_path, live=stream if streams else None) as front:
        body = BODY | {"stream": streams}
        answer = await front.client.post(CHAT, json=body, headers=TASK)
        assert answer.headers["x-honed-model"] == "tiny@3"
        await front.until(requests=1, num_copies=0)
        events = {call.adapter_id: event_of(call) for call in front.calls}
        [copied] = front.seen.requests
    assert msgspec.json.decode(copied.body) == body
    work, probe = events["tiny@3"], events["tiny@4"]
    assert (work.purpose, work.train, work.tags) == ("work", True, {})
    assert (probe.purpose, probe.train) == ("probe", False)
    assert probe.tags == {shadow.SHADOW_OF: answer.headers["x-honed-receipt"]}
    assert probe.task_id == work.task_id == "t1"
    assert probe.receipt_id != work.receipt_id
    assert probe.response_message is not None
    if not streams:
        assert probe.completion_tokens == 99


async def test_nobody_waits_for_the_shadow(tmp_path: Path) -> None:
    """Its slots are full of copies that do not end: the next ones are dropped, and all requests are answered."""

    async def silent(request: Request, writer: asyncio.StreamWriter) -> None:
        await until_closed(request)

    async with shadowed(silent, tmp_path) as front:
        for _ in range(5):
            answer = await front.client.post(CHAT, json=BODY, headers=TASK)
            assert answer.json() == ANSWER
        assert (front.candidate.requests, front.candidate.dropped) == (2, 3)
        assert front.candidate.num_copies == 2


async def test_shadow_that_breaks_is_counted_and_not_seen(tmp_path: Path) -> None:
    """An answer that breaks off, and an error of the server, are failures of the candidate's alone."""

    async def breaks(request: Request, writer: asyncio.StreamWriter) -> None:
        if len(front.seen.requests) % 2:
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{")
        else:
            writer.write(b"HTTP/1.1 500 No\r\ncontent-length: 2\r\n\r\n{}")

    async with shadowed(breaks, tmp_path) as front:
        for _ in range(2):
            answer = await front.client.post(CHAT, json=BODY, headers=TASK)
            assert answer.json() == ANSWER
            await front.until(num_copies=0)
        assert (front.candidate.requests, front.candidate.failed) == (2, 2)
        assert front.lane.failed == 0
        assert {call.adapter_id for call in front.calls} == {"tiny@3"}


async def test_an_error_of_the_server_is_a_failure_of_whichever_version(tmp_path: Path) -> None:
    """A request that no version can answer says nothing against the one that is tried."""

    async def fails(request: Request, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 500 No\r\ncontent-length: 2\r\n\r\n{}")

    async with shadowed(fails, tmp_path, live=fails) as front:
        answer = await front.client.post(CHAT, json=BODY, headers=TASK)
        assert answer.status_code == 500
        await front.until(requests=1, num_copies=0)
        assert (front.candidate.failed, front.lane.failed) == (1, 1)


async def test_only_work_that_leaves_the_version_open_is_copied(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No evaluations, no calls that name a version or belong to nothing, and none that are no chat."""
    async with shadowed(answering(), tmp_path) as front:
        for path, body, headers in (
            (CHAT, BODY, {}),
            (CHAT, BODY, TASK | {"x-honed-purpose": "evaluation"}),
            (CHAT, BODY | {"model": "tiny@3"}, TASK),
            ("/tokenize", {"content": "hi"}, TASK),
        ):
            answer = await front.client.post(path, json=body, headers=headers)
            assert answer.status_code == 200
        assert (front.candidate.requests, front.candidate.dropped) == (0, 0)
        monkeypatch.setattr(shadow, "BODY_MAX", 10)
        await front.client.post(CHAT, json=BODY, headers=TASK)
        assert (front.candidate.requests, front.candidate.dropped) == (0, 1)
