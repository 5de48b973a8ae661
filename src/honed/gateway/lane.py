"""One scenario's lane: the server that answers it, the way back after a crash, the count of requests.

down       nobody answers; a start is tried again with back-off
starting   a server comes up; the former one, if there is one, answers meanwhile
active     one server answers
releasing  the new one answers, the old one finishes what it has
"""

import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import anyio

from honed import log
from honed.config import ServeSection
from honed.domain.serving import AdapterRef, LaneState
from honed.errors import ApplyError, BaseMismatchError
from honed.gateway.arms import Arms
from honed.gateway.attempts import Attempts
from honed.gateway.backend import PULSE, Backend, Pulse
from honed.gateway.candidate import Candidate
from honed.gateway.capture import Captured
from honed.gateway.endpoint import Endpoint
from honed.gateway.feed import FeedSender
from honed.gateway.keeping_up import keep_up
from honed.gateway.launch import Launch, see_files
from honed.gateway.llama_server import LlamaServer
from honed.gateway.refusal import Refused, stopping, too_many
from honed.gateway.servers import Servers, Told
from honed.gateway.shared import Shared
from honed.gateway.shelf import shelf_for
from honed.gateway.tenancy import Tenancy
from honed.gateway.waiting import Waiting
from honed.gateway.wanted import Wanted


class Lane:
    """One scenario. `run` keeps a server up; `switching` (used by `switch`) changes which."""

    def __init__(
        self,
        scenario: str,
        section: ServeSection,
        folder: Path,
        remember: Callable[[], Awaitable[None]],
        *,
        pulse: Pulse = PULSE,
        shared: Callable[["Lane"], Shared] | None = None,
    ) -> None:
        """`shared` finds what the lanes of one base model share; None: this one has a server of its own."""
        self.scenario = scenario
        self.section = section
        self.feed_socket: Path | None = None
        self.base_gguf: Path | None = None
        self.base_facts: Path | None = None
        """What servers are compared with before they serve; None compares nothing."""
        self.base_problem: str | None = None
        """Why the base model cannot be served; None when nothing speaks against it."""
        self.adapter: AdapterRef | None = None
        """What should be served: by whatever server comes up next, also after a restart of the gateway."""
        self.arms = Arms()
        self._endpoint = Endpoint(scenario, folder)
        self.state: LaneState = "down"
        self.error: str | None = None
        self.requests = 0
        self.failed = 0
        self.refused = 0
        self.waiting = Waiting()
        self.is_preparing = False
        """Whether its base model is still being made; a server comes up after that."""
        self.captured = Captured(scenario)
        self._shelf = shelf_for(folder, scenario, max_bytes=section.spool_max)
        self.remember = remember
        told = Told(self._died, self.arms.has)
        self.servers = (
            Tenancy(self, lambda: shared(self), section, folder, told, pulse=pulse)
            if shared is not None
            else Servers(scenario, section, folder, told, pulse=pulse)
        )
        self.is_shared = shared is not None
        """Whether it shares a server with the other lanes of its base model."""
        self.is_parked = False
        """Whether its adapter gave way to others in a shared server, until somebody asks for it."""
        self._switching = anyio.Lock()
        self.changed = anyio.Event()
        """Set when something that decides about starting has changed; made anew by `keep_up`."""
        self.attempts = Attempts(is_ours=section.external_url is None)
        self._drained_by = 0.0
        """Until when the server that was withdrawn may finish, on anyio's clock."""
        self._used_at = 0.0
        """When it was asked last, while it has no server."""

    # ------------------------------------------------------------ what the relay calls

    def pick(self, wanted: Wanted) -> Backend | None:
        """The server that should have a request; None when none is there now."""
        return self.arms.pick(wanted)

    @property
    def backend(self) -> Backend | None:
        """The live server; None when none is there now."""
        return self.arms.live

    @backend.setter
    def backend(self, backend: Backend | None) -> None:
        self._used_at = self.used_at
        self.arms.live = backend
        self._endpoint.tell(backend.address if backend else None)

    @property
    def used_at(self) -> float:
        """When it was asked last, on the monotonic clock."""
        return self.arms.live.used_at if self.arms.live is not None else self._used_at

    @property
    def versions(self) -> list[str]:
        """The versions that a request may name, the live one first."""
        return self.arms.versions(self.adapter)

    def enter(self, backend: Backend) -> None:
        """Count a request in; its backend stays until `leave`. No switch can come between `pick` and this.

        Raises:
            Refused: too much is in flight.
        """
        if backend.in_flight >= self.section.max_requests_per_scenario:
            raise self._too_many(f"{backend.in_flight} requests are open")
        backend.in_flight += 1
        self.requests += 1
        self.arms.entered(backend)

    def leave(self, backend: Backend) -> None:
        """Count a request out."""
        backend.leave()

    def failed_at(self, backend: Backend | None) -> None:
        """Count a request that got no whole answer."""
        self.failed += 1
        if backend is not None:
            self.arms.failed_at(backend)

    def held_until(self) -> float:
        """When a request that finds no server now is given up, on anyio's clock; draining the former one adds to it."""
        begins = max(anyio.current_time(), self._drained_by)
        return begins + self.section.hold_timeout.total_seconds()

    async def hold(self, wanted: Wanted, gone: Backend | None, *, until: float) -> None:
        """Wait for another server than `gone`, while there is hope of one.

        Raises:
            Refused: none came until then, none will, or too many wait already.
        """
        self.arms.see(wanted, self.adapter)
        self.wake()
        if self.waiting.num >= self.section.max_requests_per_scenario:
            raise self._too_many(f"{self.waiting.num} requests wait for a server")
        await self.waiting.until(
            lambda: self.pick(wanted) not in (None, gone) or not self._is_coming_for(wanted),
            deadline_s=until,
        )
        if self.pick(wanted) in (None, gone):
            self.arms.see(wanted, self.adapter)
            raise self._not_serving()

    def _is_coming_for(self, wanted: Wanted) -> bool:
        return self._is_coming and (wanted.version is None or wanted.version in self.versions)

    @property
    def _is_coming(self) -> bool:
        return (self.has_base or self.is_preparing) and not self.attempts.are_hopeless

    @property
    def has_base(self) -> bool:
        """Whether there is something to start, or a server that is not ours."""
        return self.base_gguf is not None or self.section.brings_base

    def _not_serving(self) -> Refused:
        reason = f": {self.error}" if self.error else ""
        self.refused += 1
        if self.waiting.has_ended:
            return stopping()
        message = f"{self.scenario}: it is {self.state}{reason}"
        return Refused(503, "not_serving", message, retry_after_s=1)

    def _too_many(self, what: str) -> Refused:
        self.refused += 1
        return too_many(f"{self.scenario}: {what}")

    # ------------------------------------------------------------ keeping a server up

    async def run(self) -> None:
        """Keep a server up and send what is captured, until cancelled; then no server of the lane is left."""
        try:
            async with anyio.create_task_group() as tasks:
                self.servers.tasks = tasks
                sender = FeedSender(self.captured, lambda: self.feed_socket, self._shelf)
                tasks.start_soon(sender.run)
                await keep_up(self)
        finally:
            with anyio.CancelScope(shield=True):
                await self.servers.end_all()
            self.backend, self.state = None, "down"
            self.attempts.give_up()
            self.waiting.tell()

    @contextmanager
    def preparing(self) -> Iterator[None]:
        """Say `starting`, and hold requests, while the base model of a lane that has none is made."""
        self.is_preparing = self.base_gguf is None
        if self.is_preparing:
            self.state = "starting"
        try:
            yield
        except BaseException:
            self.state = "active" if self.backend else "down"
            raise
        finally:
            self.is_preparing = False
            self.waiting.tell()

    def notify(self) -> None:
        """Something that decides about starting has changed."""
        self.changed.set()

    async def see_files(self, adapter: AdapterRef | None) -> Launch:
        """Look at everything that a server of this adapter is launched with; raises as `launch.see_files`."""
        files = (self.base_gguf, self.base_facts, adapter)
        return await see_files(self.scenario, self.section, *files)

    def start_failed(self, error: ApplyError) -> None:
        """What should be served did not come up."""
        self.error = str(error)
        self.state = "down" if self.backend is None else "active"
        self.attempts.failed(error)
        if isinstance(error, BaseMismatchError):
            self.base_problem = str(error)
        self.waiting.tell()
        log.get(scenario=self.scenario).error(
            log.SWITCH_FAILED, error=str(error), kind=type(error).__name__, advice=error.advice
        )

    # ------------------------------------------------------------ what `switch` is made of

    @asynccontextmanager
    async def switching(self) -> AsyncIterator[None]:
        """One switch at a time, from start to the old server's end."""
        async with self._switching:
            yield

    @asynccontextmanager
    async def starting(self) -> AsyncIterator[None]:
        """The part of a switch in which a server comes up; crashes are repaired after it."""
        async with self.servers.starting:
            self.state = "starting"
            try:
                yield
            except BaseException:
                self.state = "active" if self.backend else "down"
                self.notify()
                raise

    async def settled(self) -> None:
        """Wait until no server comes up: one that was begun before is as was asked for then."""
        async with self.servers.starting:
            pass

    async def start(self, adapter: AdapterRef | None) -> Backend:
        """Start a server, see that it is healthy and what it should be, and ask it the fingerprint.

        Raises:
            AdapterNotFoundError: the adapter's files are not there, or others; nothing was started.
            ForeignAdapterError: it belongs to another base model; nothing was started.
            BaseMismatchError: the server is not that of the base model; it has been stopped.
            ApplyError: the server did not come up as it should; it has been stopped.
        """
        return await self.servers.start(await self.see_files(adapter))

    def serve(self, backend: Backend) -> Backend | None:
        """Flip: requests from now on go to `backend`; returns the one before."""
        old, self.backend = self.backend, backend
        self.adapter = backend.adapter
        self.error = self.base_problem = None
        self.state = "active" if old is None else "releasing"
        self.is_parked = False
        self._drained_by = 0.0
        self.attempts.served()
        self.waiting.tell()
        if self.arms.candidate is not None:
            self.arms.candidate.tell()
        self.servers.into_service(backend)
        return old

    def withdraw(self) -> None:
        """Take the live server out of service: what comes waits for the next one."""
        self.backend = None
        self._drained_by = anyio.current_time() + self.section.drain_timeout.total_seconds()

    def stand_beside(self, candidate: Candidate, backend: Backend) -> None:
        """Give the candidate its server: its requests go there from now on."""
        candidate.serve(backend)
        self.waiting.tell()
        self.servers.into_service(backend)

    async def release(self, old: Backend) -> dict[str, float]:
        """Let the old server finish, `drain_timeout` at most, and end it; returns seconds per phase."""
        began = time.monotonic()
        with anyio.move_on_after(self.section.drain_timeout.total_seconds()):
            await old.drained()
        drained = time.monotonic()
        await self.stop(old.server, grace_s=0 if old.in_flight else 1)
        if self.backend is not None and self.state == "releasing":
            self.state = "active"
        return {"drain": drained - began, "stop": time.monotonic() - drained}

    async def stop(self, server: LlamaServer, *, grace_s: float = 1) -> None:
        """End one server of this lane."""
        await self.servers.stop(server, grace_s=grace_s)

    # ------------------------------------------------------------ what its neighbours in a shared server do

    def move(self, former: Backend, backend: Backend) -> None:
        """Serve from another server what `former` serves, live or tried; that one drains."""
        trial = self.arms.candidate
        if trial is not None and trial.backend is former:
            self.stand_beside(trial, backend)
        else:
            self.serve(backend)
        self._release_soon(former)

    def park(self) -> None:
        """Serve nothing until somebody asks: others need the place."""
        if self.is_parked:
            return
        self.is_parked, self.state = True, "down"
        if (old := self.backend) is not None:
            self.backend = None
            self._release_soon(old)
        if self.waiting.num:
            self.wake()

    def wake(self) -> None:
        """Have a parked lane come up."""
        if self.is_parked:
            self.is_parked, self.state, self._used_at = False, "starting", time.monotonic()
            self.attempts.excuse()
            self.notify()

    async def step_out(self) -> None:
        """Leave the server, which has to end: what is in flight does so first. Comes up again with the next one."""
        trial = self.arms.candidate
        beside = trial.backend if trial is not None else None
        if trial is not None and beside is not None:
            trial.step_aside()
            await self.release(beside)
            trial.tell()
        if (old := self.backend) is not None:
            self.state = "starting"
            self.withdraw()
            self.attempts.excuse()
            await self.release(old)
            self.notify()

    def _release_soon(self, old: Backend) -> None:
        assert self.servers.tasks is not None
        self.servers.tasks.start_soon(self.release, old)

    def _died(self, server: LlamaServer, why: str) -> None:
        if self.backend is not None and self.backend.server is server:
            self.backend = None
            self.state = "down"
            self.error = why
            self.notify()
        self.arms.lost(server, why)
        self.waiting.tell()  # what was for a candidate goes to the live version
