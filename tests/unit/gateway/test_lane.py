"""A lane notices a server that hangs, and does not take a crowded one for it."""

import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import pytest

from honed.config import ServeSection
from honed.gateway.backend import Backend, Pulse
from honed.gateway.lane import Lane
from honed.gateway.wanted import ANY
from tests.unit.gateway.stub import remember

pytestmark = pytest.mark.anyio

PULSE = Pulse(every_s=0.05, timeout_s=0.1, misses=3)


@asynccontextmanager
async def served(folder: Path, base_gguf: Path) -> AsyncIterator[Lane]:
    """A running lane whose health checks come quickly, until it serves."""
    section = ServeSection(ctx_size=256, parallel=2, threads=1)
    lane = Lane("tiny", section, folder, remember, pulse=PULSE)
    lane.base_gguf = base_gguf
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(lane.run)
        await other_than(None, lane)
        yield lane
        tasks.cancel_scope.cancel()


async def other_than(backend: Backend | None, lane: Lane) -> Backend:
    """The lane's backend, once it is another one."""
    with anyio.fail_after(30):
        while lane.backend is None or lane.backend is backend:
            await anyio.sleep(0.01)
        return lane.backend


async def test_server_that_hangs_is_replaced(tmp_path: Path, tiny_gguf: Path) -> None:
    """A stopped process ends no connection and never dies by itself."""
    async with served(tmp_path, tiny_gguf) as lane:
        before = lane.backend
        assert before is not None
        os.kill(before.server.pid, signal.SIGSTOP)
        after = await other_than(before, lane)
        assert before.server.verdict == "tiny-blue missed 3 health checks"
        assert before.server.has_ended
        assert lane.state == "active"
        assert after.server.verdict is None


async def test_crowded_server_is_not_taken_for_a_hanging_one(
    tmp_path: Path, tiny_gguf: Path
) -> None:
    """Behind many requests a health check waits; it counts again when they are gone."""
    async with served(tmp_path, tiny_gguf) as lane:
        backend = lane.pick(ANY)
        assert backend is not None
        for _ in range(32):
            lane.enter(backend)
        os.kill(backend.server.pid, signal.SIGSTOP)
        await anyio.sleep(10 * PULSE.every_s + 3 * PULSE.timeout_s)
        assert lane.backend is backend
        assert not backend.server.has_ended
        for _ in range(32):
            lane.leave(backend)
        await other_than(backend, lane)
