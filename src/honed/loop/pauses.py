"""Runs that were stopped before they had ended: what of them goes on, and when.

By rule a run is paused when the hours or the silence that its rule asks for are over, and any run while a GPU is over
its limits; a daemon that ends leaves its run behind. They go on from their checkpoint, unless somebody cancels them, or
there is none.
"""

from collections.abc import Awaitable, Callable, Collection
from typing import Final

from msgspec.structs import replace

from honed import log
from honed.domain.run import Run
from honed.loop.heat import Heat
from honed.loop.orders import RunOrder, Stop
from honed.loop.training_run import TrainingRuns
from honed.ports import Store
from honed.triggers.allowance import is_allowed, may_pause
from honed.triggers.context import TriggerContext
from honed.triggers.trigger import TrainTrigger

BY_HAND: Final = "train-now"
"""How the reason begins of a run that somebody has asked for; no rule holds it."""

Facts = Callable[[TrainTrigger], Awaitable[TriggerContext]]


class Pauses:
    """The run of one line that waits until it may go on."""

    def __init__(
        self,
        store: Store,
        runs: TrainingRuns | None,
        *,
        scenario: str,
        learn_model: str,
        others: Collection[str],
        facts: Facts,
        heat: Heat | None = None,
    ) -> None:
        """`others` are learn models whose loops look after their own runs; `runs` is None when nothing trains."""
        self._store = store
        self._runs = runs
        self._scenario = scenario
        self._learn_model = learn_model
        self._others = frozenset(others)
        self._facts = facts
        self._heat = heat
        self.order: RunOrder | None = None
        """What goes on when it may; None when nothing waits."""
        self.is_cancelled = False
        """Whether somebody has said that it shall not go on."""
        self._log = log.get(scenario=scenario)

    async def is_allowed(self, order: RunOrder, trigger: TrainTrigger) -> bool:
        """Whether a run may go on: no GPU is over its limits, and it was asked for by hand, or the hours and the
        silence of the rule last.

        Raises:
            TriggerError: the facts could not be read.
        """
        if await self.must_rest():
            return False
        if order.reason.startswith(BY_HAND) or not may_pause(trigger):
            return True
        return is_allowed(trigger, await self._facts(trigger))

    async def must_rest(self) -> bool:
        """Whether a GPU is over its limits: no run begins or goes on."""
        return self._heat is not None and await self._heat.is_over()

    async def next_order(self, trigger: TrainTrigger) -> RunOrder | None:
        """The order of the run that waits, once it may go on; one that was cancelled is ended here.

        Raises:
            StoreError: asked again later, it is still there.
        """
        order = self.order
        assert order is not None
        assert order.unfinished is not None
        assert self._runs is not None
        if self.is_cancelled:
            await self._runs.cancel(order.unfinished)
        elif not await self.is_allowed(order, trigger):
            return None
        self.order = None
        return None if self.is_cancelled else order

    async def take(self, order: RunOrder, stop: Stop) -> None:
        """A run of this daemon was stopped: it waits here, or its end is written down.

        Raises:
            StoreError: nothing has changed.
        """
        run = await self._running(order.id)
        if run is None or self._runs is None:
            return
        if stop.reason == "paused":
            self.order = await self._runs.unfinished(run, order)
            self.is_cancelled = False
        if stop.reason == "cancelled" or self.order is None:
            await self._runs.cancel(run, by_operator=stop.reason == "cancelled")
            self.order = None

    async def find(self) -> None:
        """Runs whose daemon ended, and their worker with it: the newest that can goes on, of others the trigger fires
        again.

        Raises:
            StoreError: asked again at the next start.
        """
        for run in await self._store.list_runs(self._scenario):
            if run.state != "running" or run.learn_model in self._others:
                continue
            if self.order is None and self._runs and run.learn_model == self._learn_model:
                self.order = await self._runs.unfinished(run)
            if self.order is None or self.order.id != run.id:
                await self._close(run)

    async def _running(self, run_id: str) -> Run | None:
        for run in await self._store.list_runs(self._scenario):
            if run.id == run_id and run.state == "running":
                return run
        return None

    async def _close(self, run: Run) -> None:
        if self._runs is not None:
            await self._runs.discard(run)
        ended = replace(
            run,
            state="interrupted",
            message="the daemon ended in the middle of it",
            ended_at_ms=self._runs.last_sign_ms(run) if self._runs else run.started_at_ms,
        )
        await self._store.end_run(ended)
        self._log.warning(log.TRAINING_INTERRUPTED, run_id=run.id)
