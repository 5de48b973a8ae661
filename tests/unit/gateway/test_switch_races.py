"""Orders that meet a server which dies, or comes up, at the same moment."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import pytest
from anyio import to_thread

from honed.config import ServeSection
from honed.domain.serving import Switched, SwitchOrder, TrainingNotice
from honed.gateway.lane import Lane
from honed.gateway.switch import renew, switch
from honed.gateway.yielding import Yielding
from tests.unit.gateway.stub import remember

pytestmark = pytest.mark.anyio


@asynccontextmanager
async def lane_of(base: Path, folder: Path, **settings: object) -> AsyncIterator[Lane]:
    """A lane that is kept up; its server comes up."""
    small = {"ctx_size": 256, "parallel": 2, "threads": 1}
    lane = Lane("tiny", ServeSection.model_validate(small | settings), folder, remember)
    lane.base_gguf = base
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(lane.run)
        yield lane
        tasks.cancel_scope.cancel()


async def until_serving(lane: Lane, *, is_so: bool = True) -> None:
    with anyio.fail_after(60):
        while (lane.backend is not None) is not is_so:
            await anyio.sleep(0.005)


@pytest.mark.parametrize("strategy", ["hold", "in_place"])
async def test_server_dies_before_its_exchange_has_begun(
    tmp_path: Path, tiny_gguf: Path, tiny_adapters: tuple[Path, Path], strategy: str
) -> None:
    """Nothing is left to be drained or exchanged: the next server begins with the adapter."""
    order = SwitchOrder(model_id="tiny@1", adapter_path=str(tiny_adapters[0]))
    async with lane_of(tiny_gguf, tmp_path, strategy=strategy) as lane:
        await until_serving(lane)
        assert lane.backend is not None
        async with anyio.create_task_group() as tasks, lane.starting():
            tasks.start_soon(switch, lane, order)
            with anyio.fail_after(60):
                while not lane.servers.starting.statistics().tasks_waiting:
                    await anyio.sleep(0.005)
            lane.backend.server.kill("the test did it")
            await until_serving(lane, is_so=False)
        assert lane.backend is not None
        assert (lane.state, lane.backend.model_id) == ("active", "tiny@1")


async def test_server_dies_while_the_memory_is_measured(
    tmp_path: Path, tiny_gguf: Path, tiny_adapters: tuple[Path, Path]
) -> None:
    """A server that should be another one is started again as the other one."""
    order = SwitchOrder(model_id="tiny@1", adapter_path=str(tiny_adapters[0]))
    threads = to_thread.current_default_thread_limiter()
    others = [object() for _ in range(int(threads.total_tokens))]
    async with lane_of(tiny_gguf, tmp_path, strategy="hold") as lane:
        await until_serving(lane)
        await switch(lane, order)
        assert lane.backend is not None
        async with anyio.create_task_group() as tasks:
            for each in others:
                threads.acquire_on_behalf_of_nowait(each)
            lane.servers.section = lane.section.model_copy(update={"parallel": 1})
            tasks.start_soon(renew, lane)
            with anyio.fail_after(60):
                while not threads.statistics().tasks_waiting:
                    await anyio.sleep(0.005)
            lane.backend.server.kill("the test did it")
            await until_serving(lane, is_so=False)
            for each in others:
                threads.release_on_behalf_of(each)
        assert lane.backend is not None
        assert (lane.state, lane.backend.model_id) == ("active", "tiny@1")


async def test_room_is_made_by_a_server_that_is_just_coming_up(
    tmp_path: Path, tiny_gguf: Path
) -> None:
    """It was begun before the run was spoken of, and would keep what the run needs until the run has ended."""
    notice, told = TrainingNotice(lasts_s=300), list[Switched]()
    settings = {"while_training": "one_slot", "parallel": 2}
    async with lane_of(tiny_gguf, tmp_path, **settings) as lane, anyio.create_task_group() as tasks:
        with anyio.fail_after(60):
            while not lane.servers._names:
                await anyio.sleep(0.001)
        assert lane.backend is None
        told.append(await Yielding({}).note(lane, notice, tasks))
        assert lane.backend is not None
        assert lane.backend.server.plan.section.parallel == 1
        tasks.cancel_scope.cancel()
