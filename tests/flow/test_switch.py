"""The gateway with real llama-servers: swaps under load, refusals, restarts, crashes, captured
calls.
"""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import anyio.abc
import anyio.streams.buffered
import msgspec
import pytest

from honed.adapter_files import ADAPTER_GGUF
from honed.appliers import LlamaServerApplier
from honed.domain.events import LlmCallEvent, parse_event
from honed.domain.trained_model import TrainedModel
from honed.errors import AdapterNotFoundError, ApplyError, ProbeFailedError
from honed.serve import serve
from tests.served import (
    CHAT,
    QUESTION,
    Load,
    Served,
    config,
    is_serving,
    model,
    reached,
    servers_of,
    serving,
    until,
)

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, bool]]:
    """As `honed serve` runs."""
    return "asyncio", {"use_uvloop": True}


@pytest.mark.feature("SE-119", "SE-121", "SE-124")
async def test_swaps_under_load_lose_and_mix_nothing(
    tmp_path: Path, tiny_gguf: Path, tiny_adapters: tuple[Path, Path]
) -> None:
    """Every request of eight clients is answered, by exactly the version that its header names."""
    async with serving(tmp_path, tiny_gguf) as served:
        versions: list[TrainedModel | None] = [None, *map(model, tiny_adapters)]
        expected = {}
        for version in versions:
            await served.applier.apply(version, previous=None)
            name, text = await served.answer()
            expected[name] = text
        assert list(expected) == ["base", "tiny@1", "tiny@2"]
        assert len(set(expected.values())) == 3

        load = Load(served)
        async with anyio.create_task_group() as clients:
            for i in range(8):
                clients.start_soon(load.client, i % 2 == 0)
            for version in [*versions, *versions]:
                await load.more(20)
                await served.applier.apply(version, previous=None)
            await load.more(20)
            clients.cancel_scope.cancel()
        assert load.failures == []
        assert {name for name, _ in load.answers} == set(expected)
        assert [answer for answer in load.answers if expected[answer[0]] != answer[1]] == []
        lane = await served.lane()
        assert (lane.state, lane.failed) == ("active", 0)
        assert len(servers_of(tmp_path)) == 1
    assert servers_of(tmp_path) == []


@pytest.mark.feature("SE-119")
async def test_adapter_with_a_wrong_fingerprint_is_refused(
    tmp_path: Path, tiny_gguf: Path, tiny_adapters: tuple[Path, Path]
) -> None:
    """The server is healthy and has the file, but does not answer as it should: the former one
    serves on.
    """
    first, second = tiny_adapters
    wrong = tmp_path / "tiny@9"
    shutil.copytree(second, wrong)
    shutil.copy(first / "adapter.gguf", wrong)
    async with serving(tmp_path, tiny_gguf) as served:
        await served.applier.apply(model(first), previous=None)
        before = await served.lane()
        with pytest.raises(ProbeFailedError, match="does not answer as tiny@9 should"):
            await served.applier.apply(model(wrong), previous=model(first))
        after = await served.lane()
        assert (after.state, after.model_id, after.address) == ("active", "tiny@1", before.address)
        assert (await served.answer())[0] == "tiny@1"
        assert len(servers_of(tmp_path)) == 1


async def test_another_strong_adapter_does_not_pass_for_the_right_one(
    tmp_path: Path, tiny_gguf: Path, tiny_adapters: tuple[Path, Path]
) -> None:
    """It moves the answers far enough, but not the right way: from the base x is 0.55."""
    first, second = tiny_adapters
    wrong = tmp_path / "tiny@9"
    shutil.copytree(first, wrong)
    shutil.copy(second / ADAPTER_GGUF, wrong)
    async with serving(tmp_path, tiny_gguf) as served:
        with pytest.raises(ProbeFailedError, match="does not answer as tiny@9 should"):
            await served.applier.apply(model(wrong), previous=None)
        assert (await served.answer())[0] == "base"


async def test_adapter_that_was_changed_is_not_served(
    tmp_path: Path, tiny_gguf: Path, tiny_adapters: tuple[Path, Path]
) -> None:
    """Another adapter's file under a published name: no server is started with it."""
    first, second = tiny_adapters
    changed = tmp_path / "tiny@1"
    shutil.copytree(first, changed)
    published = model(changed)
    shutil.copy(second / ADAPTER_GGUF, changed)
    async with serving(tmp_path, tiny_gguf) as served:
        before = servers_of(tmp_path)
        with pytest.raises(AdapterNotFoundError, match="changed after it was published"):
            await served.applier.apply(published, previous=None)
        assert servers_of(tmp_path) == before
        assert (await served.answer())[0] == "base"


async def test_adapter_that_was_changed_in_service_does_not_come_back(
    tmp_path: Path, tiny_gguf: Path, tiny_adapters: tuple[Path, Path]
) -> None:
    """After a crash the files are looked at again; the lane says why it is down."""
    first, second = tiny_adapters
    folder = tmp_path / "tiny@1"
    shutil.copytree(first, folder)
    async with serving(tmp_path, tiny_gguf) as served:
        await served.applier.apply(model(folder), previous=None)
        shutil.copy(second / ADAPTER_GGUF, folder)
        [pid] = servers_of(tmp_path)
        os.kill(pid, signal.SIGKILL)

        async def says_why() -> bool:
            lane = await served.lane()
            return not lane.is_serving and "changed after" in (lane.error or "")

        await until(says_why)
        shutil.copy(first / ADAPTER_GGUF, folder)
        await until(lambda: is_serving(served.applier))
        assert (await served.lane()).model_id == "tiny@1"


async def test_same_number_with_other_files_is_switched(
    tmp_path: Path, tiny_gguf: Path, tiny_adapters: tuple[Path, Path]
) -> None:
    """A number that was given twice (a store that began anew) does not pass for the one served."""
    async with serving(tmp_path, tiny_gguf) as served:
        await served.applier.apply(model(tiny_adapters[0], id="tiny@1"), previous=None)
        before = await served.answer()
        await served.applier.apply(model(tiny_adapters[1], id="tiny@1"), previous=None)
        assert await served.answer() != before


@pytest.mark.feature("SE-123")
async def test_missing_adapter_leaves_the_server_alone(tmp_path: Path, tiny_gguf: Path) -> None:
    """No second server is even started."""
    async with serving(tmp_path, tiny_gguf) as served:
        before = servers_of(tmp_path)
        (tmp_path / "tiny@5").mkdir()
        with pytest.raises(AdapterNotFoundError, match=r"adapter\.gguf"):
            await served.applier.apply(model(tmp_path / "tiny@5"), previous=None)
        assert servers_of(tmp_path) == before
        assert await served.answer()


@pytest.mark.feature("SE-119", "SE-123")
async def test_damaged_adapter_leaves_the_former_one(
    tmp_path: Path, tiny_gguf: Path, tiny_adapters: tuple[Path, Path]
) -> None:
    """A file that llama-server cannot load is a failed start, with its words."""
    damaged = tmp_path / "tiny@7"
    shutil.copytree(tiny_adapters[0], damaged)
    (damaged / "adapter.gguf").write_bytes(b"GGUF")
    async with serving(tmp_path, tiny_gguf) as served:
        with pytest.raises(ApplyError, match="ended with status"):
            await served.applier.apply(model(damaged), previous=None)
        assert (await served.answer())[0] == "base"
        assert len(servers_of(tmp_path)) == 1


async def test_serving_what_is_served_is_nothing(
    tmp_path: Path, tiny_gguf: Path, tiny_adapters: tuple[Path, Path]
) -> None:
    """The same server answers on."""
    async with serving(tmp_path, tiny_gguf) as served:
        await served.applier.apply(model(tiny_adapters[0]), previous=None)
        before = servers_of(tmp_path)
        await served.applier.apply(model(tiny_adapters[0]), previous=None)
        assert servers_of(tmp_path) == before


async def test_dead_server_comes_back_with_its_adapter(
    tmp_path: Path, tiny_gguf: Path, tiny_adapters: tuple[Path, Path]
) -> None:
    """`kill -9` of llama-server: what was in flight fails with a clear error, then service is back."""
    async with serving(tmp_path, tiny_gguf) as served:
        await served.applier.apply(model(tiny_adapters[0]), previous=None)
        expected = await served.answer()
        [pid] = servers_of(tmp_path)
        async with (
            served.client() as client,
            client.stream("POST", CHAT, json=QUESTION | {"max_tokens": 200, "stream": True}) as cut,
        ):
            lines = cut.aiter_lines()
            await anext(lines)
            os.kill(pid, signal.SIGKILL)
            rest = [line async for line in lines]
        errors = [line for line in rest if line.startswith('data: {"error"')]
        assert len(errors) == 1 or "data: [DONE]" in rest  # it may have been done already
        await until(lambda: is_serving(served.applier))
        assert await served.answer() == expected


async def test_captured_calls_reach_the_feed(
    tmp_path: Path, tiny_gguf: Path, tiny_adapters: tuple[Path, Path]
) -> None:
    """Calls, not probes, arrive as events that name the version; the feed may come later than they."""
    lines: list[bytes] = []

    async def feed(stream: anyio.abc.SocketStream) -> None:
        reader = anyio.streams.buffered.BufferedByteReceiveStream(stream)
        number = 0
        async with stream:
            while True:
                try:
                    line = await reader.receive_until(b"\n", 1 << 20)
                except anyio.IncompleteRead:
                    return
                if b'"hello"' in line:
                    reply: dict[str, Any] = {"type": "hello", "protocol": 1, "line_max": 1 << 20}
                else:
                    lines.append(line)
                    number += 1
                    reply = {"type": "ack", "line": number, "stored": 1, "duplicates": 0}
                await stream.send(msgspec.json.encode(reply) + b"\n")

    async with serving(tmp_path, tiny_gguf) as served, served.client() as client:
        await served.applier.apply(model(tiny_adapters[0]), previous=None)
        for streams in (True, False):
            body = QUESTION | {"max_tokens": 4, "stream": streams}
            await client.post(CHAT, json=body, headers={"x-honed-task": "t1"})

        async def all_sent() -> bool:
            return (await served.lane()).captured["sent"] == 2

        listener = await anyio.create_unix_listener(tmp_path / "feed.sock")
        async with listener, anyio.create_task_group() as tasks:
            tasks.start_soon(listener.serve, feed)
            await until(all_sent)
            tasks.cancel_scope.cancel()
    events = [parse_event(line) for line in lines]
    assert [isinstance(event, LlmCallEvent) for event in events] == [True, True]
    for event in events:
        assert isinstance(event, LlmCallEvent)
        assert (event.task_id, event.adapter_id, event.finish_reason) == ("t1", "tiny@1", "length")
        assert event.response_message is not None
    first, second = events
    assert isinstance(first, LlmCallEvent)
    assert isinstance(second, LlmCallEvent)
    assert first.response_message == second.response_message


@asynccontextmanager
async def process(folder: Path, base_gguf: Path) -> AsyncIterator[subprocess.Popen[bytes]]:
    """`honed serve` as an operator runs it, its settings in the environment."""
    section = {
        "PORT": "0",
        "SOCKET": str(folder / "serve.sock"),
        "BASE_MODEL_PATH": str(base_gguf),
        "CTX_SIZE": "256",
        "PARALLEL": "2",
        "THREADS": "1",
    }
    names = {f"HONED__SERVE__{key}": value for key, value in section.items()}
    names |= {"HONED__SCENARIO": "tiny", "HONED__DATA_DIR": str(folder)}
    with (folder / "serve.log").open("ab") as output:
        started = subprocess.Popen(
            [sys.executable, "-m", "honed", "serve"],
            env=os.environ | names,
            stderr=output,
            cwd=folder,
        )
    try:
        yield started
    finally:
        started.kill()
        started.wait()


async def test_killed_gateway_takes_its_servers_along_and_comes_back(
    tmp_path: Path, tiny_gguf: Path, tiny_adapters: tuple[Path, Path]
) -> None:
    """`kill -9` leaves no orphan; the next gateway serves the same adapter by itself."""
    async with process(tmp_path, tiny_gguf) as first:
        served = await reached(tmp_path)
        await served.applier.apply(model(tiny_adapters[1]), previous=None)
        expected = await served.answer()
        assert len(servers_of(tmp_path)) == 1
        first.kill()
        first.wait()

        async def no_orphans() -> bool:
            return servers_of(tmp_path) == []

        await until(no_orphans)
    async with process(tmp_path, tiny_gguf) as second:
        served = await reached(tmp_path)
        assert await served.applier.current() == "tiny@2"
        assert await served.answer() == expected
        second.send_signal(signal.SIGTERM)
        assert second.wait(20) == 0
    assert servers_of(tmp_path) == []
    assert not (tmp_path / "serve.sock").exists()


async def test_gateway_ends_after_its_requests(tmp_path: Path, tiny_gguf: Path) -> None:
    """SIGTERM lets a stream finish."""
    async with process(tmp_path, tiny_gguf) as gateway:
        served = await reached(tmp_path)
        body = QUESTION | {"max_tokens": 200, "stream": True}
        async with served.client() as client, client.stream("POST", CHAT, json=body) as answer:
            lines = answer.aiter_lines()
            await anext(lines)
            gateway.send_signal(signal.SIGTERM)
            rest = [line async for line in lines]
        assert "data: [DONE]" in rest
        assert gateway.wait(20) == 0


async def test_second_signal_ends_the_grace(tmp_path: Path, tiny_gguf: Path) -> None:
    """Who asks twice is not made to wait for a stream, and no server is left."""
    async with process(tmp_path, tiny_gguf) as gateway:
        served = await reached(tmp_path)
        body = QUESTION | {"max_tokens": 200, "stream": True}
        async with served.client() as client, client.stream("POST", CHAT, json=body) as answer:
            await anext(answer.aiter_lines())
            for _ in range(20):  # until both have been seen as two
                gateway.send_signal(signal.SIGTERM)
                await anyio.sleep(0.05)
                if gateway.poll() is not None:
                    break
        assert gateway.wait(5) in (0, 128 + signal.SIGTERM)

        async def no_orphans() -> bool:
            return servers_of(tmp_path) == []

        await until(no_orphans)


async def test_gateway_accepts_before_its_server_is_up(tmp_path: Path, tiny_gguf: Path) -> None:
    """A request of the first moment waits for the server, and is answered."""
    settings = config(tmp_path, tiny_gguf)
    ready, stop = anyio.Event(), anyio.Event()
    began = time.monotonic()

    async def run() -> None:
        await serve(settings, ready=ready.set, stop=stop)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(run)
        await ready.wait()
        assert time.monotonic() - began < 1
        served = await _address(tmp_path)
        async with served.client() as client:
            answer = await client.post(CHAT, json=QUESTION | {"max_tokens": 4})
        assert answer.status_code == 200
        stop.set()
    assert servers_of(tmp_path) == []


async def _address(folder: Path) -> Served:
    applier = LlamaServerApplier(
        folder / "serve.sock", scenario="tiny", feed_socket=folder / "feed.sock"
    )
    address = (await applier.serving()).address
    assert address is not None
    return Served(applier, address)
