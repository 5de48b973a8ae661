"""A gateway that stops tells everybody who still waits, in the dialect that they speak."""

import asyncio
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from honed.gateway.lane import Lane
from honed.gateway.relay import Relay
from honed.gateway.upstream import Address
from honed.listen import listen_on, serving
from tests.unit.gateway.stub import (
    CHAT,
    STREAM_HEAD,
    Request,
    chunk,
    delta,
    lane_to,
    until_closed,
    upstream,
)

pytestmark = pytest.mark.anyio

MESSAGES = "/v1/messages"


async def silent(request: Request, writer: asyncio.StreamWriter) -> None:
    """No answer comes."""
    await until_closed(request)


async def endless(request: Request, writer: asyncio.StreamWriter) -> None:
    """A stream that does not end."""
    writer.write(STREAM_HEAD + chunk(delta(content="disk")))
    await until_closed(request)


class Stopped:
    """A relay of one lane that is stopped while requests are open."""

    def __init__(self, lane: Lane, paths: tuple[str, ...] = (CHAT, MESSAGES)) -> None:
        self.lane = lane
        self.paths = paths
        self.answers: list[httpx.Response] = []

    async def stop_while(self, holds: Callable[[], bool], *, drain_s: float) -> None:
        """Ask at each path, stop when `holds()` is true, and see what is said."""
        listener = listen_on("127.0.0.1", 0)
        url = str(Address(*listener.getsockname()))
        async with httpx.AsyncClient(base_url=url, timeout=30) as client:
            async with serving(
                Relay({"tiny": self.lane}, max_body=1000), listener, drain_s=drain_s
            ):
                asked = [asyncio.create_task(client.post(path, json={})) for path in self.paths]
                async with asyncio.timeout(20):
                    while not holds():
                        await asyncio.sleep(0.001)
                self.lane.waiting.end()
            self.answers = [await each for each in asked]


def told(answer: httpx.Response) -> str:
    """The kind of its error; sees that it says why."""
    error = answer.json()["error"]
    assert "is being stopped" in error["message"]
    return str(error.get("code") or error["type"])


async def test_who_waits_for_a_server_is_told_at_once(tmp_path: Path, tiny_gguf: Path) -> None:
    """And not when the time is up that requests in flight have."""
    lane = lane_to(None, tmp_path, hold_s=600)
    lane.base_gguf = tiny_gguf
    stopped = Stopped(lane)
    async with asyncio.timeout(20):
        await stopped.stop_while(lambda: lane.waiting.num == 2, drain_s=600)
    assert [each.status_code for each in stopped.answers] == [503, 503]
    assert [each.headers["retry-after"] for each in stopped.answers] == ["1", "1"]
    assert [told(each) for each in stopped.answers] == ["stopping", "overloaded_error"]
    assert (lane.refused, lane.waiting.num) == (2, 0)


async def test_answer_that_has_not_begun_in_time_is_a_503(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The server is asked no further, and the log has no error of the program's."""
    async with upstream(silent) as seen:
        lane = lane_to(seen.address, tmp_path)
        stopped = Stopped(lane)
        await stopped.stop_while(lambda: len(seen.requests) == 2, drain_s=0.01)
    assert [each.status_code for each in stopped.answers] == [503, 503]
    assert [told(each) for each in stopped.answers] == ["stopping", "overloaded_error"]
    assert lane.backend is not None
    assert (lane.backend.in_flight, lane.failed) == (0, 2)
    assert caplog.records == []


@pytest.mark.parametrize(("path", "kind"), [(CHAT, "stopping"), (MESSAGES, "overloaded_error")])
async def test_stream_that_does_not_end_in_time_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, path: str, kind: str
) -> None:
    """By an error event, and a clean end."""
    async with upstream(endless) as seen:
        lane = lane_to(seen.address, tmp_path)
        stopped = Stopped(lane, (path,))
        await stopped.stop_while(
            lambda: lane.backend is not None and lane.backend.is_heard, drain_s=0.1
        )
    [answer] = stopped.answers
    assert answer.status_code == 200
    assert f'"{kind}"'.encode() in answer.content.split(b"\n\n")[-2]
    assert b"is being stopped" in answer.content
    assert caplog.records == []


async def test_half_a_request_is_refused(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Its client learns why, also while it still sends."""
    lane = lane_to(None, tmp_path)
    listener = listen_on("127.0.0.1", 0)
    relay = Relay({"tiny": lane}, max_body=1000)
    async with serving(relay, listener, drain_s=0.1):
        reader, writer = await asyncio.open_connection(*listener.getsockname())
        head = f"POST {MESSAGES} HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n"
        writer.write(head.encode() + b'{"model"')
        async with asyncio.timeout(20):
            while not relay._open:
                await asyncio.sleep(0.001)
    said = await reader.read()
    writer.close()
    assert said.startswith(b"HTTP/1.1 503")
    assert b"is being stopped" in said
    assert b"overloaded_error" in said
    assert caplog.records == []
