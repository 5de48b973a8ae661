"""Several lanes on one base model in one llama-server: which adapters are in it, and how all move to the next one.

llama-server takes adapters at its start alone. So an adapter that is not there yet takes a new server, with it and all
that the other lanes need; those are proved there as well, and move in the moment in which the lane that wanted it does.
As many are in it as `serve.max_adapters` says: those that serve, then those that served last, which a rollback finds at
hand. A lane whose adapter finds no place is parked, the one that was asked longest ago first; its next request brings
it back.
"""

import hashlib
import itertools
import time
from pathlib import Path
from typing import Final, NamedTuple

import anyio
from anyio import to_thread
from anyio.abc import TaskGroup

from honed.config import ServeSection
from honed.domain.serving import AdapterRef
from honed.errors import ServerStartError
from honed.gateway import llama_server, places, strategy
from honed.gateway.backend import Backend
from honed.gateway.launch import Launch, gguf_of
from honed.gateway.llama_server import ServerPlan
from honed.gateway.places import Member, Place
from honed.gateway.servers import keep_log_small
from honed.gateway.tenant import SharedServer, Tenant

_REST_S: Final = 1.0
"""At least so long a server goes on before one follows it for the sake of a parked lane; and as long again as the last
one took to come up, so that with too many scenarios at a time half of the time is left for answers.
"""
_PROCESSES_MAX: Final = 4
"""The one that serves, and those that drain: their long answers may take `drain_timeout`. The next waits for them."""
_LOOK_S: Final = 0.25
"""How often it is looked whether one of those has ended."""


class _Move(NamedTuple):
    member: Member
    former: Backend
    backend: Backend


class _Arrival(NamedTuple):
    """A server that has come up and does not serve yet."""

    server: SharedServer
    began_at: float
    """When its start did, on the monotonic clock."""
    moves: list[_Move]
    """Who follows into it when it does."""
    left_out: list[Place]
    """Who finds no room in it."""


class Shared:
    """The server that the lanes of one base model share."""

    def __init__(
        self,
        base: str,
        section: ServeSection,
        folder: Path,
        tasks: TaskGroup,
    ) -> None:
        """`base` tells the base model from others."""
        self.members: list[Member] = []
        """The lanes of this base now, parked ones among them."""
        self.section = section
        """What servers are started with from now on."""
        self.lock = anyio.Lock()
        """Held from the start of a server to the moment in which all have moved."""
        self._name = f"shared-{hashlib.sha256(base.encode()).hexdigest()[:8]}"
        self._folder = folder
        self._tasks = tasks
        self._current: SharedServer | None = None
        self._names: set[str] = set()
        """Those of the servers that run or come up."""
        self._alive: set[SharedServer] = set()
        self._arrival: _Arrival | None = None
        self._rests_until = 0.0
        """Until when no server should follow the one that serves for a parked lane, on the monotonic clock."""

    def has(self, adapter: AdapterRef | None) -> bool:
        """Whether the server could answer with this adapter now."""
        current = self._current
        return (
            current is not None
            and current.has(adapter)
            and current.process.plan.section == self.section
        )

    @property
    def residents(self) -> tuple[AdapterRef, ...]:
        """The adapters that are at hand."""
        return self._current.residents if self._current and self.has(None) else ()

    async def start(self, member: Member, launch: Launch) -> Backend:
        """A place for `launch` in the server that is there, else in a new one; the lock is held.

        Raises:
            BaseMismatchError: the server is not that of the base model.
            ProbeFailedError: one of its adapters cannot be proved in it.
            ApplyError: it did not come up as it should.
        """
        current = self._current
        if current is not None and self.has(launch.adapter):
            return await current.take_in(launch)
        if member.arms.live is None:
            await self._make_room()
        if current is not None and current.has(None) and len(self._alive) >= _PROCESSES_MAX:
            await self._others_ended_beside(current)
        began_at = time.monotonic()
        others, left_out = await places.others(
            self.members,
            member,
            launch.adapter,
            former=self.residents,
            room=self.section.max_adapters - (launch.adapter is not None),
        )
        try:
            backend, server = await self._come_up(member, launch, others)
        except ServerStartError:
            # an adapter that no server has had yet may have broken it: it should not keep the others down
            known = [each for each in others if current is not None and current.has(each)]
            if known == others:
                raise
            backend, server = await self._come_up(member, launch, known)
        try:
            moves = await self._prove_moves(server, member, launch.adapter)
        except BaseException:
            await backend.server.stop()
            raise
        self._arrival = _Arrival(server, began_at, moves, left_out)
        return backend

    async def _make_room(self) -> None:
        """Where two servers do not fit, have the one that is there end before the next comes up: for a lane that serves
        nothing, nobody has chosen a way yet.
        """
        current = self._current
        if current is None or not current.has(None):
            return
        plan = current.process.plan
        measured = (self.section, plan.base_gguf, current.process.pid)
        headrooms = await to_thread.run_sync(strategy.measure, *measured)
        if strategy.choose(self.section.strategy, headrooms).strategy == "hold":
            await self.vacate()

    def rest_s(self, adapter: AdapterRef | None) -> float:
        """Seconds until a server with this adapter may follow the one that serves others; 0: now, or it has it."""
        if self.has(adapter) or not self.has(None):
            return 0.0
        if len(self._alive) >= _PROCESSES_MAX:
            return _LOOK_S
        return max(0.0, self._rests_until - time.monotonic())

    async def _come_up(
        self, member: Member, launch: Launch, others: list[AdapterRef]
    ) -> tuple[Backend, SharedServer]:
        """Start a server with these adapters beside that of the launch; the lane that asked is its first tenant."""
        residents = [launch.adapter, *others] if launch.adapter is not None else others
        assert launch.base_gguf is not None, "a shared server is ours"
        names = (f"{self._name}-{number}" for number in itertools.count(1))
        plan = ServerPlan(
            name=next(name for name in names if name not in self._names),
            alias=launch.base_gguf.stem,
            base_gguf=launch.base_gguf,
            adapter_gguf=None,
            residents=tuple(map(gguf_of, residents)),
            section=self.section,
            folder=self._folder,
        )
        self._names.add(plan.name)
        try:
            process = await llama_server.start(plan)
        except BaseException:
            self._names.discard(plan.name)
            raise
        server = SharedServer(process, residents)
        self._alive.add(server)
        self._tasks.start_soon(self._watch, server)
        self._tasks.start_soon(keep_log_small, process)
        try:
            await process.check_adapters()
            backend = await server.take_in(launch)
        except BaseException:
            await process.stop()
            raise
        return backend, server

    async def _watch(self, server: SharedServer) -> None:
        await server.watch()
        self._alive.discard(server)
        self._names.discard(server.process.plan.name)

    async def _prove_moves(
        self, server: SharedServer, member: Member, adapter: AdapterRef | None
    ) -> list[_Move]:
        """Have the new server answer with the adapters of all lanes that will move to it, and compare.

        Raises:
            ApplyError: it does not answer with one of them as the former server did.
        """
        moves = []
        for each in self.members:
            for former in each.arms.backends():
                is_ours = isinstance(former.server, Tenant)
                is_live = former is each.arms.live
                is_replaced = each is member and is_live and not each.arms.is_tried(adapter)
                if is_ours and not is_replaced and server.has(former.adapter):
                    backend = await server.take_over(former)
                    moves.append(_Move(each, former, backend))
        return moves

    # ------------------------------------------------------------ going into service

    def settle(self, server: SharedServer) -> None:
        """A lane serves from this server now: so do all others that it has come up for."""
        arrival = self._arrival
        if arrival is None or arrival.server is not server:  # it has served before
            return
        self._current, self._arrival, server.is_settled = server, None, True
        now = time.monotonic()
        self._rests_until = now + max(_REST_S, now - arrival.began_at)
        for member, former, backend in arrival.moves:
            if member.arms.has(former):
                member.move(former, backend)
            else:  # it has got something else meanwhile
                self._tasks.start_soon(backend.server.stop)
        for place in arrival.left_out:
            if place.member.adapter == place.adapter:
                place.member.park()

    async def others_ended(self) -> None:
        """Wait until no server is left but the one that serves; draining them may take `drain_timeout`."""
        with anyio.move_on_after(self.section.drain_timeout.total_seconds() + _REST_S):
            for server in self._alive - {self._current}:
                await server.process.wait()

    async def _others_ended_beside(self, current: SharedServer) -> None:
        """As `others_ended`, while this one lives: when it dies nobody is served, and the next should not wait."""
        async with anyio.create_task_group() as tasks:

            async def see_its_end() -> None:
                await current.process.wait()
                tasks.cancel_scope.cancel()

            tasks.start_soon(see_its_end)
            await self.others_ended()
            tasks.cancel_scope.cancel()

    async def vacate(self, but: Member | None = None) -> None:
        """Have all lanes leave the server, so that it ends; `but` leaves by itself."""
        async with anyio.create_task_group() as tasks:
            for member in self.members:
                if member is not but:
                    tasks.start_soon(member.step_out)
