"""Real llama-servers exchanged by holding requests: nobody is lost, failures bring the former one back."""

import contextlib
import shutil
from pathlib import Path

import anyio
import httpx
import msgspec
import pytest

from honed.adapter_files import ADAPTER_GGUF
from honed.domain.serving import Switched
from honed.errors import AdapterNotFoundError, ApplyError, ProbeFailedError, ServerStartError
from honed.gateway import strategy
from honed.machine.memory import Memory
from tests.served import (
    CHAT,
    QUESTION,
    Load,
    Served,
    is_serving,
    model,
    servers_of,
    serving,
    until,
)

pytestmark = pytest.mark.anyio


async def switched(served: Served, folder: Path) -> Switched:
    """The gateway's answer to the order to serve the adapter in `folder`."""
    order = {"model_id": folder.name, "adapter_path": str(folder)}
    async with served.control() as client:
        answer = await client.post("/v1/scenarios/tiny/switch", json=order)
    assert answer.status_code == 200, answer.text
    return msgspec.json.decode(answer.content, type=Switched)


@pytest.mark.feature("SE-124")
async def test_requests_wait_while_the_server_restarts(
    tmp_path: Path, tiny_gguf: Path, tiny_adapters: tuple[Path, Path]
) -> None:
    """Four clients never see a failure, nor an answer of the wrong version, with one server at a time."""
    most = 0
    async with serving(tmp_path, tiny_gguf, strategy="hold") as served:
        expected = {}
        for folder in tiny_adapters:
            await served.applier.apply(model(folder), previous=None)
            name, text = await served.answer()
            expected[name] = text
        load = Load(served)

        async def count() -> None:
            nonlocal most
            while True:
                most = max(most, len(servers_of(tmp_path)))
                await anyio.sleep(0.005)

        async with anyio.create_task_group() as clients:
            clients.start_soon(count)
            for i in range(4):
                clients.start_soon(load.client, i % 2 == 0)
            for folder in (*tiny_adapters, *tiny_adapters):
                await load.more(8)
                await served.applier.apply(model(folder), previous=None)
            await load.more(8)
            clients.cancel_scope.cancel()
        assert load.failures == []
        assert {name for name, _ in load.answers} == set(expected)
        assert [answer for answer in load.answers if expected[answer[0]] != answer[1]] == []
        lane = await served.lane()
        assert (lane.state, lane.failed, lane.refused, lane.held) == ("active", 0, 0, 0)
    assert most == 1


async def test_a_server_that_fails_its_proof_brings_the_former_one_back(
    tmp_path: Path, tiny_gguf: Path, tiny_adapters: tuple[Path, Path]
) -> None:
    """The former adapter was ended already: it is started again, and the error says so."""
    first, second = tiny_adapters
    wrong = tmp_path / "tiny@9"
    shutil.copytree(second, wrong)
    shutil.copy(first / ADAPTER_GGUF, wrong)
    async with serving(tmp_path, tiny_gguf, strategy="hold") as served:
        await served.applier.apply(model(first), previous=None)
        before = await served.answer()
        with pytest.raises(ProbeFailedError, match=r"as tiny@9 should.*; tiny@1 was started again"):
            await served.applier.apply(model(wrong), previous=model(first))
        assert await served.answer() == before
        assert len(servers_of(tmp_path)) == 1


async def test_a_server_that_does_not_start_brings_the_former_one_back(
    tmp_path: Path, tiny_gguf: Path, tiny_adapters: tuple[Path, Path]
) -> None:
    """Requests of that time are answered by the former adapter."""
    damaged = tmp_path / "tiny@7"
    shutil.copytree(tiny_adapters[0], damaged)
    (damaged / ADAPTER_GGUF).write_bytes(b"GGUF")
    async with serving(tmp_path, tiny_gguf, strategy="hold") as served:
        load = Load(served)
        async with anyio.create_task_group() as clients:
            clients.start_soon(load.client, True)
            await load.more(2)
            with pytest.raises(ServerStartError, match="the base model was started again"):
                await served.applier.apply(model(damaged), previous=None)
            await load.more(2)
            clients.cancel_scope.cancel()
        assert load.failures == []
        assert {name for name, _ in load.answers} == {"base"}


async def test_what_is_seen_to_be_wrong_holds_nobody(tmp_path: Path, tiny_gguf: Path) -> None:
    """An adapter without files does not end the server."""
    async with serving(tmp_path, tiny_gguf, strategy="hold") as served:
        before = servers_of(tmp_path)
        (tmp_path / "tiny@5").mkdir()
        with pytest.raises(AdapterNotFoundError):
            await served.applier.apply(model(tmp_path / "tiny@5"), previous=None)
        assert servers_of(tmp_path) == before


async def test_neither_comes_up(
    tmp_path: Path, tiny_gguf: Path, tiny_adapters: tuple[Path, Path]
) -> None:
    """The former adapter's files are gone as well: the error says both, and the lane tries on."""
    first = tmp_path / "tiny@1"
    damaged = tmp_path / "tiny@7"
    for folder in (first, damaged):
        shutil.copytree(tiny_adapters[0], folder)
    (damaged / ADAPTER_GGUF).write_bytes(b"GGUF")
    async with serving(tmp_path, tiny_gguf, strategy="hold") as served:
        await served.applier.apply(model(first), previous=None)
        shutil.move(first, tmp_path / "aside")
        with pytest.raises(ApplyError, match="could not be started again either, and is tried on"):
            await served.applier.apply(model(damaged), previous=None)
        assert (await served.lane()).model_id is None
        shutil.move(tmp_path / "aside", first)
        await until(lambda: is_serving(served.applier))
        assert (await served.lane()).model_id == "tiny@1"


async def test_auto_takes_what_fits(
    tmp_path: Path,
    tiny_gguf: Path,
    tiny_adapters: tuple[Path, Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The answer to the order says which way was taken, and why."""
    async with serving(tmp_path, tiny_gguf) as served:
        roomy = await switched(served, tiny_adapters[0])
        monkeypatch.setattr(strategy, "memory", lambda: Memory(total=1 << 34, available=1 << 20))
        narrow = await switched(served, tiny_adapters[1])
        again = await switched(served, tiny_adapters[1])
    assert (roomy.strategy, narrow.strategy, again.strategy) == ("blue_green", "hold", None)
    assert roomy.reason is not None
    assert roomy.reason.startswith("a second server takes about ")
    assert narrow.reason is not None
    assert narrow.reason.endswith("1 MiB are free")


async def test_drain_timeout_of_zero_cuts_at_once(
    tmp_path: Path, tiny_gguf: Path, tiny_adapters: tuple[Path, Path]
) -> None:
    """Who cannot wait for long answers says so: they end with an error, the new version answers on."""
    body = QUESTION | {"max_tokens": 250, "stream": True}
    async with (
        serving(tmp_path, tiny_gguf, drain_timeout=0, ctx_size=1024) as served,
        served.client() as client,
        client.stream("POST", CHAT, json=body) as cut,
    ):
        lines = cut.aiter_lines()
        await anext(lines)
        done = await switched(served, tiny_adapters[0])
        assert done.seconds["drain"] < 1
        rest = []
        with contextlib.suppress(httpx.RemoteProtocolError):  # cut within an event
            rest = [line async for line in lines]
        assert (await served.answer())[0] == tiny_adapters[0].name
    is_told = "data: [DONE]" in rest or any(line.startswith('data: {"error"') for line in rest)
    assert is_told or not rest
