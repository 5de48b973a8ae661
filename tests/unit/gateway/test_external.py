"""A llama-server that the operator runs: relayed to, never ended, its adapters exchanged only as far as it can."""

import os
import shutil
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import anyio
import httpx
import pytest

from honed.adapter_files import ADAPTER_GGUF
from honed.appliers import LlamaServerApplier
from honed.config import ServeSection
from honed.domain.serving import SwitchOrder
from honed.errors import ApplyError, ProbeFailedError
from honed.gateway import external, runtime
from honed.gateway.lane import Lane
from honed.gateway.llama_server import ServerPlan
from honed.gateway.switch import switch
from honed.gateway.upstream import Address, fetch
from honed.gateway.wanted import ANY
from honed.serve import serve
from tests.served import CHAT, QUESTION, Load, config, is_serving, model, servers_of, serving, until
from tests.unit.gateway.stub import Request, answering, quiet_port, remember, upstream

pytestmark = pytest.mark.anyio


@contextmanager
def own_llama(
    base: Path,
    *adapters: Path,
    port: int = 0,
    cache_ram: int = 0,
    loads: bool = False,
    key: str | None = None,
) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """Somebody's llama-server with these adapters loaded; its address."""
    command = [sys.executable, "-m", "tests.own_llama", str(port), str(base)]
    command += [str(folder / ADAPTER_GGUF) for folder in adapters]
    command += ["--cache-ram", str(cache_ram), *(["--loads"] if loads else [])]
    command += ["--api-key", key] if key else []
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as server:
        try:
            assert server.stdout is not None
            yield server.stdout.readline().decode().strip(), server
        finally:
            server.kill()


async def has_adapter(url: str) -> bool:
    return bool(await runtime.applied(Address.parse(url)))


@pytest.mark.feature("SE-121")
async def test_loaded_adapters_are_exchanged_by_their_scales(
    tmp_path: Path, tiny_gguf: Path, tiny_adapters: tuple[Path, Path]
) -> None:
    """Clients never see a failure nor a mixed answer; the server is the same at the end, and runs on."""
    with own_llama(tiny_gguf, *tiny_adapters) as (url, server):
        async with serving(tmp_path, tiny_gguf, external_url=url) as served:
            expected = dict([await served.answer()])
            for folder in tiny_adapters:
                await served.applier.apply(model(folder), previous=None)
                name, text = await served.answer()
                expected[name] = text
            assert list(expected) == ["base", "tiny@1", "tiny@2"]
            assert len(set(expected.values())) == 3
            load = Load(served)
            async with anyio.create_task_group() as clients:
                for i in range(3):
                    clients.start_soon(load.client, i % 2 == 0)
                for version in (model(tiny_adapters[0]), None, model(tiny_adapters[1])):
                    await load.more(6)
                    await served.applier.apply(version, previous=None)
                await load.more(6)
                clients.cancel_scope.cancel()
            assert load.failures == []
            assert [answer for answer in load.answers if expected[answer[0]] != answer[1]] == []
            assert {name for name, _ in load.answers} == set(expected)
            assert servers_of(tmp_path) == []
        assert server.poll() is None


async def test_prompt_cache_of_the_host_is_found_out(
    tmp_path: Path, tiny_gguf: Path, tiny_adapters: tuple[Path, Path]
) -> None:
    """The server would answer known prompts from a cache of the former adapter: refused, and that one serves on."""
    with own_llama(tiny_gguf, *tiny_adapters, cache_ram=64) as (url, _):
        async with serving(tmp_path, tiny_gguf, external_url=url) as served:
            before = await served.answer()
            with pytest.raises(ProbeFailedError, match="prompt cache of the former adapter"):
                await served.applier.apply(model(tiny_adapters[0]), previous=None)
            assert await served.answer() == before
            assert before[0] == "base"
            lane = await served.lane()
            assert (lane.state, lane.model_id, lane.is_serving) == ("active", None, True)


async def test_adapter_that_the_server_does_not_have_is_refused(
    tmp_path: Path, tiny_gguf: Path, tiny_adapters: tuple[Path, Path]
) -> None:
    """The error says what it has and how it should be started; nobody waits."""
    with own_llama(tiny_gguf, tiny_adapters[0]) as (url, _):
        async with serving(tmp_path, tiny_gguf, external_url=url) as served:
            with pytest.raises(ApplyError, match="cannot load adapters while it runs") as refused:
                await served.applier.apply(model(tiny_adapters[1]), previous=None)
            assert refused.value.advice is not None
            assert "--lora-init-without-apply --cache-ram 0" in refused.value.advice
            assert (await served.answer())[0] == "base"


async def test_adapter_that_does_not_answer_as_it_should_is_taken_back(
    tmp_path: Path, tiny_gguf: Path, tiny_adapters: tuple[Path, Path]
) -> None:
    """The probe fails after the scales were set: they are set back."""
    first, second = tiny_adapters
    wrong = tmp_path / "tiny@9"
    shutil.copytree(second, wrong)
    shutil.copy(first / ADAPTER_GGUF, wrong)
    with own_llama(tiny_gguf, first, wrong) as (url, _):
        async with serving(tmp_path, tiny_gguf, external_url=url) as served:
            await served.applier.apply(model(first), previous=None)
            before = await served.answer()
            with pytest.raises(ProbeFailedError, match="does not answer as tiny@9 should"):
                await served.applier.apply(model(wrong), previous=model(first))
            assert await served.answer() == before


async def test_server_that_loads_adapters_is_used_so(
    tmp_path: Path, tiny_gguf: Path, tiny_adapters: tuple[Path, Path]
) -> None:
    """It is asked, not told by the config; the former adapter is dropped."""
    with own_llama(tiny_gguf, *tiny_adapters, loads=True) as (url, _):
        async with serving(tmp_path, tiny_gguf, external_url=url) as served:
            names = []
            for folder in (*tiny_adapters, tiny_adapters[0]):
                await served.applier.apply(model(folder), previous=None)
                names.append((await served.answer())[0])
            assert names == ["tiny@1", "tiny@2", "tiny@1"]
            found = await runtime.ask(Address.parse(url))
            assert found.can_load
            assert [each.scale for each in found.adapters] == [0.0, 0.0, 1.0]


async def test_server_that_went_and_came_back_has_its_adapter_again(
    tmp_path: Path, tiny_gguf: Path, tiny_adapters: tuple[Path, Path]
) -> None:
    """It starts without adapters applied; the gateway looks for it and puts its own into service."""
    port = quiet_port()
    with own_llama(tiny_gguf, *tiny_adapters, port=port) as (url, first):
        async with serving(tmp_path, tiny_gguf, external_url=url) as served:
            await served.applier.apply(model(tiny_adapters[0]), previous=None)
            before = await served.answer()
            os.kill(first.pid, signal.SIGKILL)
            first.wait()
            with own_llama(tiny_gguf, *tiny_adapters, port=port) as (_, second):
                await until(lambda: has_adapter(url))
                await until(lambda: is_serving(served.applier))
                assert await served.answer() == before
                assert second.poll() is None


async def test_requests_that_do_not_end_are_not_mixed(
    tmp_path: Path, tiny_gguf: Path, tiny_adapters: tuple[Path, Path]
) -> None:
    """The exchange is given up when they last for longer than `drain_timeout`; the former adapter answers on."""
    order = SwitchOrder(model_id="tiny@1", adapter_path=str(tiny_adapters[0]))
    with own_llama(tiny_gguf, *tiny_adapters) as (url, _):
        section = ServeSection(external_url=url, drain_timeout=timedelta(milliseconds=50))
        lane = Lane("tiny", section, tmp_path, remember)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(lane.run)
            with anyio.fail_after(60):
                while (backend := lane.pick(ANY)) is None:
                    await anyio.sleep(0.01)
            lane.enter(backend)
            with pytest.raises(ApplyError, match="1 requests had not ended after"):
                await switch(lane, order)
            assert lane.backend is not None
            assert (lane.state, lane.backend.model_id) == ("active", None)
            assert await runtime.applied(backend.address) == []
            lane.leave(backend)
            done = await switch(lane, order)
            assert (done.strategy, lane.backend.model_id) == ("in_place", "tiny@1")
            tasks.cancel_scope.cancel()


PROGRAM = """#!{python}
# llama-server with runtime loading, as the operator's own program
import argparse, sys
sys.path.insert(0, {root!r})
from tests.own_llama import run

parser = argparse.ArgumentParser()
for name in ("-m", "--port", "--cache-ram"):
    parser.add_argument(name)
args = vars(parser.parse_known_args()[0])
run(argparse.Namespace(
    base=args["m"], port=int(args["port"]), cache_ram=int(args["cache_ram"]), loads=True, api_key=[],
    adapters={adapters!r}))
"""


async def test_server_of_ours_that_loads_adapters_is_not_restarted(
    tmp_path: Path, tiny_gguf: Path, tiny_adapters: tuple[Path, Path]
) -> None:
    """`in_place` for an executable that can: it is started without a prompt cache in the host's memory."""
    program = tmp_path / "llama-server"
    adapters = [str(folder / ADAPTER_GGUF) for folder in tiny_adapters]
    root = str(Path(__file__).parents[3])
    program.write_text(PROGRAM.format(python=sys.executable, root=root, adapters=adapters))
    program.chmod(stat.S_IRWXU)
    settings = {"strategy": "in_place", "llama_server": program, "parallel": 2}
    async with serving(tmp_path, tiny_gguf, **settings) as served:
        before = servers_of(tmp_path)
        for folder in tiny_adapters:
            await served.applier.apply(model(folder), previous=None)
            assert (await served.answer())[0] == folder.name
        assert servers_of(tmp_path) == before


async def test_bundled_server_cannot_exchange_in_place(
    tmp_path: Path, tiny_gguf: Path, tiny_adapters: tuple[Path, Path]
) -> None:
    """It is asked, and the order is refused with what to do; the server stays."""
    async with serving(tmp_path, tiny_gguf, strategy="in_place") as served:
        before = servers_of(tmp_path)
        with pytest.raises(ApplyError, match="cannot load adapters while it runs"):
            await served.applier.apply(model(tiny_adapters[0]), previous=None)
        assert servers_of(tmp_path) == before
        assert (await served.answer())[0] == "base"


async def test_router_is_told_apart(tmp_path: Path) -> None:
    """A llama-server without a model starts servers by itself: adapters are not exchanged through it."""
    models = {"data": [{"id": "a", "status": {"value": "unloaded"}}]}
    async with upstream(answering(models)) as seen:
        found = await runtime.ask(seen.address)
    assert found.is_router
    with pytest.raises(ApplyError, match="is a router"):
        found.check(None)


async def test_server_with_a_key_says_what_to_do() -> None:
    """It is shown the operator's secret, once there is one."""

    async def script(request: Request, writer: object) -> None:
        writer.write(b"HTTP/1.1 401 Unauthorized\r\ncontent-length: 2\r\n\r\n{}")  # type: ignore[attr-defined]

    async with upstream(script) as seen:
        with pytest.raises(ApplyError) as refused:
            await runtime.ask(seen.address)
    assert (
        refused.value.advice == "put its key into HONED_SERVER_KEY (or the credential server-key)"
    )


async def test_key_of_the_server_is_shown_to_it_alone(
    tmp_path: Path,
    tiny_gguf: Path,
    tiny_adapters: tuple[Path, Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Switches and requests are let in with the operator's key, whatever keys the clients show; nothing tells it."""
    key = "s3cret-of-the-server"
    monkeypatch.setenv("HONED_SERVER_KEY", key)
    with own_llama(tiny_gguf, tiny_adapters[0], key=key) as (url, _):
        async with serving(tmp_path, tiny_gguf, external_url=url) as served:
            await served.applier.apply(model(tiny_adapters[0]), previous=None)
            async with served.client() as client:
                for own in ({}, {"authorization": "Bearer mine"}, {"x-api-key": "mine"}):
                    answer = await client.post(CHAT, json=QUESTION | {"max_tokens": 4}, headers=own)
                    assert answer.status_code == 200, answer.text
                    assert answer.headers["x-honed-model"] == "tiny@1"
            lane = await served.lane()
    assert key not in repr(lane)
    assert key not in repr(Address.parse(url)._replace(key=key))


async def test_server_that_asks_for_another_key_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """Clients would be told that their own key is wrong, which they have not shown to it."""
    monkeypatch.setattr(external, "_LOOK_EVERY_S", 0.01)

    async def script(request: Request, writer: object) -> None:
        writer.write(b"HTTP/1.1 401 Unauthorized\r\ncontent-length: 2\r\n\r\n{}")  # type: ignore[attr-defined]

    async with upstream(script) as seen:
        section = ServeSection(external_url=str(seen.address))
        plan = ServerPlan(
            name="tiny-blue",
            alias="tiny",
            base_gguf=Path(),
            adapter_gguf=None,
            section=section,
            folder=Path(),
        )
        server = external.ExternalServer(plan, seen.address._replace(key="s3cret"))
        with anyio.fail_after(20):
            await server.look()
    assert server.verdict is not None
    assert "the key in HONED_SERVER_KEY is none of its" in server.verdict
    assert "s3cret" not in server.verdict


async def test_server_whose_key_is_not_known_says_so_in_status_and_answers(
    tmp_path: Path, tiny_gguf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A 503 with what to set, and not the server's own 401."""
    monkeypatch.delenv("HONED_SERVER_KEY", raising=False)
    with own_llama(tiny_gguf, key="s3cret") as (url, _):
        settings = config(tmp_path, tiny_gguf, external_url=url)
        stop = anyio.Event()
        async with anyio.create_task_group() as tasks:
            ready = anyio.Event()

            async def run() -> None:
                await serve(settings, ready=ready.set, stop=stop)

            tasks.start_soon(run)
            await ready.wait()
            applier = LlamaServerApplier(
                tmp_path / "serve.sock", scenario="tiny", feed_socket=tmp_path / "feed.sock"
            )

            async def has_failed() -> bool:
                lane = (await applier.serving()).scenarios.get("tiny")
                return lane is not None and "HONED_SERVER_KEY has none" in (lane.error or "")

            await until(has_failed)
            address = (await applier.serving()).address
            async with httpx.AsyncClient(base_url=address or "", timeout=60) as client:
                answer = await client.post(CHAT, json=QUESTION)
            stop.set()
    assert answer.status_code == 503
    assert "HONED_SERVER_KEY has none" in answer.json()["error"]["message"]


async def test_slots_forget(tiny_gguf: Path) -> None:
    """What a slot remembers of its last prompt is overwritten."""
    with own_llama(tiny_gguf) as (url, _):
        address = Address.parse(url)
        order = b'{"prompt": "disk: inspect the disk", "n_predict": 1, "id_slot": 1, "cache_prompt": true}'
        cached = []
        for forgets in (False, False, True):
            if forgets:
                await runtime.forget(address, 2)
            _, body = await fetch(address, "POST", "/completion", order)
            cached.append(b'"cache_n":0' in body)
    assert cached == [True, False, True]
