"""Requests that find no server wait for one: bounded in time and number, and no longer than they
must.
"""

import asyncio
import contextlib
import functools
import select
import socket
from pathlib import Path

import anyio
import httpx
import pytest

from honed.errors import TrainingError
from honed.gateway.lane import Lane
from honed.gateway.rebase import rebase
from honed.gateway.upstream import Address, Exchange, UnreachableError
from tests.unit.gateway.stub import ANSWER, CHAT, answering, backend_at, fronted, lane_to, upstream

pytestmark = pytest.mark.anyio


def coming_up(folder: Path, *, hold_s: float = 20) -> Lane:
    """A lane without a server that has something to start."""
    lane = lane_to(None, folder, hold_s=hold_s)
    lane.base_gguf = folder / "base.gguf"
    return lane


async def until_held(lane: Lane, count: int) -> None:
    with anyio.fail_after(60):
        while lane.waiting.num != count:
            await anyio.sleep(0.001)


async def test_request_waits_for_the_server_and_is_served(tmp_path: Path) -> None:
    """It comes while nothing serves, and is answered as soon as something does."""
    lane = coming_up(tmp_path)
    async with (
        upstream(answering()) as seen,
        fronted({"tiny": lane}) as address,
        httpx.AsyncClient(base_url=str(address), timeout=20) as client,
        asyncio.TaskGroup() as tasks,
    ):
        answers = [tasks.create_task(client.post(CHAT, json={})) for _ in range(8)]
        await until_held(lane, 8)
        lane.backend = backend_at(seen.address)
        lane.waiting.tell()
    assert [answer.result().json() for answer in answers] == [ANSWER] * 8
    assert (lane.requests, lane.refused, lane.failed, lane.waiting.num) == (8, 0, 0, 0)


async def test_request_to_a_server_that_has_just_died_goes_to_the_next(tmp_path: Path) -> None:
    """Nobody listens any more, but the lane has not noticed yet: nothing was sent, nothing is lost."""
    with socket.create_server(("127.0.0.1", 0)) as closed:
        dead = Address(*closed.getsockname())
    lane = coming_up(tmp_path)
    lane.backend = before = backend_at(dead)
    async with (
        upstream(answering()) as seen,
        fronted({"tiny": lane}) as address,
        httpx.AsyncClient(base_url=str(address), timeout=20) as client,
        asyncio.TaskGroup() as tasks,
    ):
        answer = tasks.create_task(client.post(CHAT, json={}))
        await until_held(lane, 1)
        assert before.in_flight == 0
        lane.backend = backend_at(seen.address)
        lane.waiting.tell()
    assert answer.result().status_code == 200
    assert lane.failed == 0


async def test_connection_that_nobody_accepted_before_the_end_counts_as_none() -> None:
    """The kernel had taken it, the server died before accepting: reset, not refused, and nothing was sent either."""
    exchange = Exchange("POST")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        opening = asyncio.ensure_future(
            exchange.open(Address(*listener.getsockname()), b"POST / HTTP/1.1\r\n\r\n")
        )
        with anyio.fail_after(60):
            while not select.select([listener], [], [], 0)[0]:
                await asyncio.sleep(0)
    # the loop has not looked at the connection since it was made
    with pytest.raises(UnreachableError, match="nobody listens"):
        await opening


async def test_wait_is_bounded(tmp_path: Path) -> None:
    """After `hold_timeout` the client is told to come back."""
    lane = coming_up(tmp_path, hold_s=0.05)
    async with (
        fronted({"tiny": lane}) as address,
        httpx.AsyncClient(base_url=str(address), timeout=20) as client,
    ):
        answer = await client.post(CHAT, json={})
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
    assert (lane.refused, lane.waiting.num) == (1, 0)


async def test_number_of_waiting_requests_is_bounded(tmp_path: Path) -> None:
    """One more is told at once: come back."""
    lane = coming_up(tmp_path)
    lane.section = lane.section.model_copy(update={"max_requests_per_scenario": 2})
    async with (
        upstream(answering()) as seen,
        fronted({"tiny": lane}) as address,
        httpx.AsyncClient(base_url=str(address), timeout=20) as client,
        asyncio.TaskGroup() as tasks,
    ):
        held = [tasks.create_task(client.post(CHAT, json={})) for _ in range(2)]
        await until_held(lane, 2)
        refused = await client.post(CHAT, json={})
        assert (refused.status_code, refused.headers["retry-after"]) == (429, "1")
        assert refused.json()["error"]["code"] == "rate_limit_exceeded"
        assert lane.refused == 1
        lane.backend = backend_at(seen.address)
        lane.waiting.tell()
    assert [each.result().status_code for each in held] == [200, 200]


async def test_nobody_waits_without_hope(tmp_path: Path) -> None:
    """A lane that has nothing to start answers at once."""
    lane = lane_to(None, tmp_path, hold_s=20)
    async with (
        fronted({"tiny": lane}) as address,
        httpx.AsyncClient(base_url=str(address), timeout=5) as client,
    ):
        assert (await client.post(CHAT, json={})).status_code == 503


async def test_nobody_waits_for_a_server_that_does_not_start(tmp_path: Path) -> None:
    """After three starts that failed requests are told why; another base model is worth a wait again."""
    lane = coming_up(tmp_path, hold_s=300)
    async with (
        fronted({"tiny": lane}) as address,
        httpx.AsyncClient(base_url=str(address), timeout=30) as client,
        anyio.create_task_group() as tasks,
    ):
        tasks.start_soon(lane.run)
        held = await client.post(CHAT, json={})
        at_once = await client.post(CHAT, json={})
        for answer in (held, at_once):
            assert answer.status_code == 503
            assert "tiny-blue" in answer.json()["error"]["message"]
        await rebase(lane, tmp_path / "other.gguf", None)
        tasks.start_soon(functools.partial(client.post, CHAT, json={}))
        await until_held(lane, 1)
        tasks.cancel_scope.cancel()


async def test_client_that_leaves_waits_no_longer(tmp_path: Path) -> None:
    """Its place is free again."""
    lane = coming_up(tmp_path)
    async with fronted({"tiny": lane}) as address:
        _, writer = await asyncio.open_connection(address.host, address.port)
        writer.write(b"POST /x HTTP/1.1\r\nhost: localhost\r\ncontent-length: 2\r\n\r\n{}")
        await until_held(lane, 1)
        writer.close()
        await until_held(lane, 0)
    assert lane.refused == 0


async def test_request_waits_while_the_base_model_is_made(tmp_path: Path) -> None:
    """The first start converts it; health says `starting`, not `down`, and nobody is sent away."""
    lane = lane_to(None, tmp_path, hold_s=20)
    async with (
        upstream(answering()) as seen,
        fronted({"tiny": lane}) as address,
        httpx.AsyncClient(base_url=str(address), timeout=20) as client,
        asyncio.TaskGroup() as tasks,
    ):
        with lane.preparing():
            health = await client.get("/health")
            answer = tasks.create_task(client.post(CHAT, json={}))
            await until_held(lane, 1)
            lane.base_gguf = tmp_path / "base.gguf"
        assert health.json()["scenarios"] == {"tiny": "starting"}
        lane.backend = backend_at(seen.address)
        lane.waiting.tell()
    assert answer.result().status_code == 200


async def test_request_is_told_when_no_base_model_could_be_made(tmp_path: Path) -> None:
    """Whoever waited for it waits no longer."""
    lane = lane_to(None, tmp_path, hold_s=20)
    async with (
        fronted({"tiny": lane}) as address,
        httpx.AsyncClient(base_url=str(address), timeout=20) as client,
    ):
        with contextlib.suppress(TrainingError), lane.preparing():
            answer = asyncio.create_task(client.post(CHAT, json={}))
            await until_held(lane, 1)
            raise TrainingError("it cannot be converted")
        assert (await answer).status_code == 503
    assert lane.state == "down"
