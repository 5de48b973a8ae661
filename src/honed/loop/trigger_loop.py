"""The loop proper: sleeps until an episode or a deadline, asks the trigger, starts at most one run."""

import contextlib
from collections.abc import Collection, Iterator
from datetime import timedelta
from typing import Literal

import anyio
from anyio.abc import TaskGroup, TaskStatus

from honed import log
from honed.domain.run import LearningState, Run
from honed.domain.times import now_ms
from honed.domain.trained_model import Selection, TrainedModel
from honed.errors import BusyError, ControlError, HonedError, StoreError
from honed.loop.approval import Approval
from honed.loop.heat import Heat
from honed.loop.offline_run import OfflineRuns
from honed.loop.orders import RunOrder, Stop
from honed.loop.pauses import BY_HAND, Pauses
from honed.loop.training_run import TrainingRuns
from honed.ports import Store
from honed.triggers.context import TriggerContext
from honed.triggers.trigger import TrainTrigger, Verdict

_FAULTS = HonedError, OSError
"""What may go wrong while it looks, a full disk under a preview among it: told, and looked at again later."""
_STORE_BACKOFF_S = 30.0
"""How long a run that could not be written down holds the next one off."""


class TriggerLoop:
    """Decides when a scenario learns."""

    def __init__(
        self,
        store: Store,
        runs: TrainingRuns | None,
        trigger: TrainTrigger,
        *,
        scenario: str,
        learn_model: str,
        check_interval: timedelta,
        turn: anyio.Lock | None = None,
        others: Collection[str] = (),
        approval: Approval | None = None,
        offline: OfflineRuns | None = None,
        heat: Heat | None = None,
    ) -> None:
        """`runs` is None when nothing trains: the loop judges and explains, and `offline` executes what is ordered.

        Loops of other learn models of the same scenario (`others`) share the lock `turn`: one trains at a time.
        """
        self._store = store
        self.approval = approval
        if approval is not None:
            approval.wake = self.notify
        self._runs = runs
        self._offline = offline
        self._trigger = trigger
        self._scenario = scenario
        self.learn_model = learn_model
        self._turn = turn or anyio.Lock()
        self._check_interval_s = check_interval.total_seconds()
        self._wake = anyio.Event()
        self._looked = anyio.Event()
        self._ended = anyio.Event()
        self._ordered: RunOrder | None = None
        self._running: anyio.CancelScope | None = None
        self._running_id: str | None = None
        self._stop = Stop()
        """Why the run in progress is being stopped."""
        self._order: RunOrder | None = None
        """What the run in progress was asked to do."""
        self._pauses = Pauses(
            store,
            runs,
            scenario=scenario,
            learn_model=learn_model,
            others=others,
            facts=self._facts,
            heat=heat,
        )
        self.is_training = False
        """Whether it is this loop's turn; a run that has been decided on may wait for it."""
        self._seen_material: tuple[int, int] | None = None
        self._num_holds = 0
        self._log = log.get(scenario=scenario)

    @property
    def running_id(self) -> str | None:
        """The run in progress; None when there is none."""
        return self._running_id

    @property
    def paused_id(self) -> str | None:
        """The run that waits until its rule allows it again; None when there is none."""
        return self._pauses.order.id if self._pauses.order else None

    def notify(self) -> None:
        """An episode was made: look now instead of at the next interval."""
        self._wake.set()

    def follow(self, trigger: TrainTrigger, *, check_interval: timedelta) -> None:
        """Judge by another rule from now on; what is remembered of the past stays, and so does a run in progress."""
        self._trigger = trigger
        self._check_interval_s = check_interval.total_seconds()
        self._wake.set()

    async def beat(self) -> None:
        """Have the loop look, and return once it has; it hangs when the loop does."""
        self._wake.set()
        await self._looked.wait()

    def train_now(self, *, selection: Selection = "successes", against_base: bool = False) -> str:
        """Start a run past the trigger and the back-off; returns its id.

        Raises:
            BusyError: a run is in progress.
            ControlError: nothing can train, or it would be for nothing.
        """
        runs = self._runs or self._offline
        if runs is None:
            raise ControlError("nothing can train: no base_model is configured")
        if self._runs and (problem := self._runs.base_problem):
            raise ControlError(f"nothing is trained: {problem}")
        if self.paused_id:
            raise BusyError(
                f"run {self.paused_id} is paused until its rule allows it again",
                advice="`honed cancel` ends it; what it was to learn from waits for the next one",
            )
        if self._running_id or self._ordered:
            busy = self._running_id or (self._ordered.id if self._ordered else "")
            raise BusyError(
                f"run {busy} is in progress; one training at a time",
                advice="`honed train-now --wait` waits for it and then trains; `honed cancel` stops it",
            )
        if self.approval and (review := self.approval.now):
            raise ControlError(
                f"run {review.id} waits for a review",
                advice="`honed review` shows it; `honed review approve` lets it run, `reject` moves on",
            )
        blind = selection == "blind"
        self._ordered = RunOrder(
            id=runs.new_id(),
            reason=BY_HAND + (" (blind control)" if blind else ""),
            selection=selection,
            against_base=against_base,
            counts=not blind,
        )
        self._wake.set()
        return self._ordered.id

    async def until_ended(self, run_id: str) -> Run:
        """The run, once it has ended; it may wait for a review first."""
        while True:
            more = self._ended
            for run in await self._store.list_runs(self._scenario):
                if run.id == run_id and run.state != "running":
                    return run
            await more.wait()

    @contextlib.contextmanager
    def at_rest(self) -> Iterator[None]:
        """Start no run while the body works on what runs read.

        Raises:
            ControlError: a run is in progress.
        """
        if busy := self._running_id or (self._ordered.id if self._ordered else None):
            raise ControlError(
                f"run {busy} is in progress and may have read it",
                advice="wait until it has ended, or stop it with `honed cancel`",
            )
        self._num_holds += 1
        try:
            yield
        finally:
            self._num_holds -= 1
            self._wake.set()

    def cancel(self) -> str | None:
        """Stop the run in progress, or the one that is paused; returns its id, None when nothing trains."""
        if self.paused_id:
            self._pauses.is_cancelled = True
            self._wake.set()
            return self.paused_id
        self._stop_running("cancelled")
        return self._running_id

    def _stop_running(self, reason: Literal["cancelled", "paused"]) -> None:
        """A run that stops already may still be cancelled; one that was cancelled is not paused any more."""
        if self._stop.reason != "cancelled":
            self._stop.reason = reason
        if self._running is not None:
            self._running.cancel()

    async def run(self, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Judge and train until cancelled; a cancelled run ends its worker before this returns."""
        await self._pauses.find()
        if self.approval is not None:
            await self.approval.load()
        await (
            self.state()
        )  # the first start is written down now: `honed status` must not need to write
        async with anyio.create_task_group() as tasks:
            task_status.started()
            while True:
                if self._running_id is None and (order := await self._next_order()):
                    self._start(tasks, order)
                elif self._running_id is None and (candidate := await self._waiting_candidate()):
                    self._running_id = f"again-{candidate.id}"
                    tasks.start_soon(self._judge_again, candidate)
                await self._pause_unless_allowed()
                self._looked.set()
                self._looked = anyio.Event()
                with anyio.move_on_after(self._check_interval_s):
                    await self._wake.wait()
                self._wake = anyio.Event()

    async def verdict(self) -> Verdict:
        """What the trigger says now; raises TriggerError."""
        trigger = self._trigger  # a reload may change it meanwhile
        return trigger.judge(await self._facts(trigger))

    async def _facts(self, trigger: TrainTrigger) -> TriggerContext:
        return await self._store.trigger_context(
            self._scenario, self.learn_model, now_ms=now_ms(), needs=trigger.needs
        )

    async def state(self) -> LearningState:
        """What is remembered between trainings."""
        return await self._store.start_scenario(self._scenario, self.learn_model, now_ms=now_ms())

    async def _pause_unless_allowed(self) -> None:
        """Have the run in progress stopped, once its worker is in its steps, where it can go on later."""
        now = self._runs.now if self._runs else None
        if self._order is None or now is None or now.progress.phase != "training":
            return
        try:
            if now.progress.step and not await self._pauses.is_allowed(self._order, self._trigger):
                self._stop_running("paused")
        except _FAULTS as error:
            self._log.error(log.TRIGGER_FAILED, error=str(error))

    async def _gone_on_with(self) -> RunOrder | None:
        """The order of the paused run, once it may go on."""
        try:
            order = await self._pauses.next_order(self._trigger)
            if self._pauses.order is None and order is None:  # it was cancelled
                await self._wait_for_more()
        except _FAULTS as error:
            self._log.error(log.TRIGGER_FAILED, error=str(error))
            return None
        return order

    async def _wait_for_more(self) -> None:
        """Start nothing by rule before there is something more to learn from."""
        self._seen_material = _material(await self.state())

    async def _next_order(self) -> RunOrder | None:
        if self._num_holds:
            return None
        if self.paused_id:
            return await self._gone_on_with()
        if await self._pauses.must_rest():
            return None
        if self._ordered is not None:
            order, self._ordered = self._ordered, None
            return await self._unless_held(order)
        if self._runs is None or self._runs.base_problem:
            return None
        try:
            state = await self.state()
            left_ms = (state.backoff_until_ms or 0) - now_ms()
            if 0 < left_ms <= 1000 * state.backoff_s:  # more is left when the clock was set back
                return None
            if self.approval and self.approval.now:
                return await self.approval.next_order(self._runs.new_id())
            is_nothing_new = state.episode_count <= state.last_train_count
            if is_nothing_new and not state.changed_count:
                return None
            if _material(state) == self._seen_material:
                return None  # nothing more since a training that was cancelled
            verdict = await self.verdict()
        except _FAULTS as error:
            self._log.error(log.TRIGGER_FAILED, error=str(error))
            return None
        if not verdict.fires or self._num_holds:
            return None
        rule = str(verdict.trigger)
        self._log.info(log.TRIGGER_FIRED, trigger=rule, verdict=str(verdict))
        return await self._unless_held(RunOrder(id=self._runs.new_id(), reason=rule))

    async def _unless_held(self, order: RunOrder) -> RunOrder | None:
        """The order, unless somebody has to look first."""
        if self.approval is None or not self.approval.is_required or self._runs is None:
            return order
        try:
            await self.approval.hold(order)
        except _FAULTS as error:
            self._log.error(log.TRIGGER_FAILED, error=str(error))
        return None

    def _start(self, tasks: TaskGroup, order: RunOrder) -> None:
        self._running_id = order.id
        self._order, self._stop = order, Stop()
        tasks.start_soon(self._execute, order)

    async def _execute(self, order: RunOrder) -> None:
        runs = self._runs or self._offline
        assert runs is not None
        with anyio.CancelScope() as scope:
            self._running = scope
            try:
                async with self._turn:
                    self.is_training = True
                    run = await runs.execute(order, self._stop)
                    await self._review_ended(order, run.state)
            except StoreError as error:  # a full disk: the run cannot even be written down
                self._log.error(
                    log.TRAINING_FAILED, run_id=order.id, error=str(error), advice=error.advice
                )
                await anyio.sleep(_STORE_BACKOFF_S)
            finally:
                self._running = None
                self.is_training = False
        if scope.cancelled_caught:
            await self._stopped(order)
        self._running_id = self._order = None
        if self._runs and self._runs.regating:
            self._runs.regating.look_again()
        self._ended.set()
        self._ended = anyio.Event()
        self._wake.set()

    async def _waiting_candidate(self) -> TrainedModel | None:
        """The candidate that has waited for evidence, once there is enough more of it."""
        regating = self._runs.regating if self._runs else None
        if not (regating and regating.may_wait) or self._num_holds or self.paused_id:
            return None
        try:
            return await regating.waiting((await self.state()).episode_count)
        except _FAULTS as error:
            self._log.error(log.GATE_FAILED, error=str(error))
            return None

    async def _judge_again(self, candidate: TrainedModel) -> None:
        assert self._runs is not None and self._runs.regating is not None  # noqa: PT018
        with anyio.CancelScope() as self._running:
            async with self._turn:
                await self._runs.regating.judge_again(candidate)
        self._running = self._running_id = None
        self._wake.set()

    async def _stopped(self, order: RunOrder) -> None:
        """By the operator, or because its rule does not allow it now; nothing else starts before that is settled."""
        while True:
            try:
                await self._pauses.take(order, self._stop)
                if not self.paused_id:
                    await self._review_ended(order, "cancelled")
                if self._stop.reason == "cancelled":
                    await self._wait_for_more()
                return
            except StoreError as error:
                self._log.error(log.TRAINING_FAILED, run_id=order.id, error=str(error))
                await anyio.sleep(_STORE_BACKOFF_S)

    async def _review_ended(self, order: RunOrder, state: str) -> None:
        if self.approval is not None and order.review is not None:
            await self.approval.ended(state)


def _material(state: LearningState) -> tuple[int, int]:
    """What there is to learn from, as far as it tells whether there is more."""
    return state.episode_count, state.changed_count
