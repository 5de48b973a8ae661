"""What requests may take at most: in number, in time, and of memory for a client that does not read."""

import asyncio
import subprocess
import sys
from pathlib import Path

import anyio
import pytest

from honed.gateway.relay import Limits
from tests.unit.gateway.stub import (
    ANSWER,
    CHAT,
    EVENTS,
    STREAM_HEAD,
    Request,
    answering,
    chunk,
    relaying,
    until_closed,
)

pytestmark = pytest.mark.anyio

FOR_EVER = 1000.0
"""A limit that only `Timers` ends."""


class Timers:
    """The limits of requests, ended when the test says so and not when a busy machine does."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._set: list[asyncio.Timeout] = []
        self._timeout = asyncio.timeout
        monkeypatch.setattr(asyncio, "timeout", self._set_one)

    def _set_one(self, delay: float | None) -> asyncio.Timeout:
        made = self._timeout(delay)
        if delay == FOR_EVER:
            self._set.append(made)
        return made

    def expire(self) -> None:
        """The time of all is over."""
        for each in self._set:
            each.reschedule(0)
        self._set.clear()


@pytest.fixture
def timers(monkeypatch: pytest.MonkeyPatch) -> Timers:
    return Timers(monkeypatch)


async def test_one_request_too_many_is_told_to_come_back(tmp_path: Path) -> None:
    """429 with Retry-After in the caller's dialect; the health is told all the same."""
    arrived, go = asyncio.Event(), asyncio.Event()

    async def waits(request: Request, writer: asyncio.StreamWriter) -> None:
        arrived.set()
        await go.wait()
        await answering()(request, writer)

    limits = Limits(max_requests=1)
    async with relaying(waits, tmp_path, limits=limits) as front, asyncio.TaskGroup() as tasks:
        first = tasks.create_task(front.chat())
        await asyncio.wait_for(arrived.wait(), 20)
        refused = [await front.client.post(path, json={}) for path in (CHAT, "/v1/messages")]
        health = await front.client.get("/health")
        go.set()
        assert (await first).json() == ANSWER
        assert (await front.chat()).status_code == 200
    assert [(each.status_code, each.headers["retry-after"]) for each in refused] == [(429, "1")] * 2
    assert refused[0].json()["error"]["code"] == "rate_limit_exceeded"
    assert refused[1].json()["error"]["type"] == "rate_limit_error"
    assert health.status_code == 200


async def test_one_request_too_many_of_a_scenario_is_told_to_come_back(tmp_path: Path) -> None:
    """Others may still have room."""
    arrived, go = asyncio.Event(), asyncio.Event()

    async def waits(request: Request, writer: asyncio.StreamWriter) -> None:
        arrived.set()
        await go.wait()
        await answering()(request, writer)

    async with relaying(waits, tmp_path) as front, asyncio.TaskGroup() as tasks:
        few = front.lane.section.model_copy(update={"max_requests_per_scenario": 1})
        front.lane.section = few
        first = tasks.create_task(front.chat())
        await asyncio.wait_for(arrived.wait(), 20)
        refused = await front.chat()
        go.set()
        assert (await first).status_code == 200
    assert (refused.status_code, refused.headers["retry-after"]) == (429, "1")
    assert "tiny: 1 requests are open" in refused.json()["error"]["message"]
    assert front.lane.refused == 1


@pytest.mark.parametrize("limits", [Limits(request_s=FOR_EVER), Limits(first_byte_s=FOR_EVER)])
async def test_answer_that_does_not_begin_in_time_is_a_504(
    tmp_path: Path, timers: Timers, limits: Limits
) -> None:
    """In the caller's dialect, marked as not worth another try; the server's work is ended."""
    ended = 0

    async def never(request: Request, writer: asyncio.StreamWriter) -> None:
        nonlocal ended
        timers.expire()
        await until_closed(request)
        ended += 1

    async with relaying(never, tmp_path, limits=limits) as front:
        chat = await front.chat()
        messages = await front.client.post("/v1/messages", json={})
        with anyio.fail_after(20):
            while ended < 2:
                await anyio.sleep(0.001)
        assert front.lane.failed == 2
    assert (chat.status_code, messages.status_code) == (504, 504)
    assert chat.json()["error"]["code"] == "timeout"
    assert messages.json()["error"]["type"] == "timeout_error"
    assert chat.headers["x-should-retry"] == "false"


async def test_stream_that_takes_too_long_ends_with_an_error_event(
    tmp_path: Path, timers: Timers
) -> None:
    """A first byte in time does not make the whole of it in time."""
    ended = asyncio.Event()

    async def endless(request: Request, writer: asyncio.StreamWriter) -> None:
        writer.write(STREAM_HEAD + chunk(EVENTS[1]))
        await until_closed(request)
        ended.set()

    async with (
        relaying(endless, tmp_path, limits=Limits(request_s=FOR_EVER)) as front,
        front.client.stream("POST", CHAT) as answer,
    ):
        events = answer.aiter_raw()
        assert await anext(events) == EVENTS[1]
        timers.expire()
        error = b"".join([each async for each in events])
        await asyncio.wait_for(ended.wait(), 20)
    assert b'"code":"timeout"' in error
    assert error.count(b"\n\n") == 1


async def test_request_that_waits_for_a_server_runs_out_of_time_too(tmp_path: Path) -> None:
    """`request_timeout` counts from when the request has come."""
    async with relaying(answering(), tmp_path, limits=Limits(request_s=0.05)) as front:
        lane, serving = front.lane, front.lane.backend
        lane.section = lane.section.model_copy(update={"hold_timeout": lane.section.drain_timeout})
        lane.base_gguf, lane.backend = tmp_path / "base.gguf", None
        answer = await front.chat()
        assert (answer.status_code, lane.waiting.num) == (504, 0)
        lane.backend = serving


async def test_client_that_does_not_read_does_not_outlast_its_time(tmp_path: Path) -> None:
    """Its answer fills a bounded buffer, its server waits meanwhile, and is free when the time is over."""
    sent = 0
    ended = asyncio.Event()

    async def floods(request: Request, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        writer.write(STREAM_HEAD)
        event = chunk(b"data: " + b"x" * 65_536 + b"\n\n")
        try:
            while True:
                writer.write(event)
                await writer.drain()
                sent += len(event)
        except ConnectionError:
            ended.set()

    async with relaying(floods, tmp_path, limits=Limits(request_s=1)) as front:
        reader, writer = await front.connect()
        reader._transport.pause_reading()  # type: ignore[attr-defined]
        writer.write(b"POST /x HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n\r\n{}")
        await asyncio.wait_for(ended.wait(), 20)
        assert front.lane.failed == 1
        writer.transport.abort()
    assert sent < 64 << 20


def test_as_many_requests_are_let_in_as_there_are_files_for() -> None:
    """The soft limit is raised; where the hard one is short, more requests than that would all find no server."""
    script = (
        "import resource as r; from honed.config import ServeSection; from honed.serve import limits_of;"
        "r.setrlimit(r.RLIMIT_NOFILE, (256, {hard}));"
        "print(limits_of(ServeSection(max_requests=1000)).max_requests, r.getrlimit(r.RLIMIT_NOFILE)[0])"
    )

    def told(hard: int) -> str:
        python = [sys.executable, "-c", script.format(hard=hard)]
        done = subprocess.run(python, capture_output=True, text=True, check=True)
        return done.stdout.splitlines()[-1]

    assert told(4_096) == "1000 2512"
    assert told(1_024) == "256 1024"
    assert told(256) == "64 256"
