"""Canaries: a model that the gate has passed is tried on a share of the tasks, and goes live, or goes, by how it does.

The truth is in two places, the store (that it is tried, and what was looked at) and the gateway (that it answers); this
object remembers nothing. It looks every so often: has the gateway what the store says, and is there enough to rule on?
What a ruling asks for is done first and written down then: after a crash between the two it is ruled again, the same.
"""

import contextlib
import time
from collections.abc import Callable, Sequence
from typing import Any, Final

import anyio
from msgspec.structs import replace

from honed import log
from honed.config import CanarySection
from honed.domain.canary import Canary
from honed.domain.serving import LaneStatus
from honed.domain.times import now_ms
from honed.domain.trained_model import TrainedModel
from honed.errors import ApplyError, ControlError, HonedError, StoreError
from honed.loop.canary_evidence import Evidence, Suspect, counted, waited
from honed.loop.canary_next import next_one, take_back
from honed.loop.in_service import Announce, InService, Skipped, unproved
from honed.ports import CanaryApplier, Store
from honed.statistics.canary import Ruling

DEFAULT_SHARE: Final = 0.1
"""Of a canary that somebody begins by hand where the config names no share."""


class CanaryWatch:
    """The canaries of one scenario: at most one at a time."""

    def __init__(
        self,
        store: Store,
        in_service: InService,
        applier: CanaryApplier | None,
        *,
        scenario: str,
        section: CanarySection,
        announce: Announce,
        suspect: Suspect,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Name what is tried, and by which rules.

        Args:
            store: keeps the canaries.
            in_service: what is compared with, and what a promotion changes.
            applier: what has two versions answer; None where that cannot be.
            scenario: whose canaries.
            section: `apply.canary`.
            announce: publishes events.
            suspect: alarms that hold a promotion.
            clock: seconds that only rise.
        """
        self._store = store
        self._in_service = in_service
        self._applier = applier
        self._scenario = scenario
        self._section = section
        self._max_age_s = section.max_age.total_seconds()
        self._clock = clock
        self._looked_at_s: float | None = None
        self._announce = announce
        self._evidence = Evidence(store, suspect)
        self._lock = anyio.Lock()
        self._log = log.get(scenario=scenario)
        self.problem: str | None = None
        """Why it cannot be looked at now; None when it can."""
        self._server_problem: str | None = None
        """Why what is tried does not answer now, which is no fault of the watch."""
        if section.share and applier is not None:
            in_service.try_first = self.offer

    async def run(self) -> None:
        """Look every so often, until cancelled."""
        while True:
            try:
                await self.look()
                self.problem = None
            except (ApplyError, StoreError) as error:  # told once, not every time
                if self.problem != str(error):
                    self._log.warning(log.CANARY_FAILED, error=str(error), advice=error.advice)
                self.problem = str(error)
            await anyio.sleep(self._section.interval.total_seconds())

    # ------------------------------------------------------------ what begins and ends one

    async def offer(self, model: TrainedModel) -> Skipped:
        """Try a model that may go live by itself; it waits while another one is watched, and takes the place of one
        that is held. Raises ApplyError: it cannot be served.
        """
        async with self._lock:
            canary = await self._store.canaries.now(self._scenario)
            if canary is not None and canary.state == "watching":
                reason = f"{canary.model_id} is tried now; it is the next one"
                self._announce(log.MODEL_READY, {"model_id": model.id, "reason": reason})
                return Skipped(model.id, reason)
            if canary is not None:
                await self._withdraw(canary, f"{model.id} takes its place")
            begun = await self._begin_by_itself(model)
        return Skipped(model.id, f"it is tried on {begun.share:.0%} of the tasks")

    async def begin(
        self, model_id: str, *, share: float | None, is_shadow: bool, force: bool, by: str
    ) -> Canary:
        """Try a model by hand.

        Raises:
            ControlError: another one is tried, it is in service already, or the gate has not passed it.
            ApplyError: it cannot be served; NotFoundError: no such model.
        """
        async with self._lock:
            model = await self._store.get_model(model_id)
            if (canary := await self._store.canaries.now(self._scenario)) is not None:
                raise ControlError(
                    f"{canary.model_id} is tried now; one at a time",
                    advice="`honed withdraw` ends that",
                )
            current = await self._in_service.current()
            current_id = current.id if current else None
            if model.scenario != self._scenario or current_id == model_id:
                raise ControlError(f"{model_id} is in service already, or of another scenario")
            if not force and (reason := unproved(model, current_id)):
                raise ControlError(
                    f"{model_id} is not tried: {reason}", advice="--force tries it all the same"
                )
            given = self._section.share or DEFAULT_SHARE if share is None else share
            if given == 1 and not is_shadow:
                raise ControlError(
                    f"{model_id} would get all tasks, so nothing is left to compare with: expected a share below 1",
                    advice="name a smaller share; `honed apply` puts it into service untried",
                )
            return await self._begin(model, share=given, is_shadow=is_shadow, by=by)

    async def promote(self, model_id: str | None = None, *, by: str) -> Canary:
        """Put what is tried into service, whatever it has done.

        Args:
            model_id: what is meant; None means whatever is tried.
            by: who says so.

        Raises:
            ControlError: nothing is tried, another one is, or only in the shadow; ApplyError.
        """
        async with self._lock:
            canary = await self._open(model_id)
            if canary.is_shadow:
                await self._withdraw(canary, "a shadow is not promoted: it is applied", by=by)
                raise ControlError(
                    f"{canary.model_id} was tried in shadow, where nobody has seen what it says",
                    advice=f"`honed canary {canary.model_id}` tries it on tasks, `honed apply` puts it into service",
                )
            return await self._promote(canary, "promoted by hand", by=by)

    async def withdraw(self, model_id: str | None = None, *, by: str) -> Canary:
        """Have what is in service answer everything again. As `promote`."""
        async with self._lock:
            return await self._withdraw(await self._open(model_id), "withdrawn by hand", by=by)

    async def told(self) -> dict[str, Any] | None:
        """What is tried and how it does, as `honed status --json` has it; None when nothing is."""
        canary = await self._store.canaries.now(self._scenario)
        if canary is None:
            return None
        return await self._evidence.told(canary) | {
            "problem": self.problem,
            "server_problem": self._server_problem,
            "max_age_s": self._max_age_s,
        }

    async def list(self) -> Sequence[Canary]:
        """Canaries, newest first."""
        return await self._store.canaries.list(self._scenario)

    # ------------------------------------------------------------ looking

    async def look(self) -> None:
        """See that what the store says is so at the gateway, and rule on what there is.

        Raises:
            ApplyError: the gateway does not answer, or does not do what it should.
        """
        if self._applier is None:
            return
        elapsed_s = self._elapsed()
        async with self._lock:
            canary = await self._store.canaries.now(self._scenario)
            if canary is None:
                with contextlib.suppress(ApplyError):  # nothing is tried, so nothing is amiss here
                    await take_back(self._store, self._applier, self._scenario)
                await self._try_next()
                return
            if await self._is_over(canary) or await self._gave_way(canary):
                return
            lane = await self._applier.lane()
            if lane.candidate is None or lane.candidate.model_id != canary.model_id:
                if await self._was_ruled(canary, lane):
                    return
                model = await self._store.get_model(canary.model_id)
                canary = await self._serve(model, canary)
                lane = await self._applier.lane()
            trial = lane.candidate
            if trial is not None and trial.state == "withdrawn":
                why = f"its server failed too often: {trial.error}"
                await self._end(canary, "rolled_back", why)
                return
            self._server_problem = trial.error if trial and trial.state != "active" else None
            canary = counted(canary, lane)
            ruling = await self._evidence.ruling(canary)
            await self._follow(waited(canary, ruling, elapsed_s), ruling)

    def _elapsed(self) -> float:
        """Seconds since it was looked last; while this process did not run, nothing waited."""
        before, self._looked_at_s = self._looked_at_s, self._clock()
        return 0.0 if before is None else max(0.0, self._looked_at_s - before)

    async def _was_ruled(self, canary: Canary, lane: LaneStatus) -> bool:
        """Do what a ruling asks for that the gateway has carried out, and that could not be written down: a version
        that is rolled back does not get tasks once more to be rolled back again.
        """
        ruling = await self._evidence.ruling(canary)
        decision = ruling.decision if ruling else "watch"
        if decision == "roll_back" or (decision == "promote" and lane.model_id == canary.model_id):
            await self._follow(canary, ruling)
            return True
        return False

    async def _follow(self, canary: Canary, ruling: Ruling | None) -> None:
        """Do what the ruling says, and write it down."""
        if ruling is None:
            await self._go_on(canary)
            return
        canary = replace(canary, looks=ruling.looks)
        if ruling.decision == "roll_back":
            await self._end(canary, "rolled_back", ruling.reason)
        elif canary.state == "held":  # nothing but harm changes what a person has to decide
            await self._store.canaries.write(canary)
        elif ruling.decision == "promote":
            await self._promote(canary, ruling.reason)
        elif ruling.decision == "hold":
            await self._hold(canary, ruling.reason)
        else:
            await self._go_on(replace(canary, reason=ruling.reason))

    async def _go_on(self, canary: Canary) -> None:
        """Nothing is ruled: go on watching, unless it has waited for too long."""
        if canary.state == "held" or canary.waited_s < self._max_age_s:
            await self._store.canaries.write(canary)
            return
        lacking = await self._evidence.lacking(canary)
        known = (lacking, canary.reason, self._server_problem)
        await self._hold(canary, "; ".join(each for each in known if each))

    async def _hold(self, canary: Canary, reason: str) -> None:
        await self._store.canaries.write(replace(canary, state="held", reason=reason))
        self._tell(log.CANARY_HELD, canary, reason)

    async def _is_over(self, canary: Canary) -> bool:
        """Whether something else was put into service, or taken out, than what it is compared with."""
        current = await self._in_service.current()
        current_id = current.id if current else None
        if current_id == canary.incumbent_id:
            return False
        if current_id == canary.model_id:
            over = canary.ended("promoted", "it was put into service", at_ms=now_ms())
            await self._store.canaries.write(over)
            self._tell(log.CANARY_PROMOTED, over, over.reason)
        else:
            why = f"{current_id or 'the base model'} was put into service meanwhile"
            await self._withdraw(canary, why)
        return True

    async def _try_next(self) -> None:
        """Begin with the newest model that waited for another one to be over."""
        model = await self._next_one()
        if model is not None:
            await self._begin_by_itself(model)

    async def _gave_way(self, canary: Canary) -> bool:
        """Whether it was held, and another model has waited for it."""
        model = await self._next_one() if canary.state == "held" else None
        if model is None:
            return False
        await self._withdraw(canary, f"{model.id} takes its place")
        await self._begin_by_itself(model)
        return True

    async def _next_one(self) -> TrainedModel | None:
        if self._in_service.try_first is None:
            return None
        return await next_one(self._store, self._in_service, self._scenario)

    # ------------------------------------------------------------ steps, under the lock

    async def _open(self, model_id: str | None) -> Canary:
        canary = await self._store.canaries.now(self._scenario)
        if canary is None:
            raise ControlError("nothing is tried now", advice="`honed canary ADAPTER` tries one")
        if model_id not in (None, canary.model_id):  # one may have taken its place meanwhile
            raise ControlError(
                f"{canary.model_id} is tried now, not {model_id}",
                advice="`honed canary` shows how it does, and what became of others",
            )
        return canary

    async def _begin_by_itself(self, model: TrainedModel) -> Canary:
        section = self._section
        return await self._begin(model, share=section.share, is_shadow=section.shadow)

    async def _begin(
        self, model: TrainedModel, *, share: float, is_shadow: bool, by: str | None = None
    ) -> Canary:
        if self._applier is None:
            raise ControlError(
                "only behind the gateway (apply.kind llama_server) can two versions answer"
            )
        current = await self._in_service.current()
        former = await self._store.canaries.list(self._scenario, limit=1)
        # a clock that was put back must not have it stand before, or in the place of, the former one
        newest_ms = former[0].started_at_ms + 1 if former else 0
        canary = Canary(
            scenario=self._scenario,
            model_id=model.id,
            incumbent_id=current.id if current else None,
            learn_model=model.learn_model,
            share=share,
            is_shadow=is_shadow,
            max_tasks=self._section.max_tasks,
            started_at_ms=max(now_ms(), newest_ms),
            after_record=await self._store.canaries.newest_record(),
        )
        await self._store.canaries.write(canary)
        try:
            canary = await self._serve(model, canary)
        except HonedError as error:
            over = canary.ended("withdrawn", f"it could not be served: {error}", at_ms=now_ms())
            await self._store.canaries.write(over)
            self._tell(log.CANARY_FAILED, over, over.reason)
            raise
        self._tell(log.CANARY_STARTED, canary, f"{share:.0%} of the tasks", by=by)
        return canary

    async def _serve(self, model: TrainedModel, canary: Canary) -> Canary:
        """Have the gateway give it its share; attempts that are under way when it gets it first are not compared."""
        assert self._applier is not None
        with anyio.CancelScope(shield=True):
            await self._applier.canary(model, share=canary.share, is_shadow=canary.is_shadow)
            lane = await self._applier.lane()
            if canary.live_requests is None:
                newest = await self._store.canaries.newest_record()
                canary = replace(canary, after_record=newest)
            canary = counted(canary, lane)
            await self._store.canaries.write(canary)
        return canary

    async def _promote(self, canary: Canary, reason: str, *, by: str | None = None) -> Canary:
        applier = self._applier
        assert applier is not None
        model = await self._store.get_model(canary.model_id)
        applied = await self._in_service.promote(
            model, over=canary.incumbent_id, switch=lambda: applier.promote(model)
        )
        if isinstance(applied, Skipped):
            return await self._withdraw(canary, applied.reason, by=by)
        over = canary.ended("promoted", reason, at_ms=now_ms(), by=by)
        await self._store.canaries.write(over)
        self._tell(log.CANARY_PROMOTED, over, reason, by=by)
        return over

    async def _withdraw(self, canary: Canary, reason: str, *, by: str | None = None) -> Canary:
        return await self._end(canary, "withdrawn", reason, by=by)

    async def _end(
        self, canary: Canary, state: Any, reason: str, *, by: str | None = None
    ) -> Canary:
        assert self._applier is not None
        model = await self._store.get_model(canary.model_id)
        with anyio.CancelScope(shield=True):
            await self._applier.withdraw(model)
            over = canary.ended(state, reason, at_ms=now_ms(), by=by)
            await self._store.canaries.write(over)
        event = log.CANARY_ROLLED_BACK if state == "rolled_back" else log.CANARY_WITHDRAWN
        self._tell(event, over, reason, by=by)
        return over

    def _tell(self, event: str, canary: Canary, reason: str, *, by: str | None = None) -> None:
        told = {"model_id": canary.model_id, "incumbent_id": canary.incumbent_id, "reason": reason}
        told |= {"by": by} if by else {}
        self._announce(event, told)
        self._log.info(event, **told)
