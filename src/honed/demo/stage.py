"""The demo's stage: daemon, gateway and swarm, up and connected."""

import contextlib
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final

import anyio
import httpx

from honed.client import AsyncHonedClient
from honed.demo.control import ControlSocket, EventLog
from honed.demo.environment import World
from honed.demo.processes import Child, running
from honed.demo.recipe import SCENARIO
from honed.demo.swarm import Swarm

_START_LIMIT_S: Final = 60.0
_KEEP_ALIVE_S: Final = 3.0
"""Shorter than the gateway's: an idle connection is closed from this side, never under a request."""


class Stage:
    """Everything that is running, and how to talk to it."""

    def __init__(self, daemon: Child, gateway: Child, runtime_dir: Path) -> None:
        self.daemon = daemon
        self.gateway = gateway
        self.control = ControlSocket(runtime_dir / "control.sock")
        self.serving = ControlSocket(runtime_dir / "serve.sock")
        self.events = EventLog()
        self.feed_path = runtime_dir / "feed.sock"
        self.idle_mb = 0.0
        """Resident memory of the daemon before its first event, MiB."""
        self.swarm: Swarm
        self.client: AsyncHonedClient

    def check(self) -> None:
        """Raises ControlError when daemon or gateway has ended."""
        self.daemon.check()
        self.gateway.check()

    async def tell(self, task_id: str, is_solved: bool, reason: str) -> None:
        """Tell the daemon how a task ended; returns when that is on disk."""
        await self.client.outcome(
            task_id=task_id,
            group_id=task_id,
            success=is_solved,
            reason=None if is_solved else reason,
        )

    async def lane(self) -> dict[str, Any]:
        """What the gateway says of the scenario."""
        answer = await self.serving.get("/v1/serving")
        lane: dict[str, Any] = answer["scenarios"][SCENARIO]
        return lane


@contextlib.asynccontextmanager
async def opened(config_path: Path, world: World) -> AsyncIterator[Stage]:
    """Start daemon and gateway, wait until both answer, and stop them at the end.

    Raises:
        ControlError: one of them ended, the advice has the end of its log; or did not come up in time.
    """
    async with contextlib.AsyncExitStack() as closing:
        # A socket's path holds about a hundred bytes: a folder of its own, whatever the working folder is called.
        runtime_dir = Path(closing.enter_context(tempfile.TemporaryDirectory(prefix="honed-demo-")))
        start = {"config_path": config_path, "runtime_dir": runtime_dir}
        gateway = await closing.enter_async_context(running("serve", **start))
        daemon = await closing.enter_async_context(running("run", **start))
        stage = Stage(daemon, gateway, runtime_dir)
        await stage.control.when(
            "/v1/status", lambda status: True, limit_s=_START_LIMIT_S, check=stage.check
        )
        serving = await stage.serving.when(
            "/v1/serving", _is_serving, limit_s=_START_LIMIT_S, check=stage.check
        )
        stage.idle_mb = daemon.resident_mb()
        tasks = await closing.enter_async_context(anyio.create_task_group())
        closing.callback(tasks.cancel_scope.cancel)
        tasks.start_soon(stage.events.follow, stage.control)
        http = httpx.AsyncClient(
            base_url=serving["address"],
            limits=httpx.Limits(keepalive_expiry=_KEEP_ALIVE_S),
            trust_env=False,  # a proxy of the environment has no business on loopback
        )
        stage.swarm = Swarm(world, await closing.enter_async_context(http), model=SCENARIO)
        client = AsyncHonedClient(stage.feed_path, scenario=SCENARIO, agent="demo")
        stage.client = await closing.enter_async_context(client)
        yield stage


def _is_serving(answer: dict[str, Any]) -> bool:
    lane = answer["scenarios"].get(SCENARIO)
    return lane is not None and bool(lane["is_serving"])
