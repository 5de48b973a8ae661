"""Exchanges that do not go as they should: the server dies meanwhile, or does not say what it did."""

import asyncio
import functools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import pytest

from honed.config import ServeSection
from honed.domain.serving import AdapterRef, SwitchOrder
from honed.errors import ApplyError
from honed.gateway import external, runtime
from honed.gateway.backend import Backend
from honed.gateway.external import ExternalServer
from honed.gateway.lane import Lane
from honed.gateway.llama_server import ServerPlan
from honed.gateway.switch import switch
from honed.gateway.upstream import Address
from tests.unit.gateway.stub import Request, answering, remember, upstream
from tests.unit.gateway.test_external import own_llama

pytestmark = pytest.mark.anyio


@asynccontextmanager
async def lane_over(
    url: str, folder: Path, *, adapter: AdapterRef | None = None, **settings: object
) -> AsyncIterator[Lane]:
    """A lane that is kept up over somebody's server."""
    section = ServeSection.model_validate({"external_url": url, **settings})
    lane = Lane("tiny", section, folder, remember)
    lane.adapter = adapter
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(lane.run)
        yield lane
        tasks.cancel_scope.cancel()


async def served_by(lane: Lane) -> Backend:
    with anyio.fail_after(60):
        while lane.backend is None:
            await anyio.sleep(0.01)
    return lane.backend


async def refused(lane: Lane, order: SwitchOrder, told: list[str]) -> None:
    with pytest.raises(ApplyError) as error:
        await switch(lane, order)
    told.append(str(error.value))


async def test_server_that_dies_while_it_is_exchanged_is_not_put_back(
    tmp_path: Path, tiny_gguf: Path, tiny_adapters: tuple[Path, Path]
) -> None:
    """Nobody watches it any more: it would get requests for ever. The lane looks for the next one instead."""
    order = SwitchOrder(model_id="tiny@1", adapter_path=str(tiny_adapters[0]))
    told: list[str] = []
    with own_llama(tiny_gguf, *tiny_adapters) as (url, _):
        async with lane_over(url, tmp_path) as lane:
            before = await served_by(lane)
            lane.enter(before)
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(functools.partial(refused, lane, order, told))
                with anyio.fail_after(60):
                    while lane.backend is not None:
                        await anyio.sleep(0.01)
                before.server.kill("it was restarted")
                with anyio.fail_after(60):
                    while not before.server.is_stopping:
                        await anyio.sleep(0.01)
                lane.leave(before)
            assert len(told) == 1
            after = await served_by(lane)
            assert not after.server.has_ended
            assert after.server is not before.server
            assert await runtime.applied(after.address) == []


async def test_requests_of_a_failed_exchange_count_in_the_next(
    tmp_path: Path, tiny_gguf: Path, tiny_adapters: tuple[Path, Path]
) -> None:
    """A request that outlasted one order would be mixed by the second one."""
    order = SwitchOrder(model_id="tiny@1", adapter_path=str(tiny_adapters[0]))
    told: list[str] = []
    with own_llama(tiny_gguf, *tiny_adapters) as (url, _):
        async with lane_over(url, tmp_path, drain_timeout=0.05) as lane:
            before = await served_by(lane)
            lane.enter(before)
            await refused(lane, order, told)
            await refused(lane, order, told)
            assert [each.startswith("1 requests had not ended") for each in told] == [True] * 2
            lane.leave(before)
            await switch(lane, order)
            assert (await served_by(lane)).model_id == "tiny@1"


async def test_stale_server_does_not_serve_at_the_second_try(
    tmp_path: Path, tiny_gguf: Path, tiny_adapters: tuple[Path, Path]
) -> None:
    """What was exchanged and found to answer from old caches is taken back, so that the next try finds it again."""
    adapter = AdapterRef("tiny@1", str(tiny_adapters[0]))
    with own_llama(tiny_gguf, *tiny_adapters, cache_ram=64) as (url, _):
        async with lane_over(url, tmp_path, adapter=adapter) as lane:
            with anyio.fail_after(60):
                while lane.backend is None and not lane.attempts.are_hopeless:
                    await anyio.sleep(0.01)
            assert lane.backend is None
            assert "prompt cache of the former adapter" in (lane.error or "")
            assert await runtime.applied(Address.parse(url)) == []


async def test_exchange_during_a_look_is_no_restart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the server answers meanwhile is held against what it was put to, before and after."""
    monkeypatch.setattr(external, "_LOOK_EVERY_S", 0.01)
    adapter = tmp_path / "adapter.gguf"
    asked, may_answer = anyio.Event(), anyio.Event()
    again = anyio.Event()

    async def script(request: Request, writer: asyncio.StreamWriter) -> None:
        if asked.is_set():
            again.set()
        asked.set()
        await may_answer.wait()
        await answering([{"id": 0, "path": str(adapter), "scale": 1.0}])(request, writer)

    async with upstream(script) as seen:
        plan = ServerPlan(
            name="tiny-blue",
            alias="tiny",
            base_gguf=Path(),
            adapter_gguf=None,
            section=ServeSection(),
            folder=tmp_path,
        )
        server = ExternalServer(plan, seen.address)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(server.look)
            with anyio.fail_after(60):
                await asked.wait()
                server.answers_with = (
                    adapter  # exchanged from the first moment of the look to its last
                )
                may_answer.set()
                while not again.is_set() and not server.has_ended:
                    await anyio.sleep(0.005)
            assert not server.has_ended
            tasks.cancel_scope.cancel()


async def test_server_that_loads_otherwise_is_refused(tmp_path: Path) -> None:
    """An answer in another form is an error of the exchange: it ends neither the order's caller nor the gateway."""
    async with upstream(answering({"success": True})) as seen:
        found = runtime.Runtime(seen.address, (), 1, can_load=True, is_router=False)
        with pytest.raises(ApplyError, match="/lora-adapters/load"):
            await found.put(tmp_path / "adapter.gguf")
