"""The gateway: its lanes, what it remembers of them, and who may have one."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import anyio
import msgspec
from anyio import to_thread
from anyio.abc import TaskGroup

from honed import log
from honed.config import ServeSection
from honed.domain.base_facts import read_facts
from honed.domain.ids import check_scenario
from honed.domain.serving import (
    PROTOCOL,
    CanaryOrder,
    CandidateOrder,
    CandidateStatus,
    Drained,
    DrainOrder,
    LaneStatus,
    Registration,
    ServerVitals,
    Serving,
    Switched,
    SwitchOrder,
    TrainingNotice,
)
from honed.errors import ApplyError, BaseMismatchError, NotFoundError, ValidationError
from honed.gateway import canary
from honed.gateway.lane import Lane
from honed.gateway.lane_status import status_of
from honed.gateway.rebase import look_again, rebase, refuse_base
from honed.gateway.shared import Shared
from honed.gateway.state import Remembered, read_state, write_state
from honed.gateway.vitals import vitals
from honed.gateway.yielding import Yielding

MAX_LANES: Final = 64
STATE_FILE: Final = "serving.json"


class Gateway:
    """All lanes of one gateway process. Lives while `open` is open; then no llama-server of it is
    left.
    """

    def __init__(self, section: ServeSection, folder: Path) -> None:
        self.section = section
        self.lanes: dict[str, Lane] = {}
        self.address: str | None = None
        """The stable address; known once the gateway listens."""
        self._folder = folder
        self._state_path = folder / STATE_FILE
        self._tasks: TaskGroup | None = None
        self._writing = anyio.Lock()
        self._yielding = Yielding(self.lanes)
        self._shared: dict[str, Shared] = {}

    @asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        """Bring back the remembered lanes; on leaving, flush what is captured and end all servers.

        Raises:
            ConfigError: the state file cannot be read.
        """
        remembered = read_state(self._state_path)
        async with anyio.create_task_group() as self._tasks:
            for scenario, known in remembered.scenarios.items():
                self._restore(scenario, known)
            for scenario, order in remembered.candidates.items():
                by_name = self.section.has_versions_beside
                may_try = by_name or (not self._has_one_place and self.section.strategy != "hold")
                if may_try and (lane := self.lanes.get(scenario)):
                    self._tasks.start_soon(canary.keep_up, lane, canary.restore(lane, order))
            try:
                yield
                async with anyio.create_task_group() as flushes:
                    for lane in self.lanes.values():
                        flushes.start_soon(lane.captured.flush)
            finally:
                self._tasks.cancel_scope.cancel()

    def turn_away(self) -> None:
        """Tell those who wait for a server that this gateway stops; another one may take its place."""
        for lane in self.lanes.values():
            lane.waiting.end()

    def serving(self) -> Serving:
        """What is served, by scenario."""
        lanes = {scenario: status_of(lane) for scenario, lane in self.lanes.items()}
        return Serving(
            protocol=PROTOCOL, address=self.address, scenarios=lanes, folder=str(self._folder)
        )

    async def register(self, scenario: str, registration: Registration) -> LaneStatus:
        """Make or complete the scenario's lane; repeating it changes nothing.

        Raises:
            ValidationError: the name cannot be a scenario's.
            ApplyError: the lane has another base model, or there are too many lanes.
        """
        check_scenario(scenario)
        lane = self.lanes.get(scenario)
        base_gguf = Path(registration.base_gguf) if registration.base_gguf else None
        if base_gguf is not None:
            self._check_base(lane, base_gguf)
        base_facts = Path(registration.base_facts) if registration.base_facts else None
        if lane is not None and (told := _another_base(lane.base_facts, base_facts)):
            raise BaseMismatchError(
                f"{scenario} is served from another base model than the one that registers: {told}",
                advice="start `honed serve` and `honed run` again, so that both see the same files",
            )
        is_new = lane is None
        lane = lane or self._add(scenario)
        before = self._registration(lane)
        lane.base_gguf = base_gguf or lane.base_gguf
        lane.base_facts = base_facts or lane.base_facts
        if registration.feed_socket is not None:
            lane.feed_socket = Path(registration.feed_socket)
        if lane.backend is None and lane.adapter is None:
            lane.adapter = registration.adapter
        if is_new or self._registration(lane) != before:
            lane.notify()
            await self.remember()
        return status_of(lane)

    async def use_base(
        self, scenario: str, base_gguf: Path, base_facts: Path | None = None
    ) -> None:
        """Serve the scenario from the base model that the operator's config names, whatever was
        remembered.
        """
        lane = self.lanes.get(scenario)
        if lane is not None and lane.base_gguf is not None:
            told = _another_base(lane.base_facts, base_facts)
            if lane.base_gguf != base_gguf or told:
                log.get(scenario=scenario).warning(
                    log.BASE_CHANGED, before=str(lane.base_gguf), now=str(base_gguf), what=told
                )
                await rebase(lane, base_gguf, base_facts)
                await self.remember()
        await self.register(
            scenario,
            Registration(
                base_gguf=str(base_gguf), base_facts=str(base_facts) if base_facts else None
            ),
        )
        lane = self.lanes[scenario]
        lane.base_facts = (
            base_facts  # also None: what was compared before may have been another file
        )
        look_again(lane)

    async def refuse_base(self, scenario: str, problem: str) -> None:
        """Say of the scenario's lane why it has no base model to serve."""
        await self.register(scenario, Registration())
        refuse_base(self.lanes[scenario], problem)

    async def switch(self, scenario: str, order: SwitchOrder) -> Switched:
        """Serve another adapter in the scenario's lane.

        Raises:
            NotFoundError: the scenario is not registered.
            ApplyError: the adapter could not be put into service; what served before still does.
        """
        return await canary.switch_with_candidate(self._lane(scenario), order)

    async def canary(self, scenario: str, order: CanaryOrder) -> CandidateStatus:
        """Try an adapter beside the live one; repeated, change its share.

        Raises:
            NotFoundError: the scenario is not registered.
            ApplyError: it could not be put beside the live one, which answers everything, as before.
        """
        if self._has_one_place:
            raise ApplyError(
                f"{scenario}: a version beside the live one takes a second server, and this one is the operator's own",
                advice="leave starting llama-server to honed: without serve.external_url",
            )
        assert self._tasks is not None, "the gateway is not open"
        return await canary.begin(self._lane(scenario), order, self._tasks)

    async def promote(self, scenario: str, order: CandidateOrder) -> Switched:
        """Make the candidate the live version.

        Raises:
            NotFoundError: the scenario is not registered.
            ApplyError: it is no candidate, or cannot serve now.
        """
        return await canary.promote(self._lane(scenario), order.model_id)

    async def withdraw(self, scenario: str, order: CandidateOrder) -> Switched:
        """Try the candidate no longer.

        Raises:
            NotFoundError: the scenario is not registered.
            ApplyError: another one is tried, or it is live.
        """
        return await canary.withdraw(self._lane(scenario), order.model_id)

    async def training(self, scenario: str, notice: TrainingNotice) -> Switched:
        """Make room for a training run of the scenario, or go back to what was before.

        Raises:
            NotFoundError: the scenario is not registered.
            ApplyError: the server could not be exchanged; the former one serves on.
        """
        assert self._tasks is not None, "the gateway is not open"
        return await self._yielding.note(self._lane(scenario), notice, self._tasks)

    async def drain(self, scenario: str, order: DrainOrder) -> Drained:
        """Have the scenario's daemon take in what was captured until now.

        Raises:
            NotFoundError: the scenario is not registered.
        """
        return await self._lane(scenario).captured.drained(order.limit_s)

    async def vitals(self, scenario: str) -> ServerVitals:
        """How the server is doing that answers the scenario now.

        Raises:
            NotFoundError: the scenario is not registered.
            ApplyError: nothing answers it now.
        """
        lane = self._lane(scenario)
        if lane.is_parked:
            raise ApplyError(
                f"{scenario} is parked, no server has it: the next request brings it back"
            )
        if lane.backend is None:
            raise ApplyError(f"{scenario}: nothing is served now, the lane is {lane.state}")
        return await vitals(lane.backend)

    @property
    def _has_one_place(self) -> bool:
        """Whether there is one server, the operator's own, that has one adapter at a time."""
        return self.section.external_url is not None and not self.section.has_versions_beside

    def _lane(self, scenario: str) -> Lane:
        lane = self.lanes.get(scenario)
        if lane is None:
            raise NotFoundError(f"scenario {scenario} is not registered with this gateway")
        return lane

    async def remember(self) -> None:
        """Write down what is served; a disk that is full does not stop the service."""
        async with self._writing:
            state = Remembered(
                address=self.address,
                scenarios={name: self._registration(lane) for name, lane in self.lanes.items()},
                candidates={
                    name: trial.order
                    for name, lane in self.lanes.items()
                    if (trial := lane.arms.candidate) and trial.is_proved and not trial.is_withdrawn
                },
            )
            try:
                await to_thread.run_sync(write_state, self._state_path, state)
            except OSError as error:
                log.get(path=str(self._state_path)).error(log.STATE_UNWRITTEN, error=str(error))

    def _restore(self, scenario: str, known: Registration) -> None:
        lane = self._add(scenario)
        lane.feed_socket = Path(known.feed_socket) if known.feed_socket else None
        lane.base_gguf = Path(known.base_gguf) if known.base_gguf else None
        lane.base_facts = Path(known.base_facts) if known.base_facts else None
        lane.adapter = known.adapter

    def _add(self, scenario: str) -> Lane:
        if len(self.lanes) >= MAX_LANES:
            raise ApplyError(f"{scenario}: this gateway has {MAX_LANES} scenarios already")
        assert self._tasks is not None, "the gateway is not open"
        is_alone = self.section.max_adapters == 1 or scenario in self.section.alone
        shared = None if is_alone else self._shared_by
        lane = Lane(scenario, self.section, self._folder, self.remember, shared=shared)
        self.lanes[scenario] = lane
        self._tasks.start_soon(lane.run)
        return lane

    def _shared_by(self, lane: Lane) -> Shared:
        """What the lanes of one base model share, of whichever file each has it."""
        assert self._tasks is not None, "the gateway is not open"
        base = _identity(lane.base_gguf, lane.base_facts)
        if base not in self._shared:
            self._shared[base] = Shared(base, self.section, self._folder, self._tasks)
        return self._shared[base]

    def _check_base(self, lane: Lane | None, path: Path) -> None:
        if lane is not None and lane.base_gguf not in (None, path):
            raise BaseMismatchError(
                f"{lane.scenario} is served from {lane.base_gguf}, not from {path}",
                advice=f"to serve another, stop the gateway and move {self._state_path} away",
            )
        if not path.is_file():
            raise ValidationError(f"base model {path} does not exist", path="$.base_gguf")

    def _registration(self, lane: Lane) -> Registration:
        return Registration(
            feed_socket=str(lane.feed_socket) if lane.feed_socket else None,
            base_gguf=str(lane.base_gguf) if lane.base_gguf else None,
            base_facts=str(lane.base_facts) if lane.base_facts else None,
            adapter=lane.adapter,
        )


def _another_base(before: Path | None, now: Path | None) -> str | None:
    """How the facts in one file differ from those in another; None when either is not known."""
    if before is None or now is None or before == now:
        return None
    known, found = read_facts(before), read_facts(now)
    return known.digests.difference(found.digests) if known and found else None


def _identity(base_gguf: Path | None, base_facts: Path | None) -> str:
    """What tells a base model from others: each daemon converts its own file, and these may be the same."""
    facts = read_facts(base_facts) if base_facts is not None else None
    if facts is None:
        return str(base_gguf)
    made = (facts.digests, facts.quantisation, facts.gguf.size_bytes, facts.gguf.digest)
    return msgspec.json.encode(made).decode()
