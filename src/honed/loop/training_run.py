"""One training run: data, worker, gate, service; every end of it is written down."""

from collections.abc import Awaitable, Callable
from pathlib import Path

import anyio
import msgspec

from honed import log
from honed.domain.ids import adapter_id, run_id
from honed.domain.job import Progress, TrainSettings
from honed.domain.run import Run
from honed.domain.run_files import CHECKPOINTS, PLAN_FILE
from honed.domain.times import now_ms
from honed.domain.trained_model import TrainedModel
from honed.domain.verdict import Seen
from honed.errors import EmptyDataError, HonedError, TrainingError
from honed.loop import resumption
from honed.loop.in_service import Announce, InService
from honed.loop.judging import decide, offer
from honed.loop.orders import RunOrder, Stop, TrainingNow
from honed.loop.regating import Regating
from honed.ports import (
    Gate,
    Processor,
    Store,
    Trained,
    TrainingSet,
    TrainingSets,
    TrainRequest,
)

_BY_OPERATOR = "stopped by the operator"
_NOT_ALLOWED = "its rule did not allow it any more, and it had no checkpoint to go on from"

CheckBase = Callable[[], Awaitable[Path | None]]
"""Path of the facts of the base model that is served; raises TrainingError when it is another one."""


class TrainingRuns:
    """Executes run orders one after the other."""

    def __init__(
        self,
        store: Store,
        training_sets: TrainingSets,
        processor: Processor,
        gate: Gate | None,
        in_service: InService,
        *,
        scenario: str,
        learn_model: str,
        base_model: str,
        settings: TrainSettings,
        runs_dir: Path,
        first_backoff_s: float,
        announce: Announce,
        check_base: CheckBase | None = None,
        regating: Regating | None = None,
    ) -> None:
        """`check_base` sees, before each run, that what is trained on is what is served."""
        self._store = store
        self._training_sets = training_sets
        self._processor = processor
        self._gate = gate
        self._in_service = in_service
        self._scenario = scenario
        self._learn_model = learn_model
        self._base_model = base_model
        self._settings = settings
        self._runs_dir = runs_dir
        self._first_backoff_s = first_backoff_s
        self._announce = announce
        self._check_base = check_base
        self.now: TrainingNow | None = None
        """The run in progress; None when nothing trains."""
        self.regating = regating
        """What judges a candidate again that waits for more evidence."""

    @property
    def base_problem(self) -> str | None:
        """Why nothing is trained: the base model that is served is another one. None when it is not."""
        return self._in_service.base_problem

    def new_id(self) -> str:
        """An id for the next run."""
        return run_id(self._learn_model, Path(self._base_model).name)

    async def execute(self, order: RunOrder, stop: Stop | None = None) -> Run:
        """Do the run and write down how it ended; only cancellation leaves this by an exception.

        A run that is paused, or whose daemon ends, stays `running` where it has left something to go on from.
        """
        stop = stop or Stop()
        logger = log.get(scenario=self._scenario, run_id=order.id)
        state = await self._store.start_scenario(self._scenario, self._learn_model, now_ms=now_ms())
        run = order.unfinished or await self._begin(order)
        self.now = TrainingNow(
            run_id=run.id,
            selection=run.selection,
            started_at_ms=run.started_at_ms,
            progress=Progress(phase="reading"),
        )
        event = log.TRAINING_RESUMED if order.unfinished else log.TRAINING_STARTED
        self._announce(event, {"run_id": run.id, "reason": run.reason})
        logger.info(event, reason=run.reason, selection=run.selection)
        before = await self._store.lessons.material(self._scenario, self._learn_model, limit=0)
        try:
            run, learned = await self._train(order, run)
            read = (learned.episode_count, learned.seen)
            await self._end(run, read=read if order.counts else None, backoff_s=0.0)
        except EmptyDataError as error:
            run = _ended(run, "skipped", message=_told(error))
            read = (before.episode_count, Seen(newest=before.reach))
            await self._end(run, read=read if order.counts else None)
        except anyio.get_cancelled_exc_class():
            with anyio.CancelScope(shield=True):
                await self._stopped(run, stop)
            raise
        except Exception as error:  # the supervisor of runs: a run must not end the daemon
            if not isinstance(error, HonedError):
                logger.exception(log.TRAINING_FAILED)
            run = _ended(run, "failed", message=f"{type(error).__name__}: {_told(error)}")
            backoff_s = min(3600.0, max(self._first_backoff_s, 2 * state.backoff_s))
            await self._end(run, backoff_s=backoff_s)
        finally:
            self.now = None
        return run

    async def _begin(self, order: RunOrder) -> Run:
        run = Run(
            id=order.id,
            scenario=self._scenario,
            learn_model=self._learn_model,
            state="running",
            started_at_ms=now_ms(),
            reason=order.reason,
            selection=order.selection,
            review_id=order.review.id if order.review else None,
            approved_by=order.review.approved_by if order.review else None,
        )
        await self._store.add_run(run)
        return run

    async def _stopped(self, run: Run, stop: Stop) -> None:
        """Write down that it was stopped, unless it can go on and nobody has said that it shall not."""
        if stop.reason != "cancelled" and await self._plan(run) is not None:
            self._announce(log.TRAINING_PAUSED, {"run_id": run.id})
            log.get(scenario=self._scenario, run_id=run.id).info(log.TRAINING_PAUSED)
        elif stop.reason == "paused":
            await self._end(_ended(run, "interrupted", message=_NOT_ALLOWED))
        else:
            told = "the daemon was stopped" if stop.reason is None else _BY_OPERATOR
            await self._end(_ended(run, "cancelled", message=told))

    async def cancel(self, run: Run, *, by_operator: bool = True) -> None:
        """End a run that was stopped."""
        await self.discard(run)
        if by_operator:
            await self._end(_ended(run, "cancelled", message=_BY_OPERATOR))
        else:
            await self._end(_ended(run, "interrupted", message=_NOT_ALLOWED))

    async def unfinished(self, run: Run, order: RunOrder | None = None) -> RunOrder | None:
        """How a run goes on that was not finished; None when it cannot.

        Args:
            run: as it was written down.
            order: by which this daemon began it; None when another one did.
        """
        if run.review_id is not None and order is None:
            return None  # what waits for a review is asked for anew
        plan = await self._plan(run)
        if plan is None or plan.base_model != self._base_model:
            return None
        models = await self._store.list_models(self._scenario)
        if any(model.run_id == run.id for model in models):
            return None  # it came as far as its verdict
        await self._processor.discard(run.id, registered=[model.id for model in models])
        return RunOrder(
            id=run.id,
            reason=run.reason,
            selection=run.selection,
            against_base=plan.against_base,
            counts=plan.counts,
            review=order.review if order else None,
            unfinished=run,
        )

    async def _plan(self, run: Run) -> resumption.Plan | None:
        return await anyio.to_thread.run_sync(resumption.read_plan, self._runs_dir / run.id)

    async def discard(self, run: Run) -> None:
        """Clear away what a run has left that was cut off by the end of its daemon."""
        models = await self._store.list_models(self._scenario)
        await self._processor.discard(run.id, registered=[model.id for model in models])
        await anyio.to_thread.run_sync(resumption.clear, self._runs_dir / run.id)

    def last_sign_ms(self, run: Run) -> int:
        """When a run that was cut off was last seen at work; budgets must not count how long nobody was there."""
        try:
            written_s = (self._runs_dir / run.id / "progress.jsonl").stat().st_mtime
        except OSError:
            return run.started_at_ms
        return min(now_ms(), max(run.started_at_ms, round(written_s * 1000)))

    async def _train(self, order: RunOrder, run: Run) -> tuple[Run, TrainingSet]:
        folder = self._runs_dir / run.id
        base_facts_path = None
        if self._check_base is not None:
            self._on_phase("comparing")
            base_facts_path = await self._check_base()
            self._on_phase("reading")
        serving = await self._in_service.current(self._learn_model)
        plan = await self._planned(order, folder, serving)
        training_set = plan.training_set
        incumbent = None if order.against_base else serving
        trained = await self._processor.train(
            TrainRequest(
                run_id=run.id,
                model_id=plan.model_id,
                scenario=self._scenario,
                learn_model=self._learn_model,
                base_model=self._base_model,
                settings=plan.settings,
                training_set=training_set,
                incumbent=incumbent,
                parent_id=serving.id if serving else None,
                selection=order.selection,
                start_path=plan.start_path,
                base_facts_path=base_facts_path,
                checkpoints_path=(folder / CHECKPOINTS).absolute(),
            ),
            on_progress=lambda progress: self._on_progress(run.id, folder, progress),
        )
        await self._store.add_model(trained.model)
        model = await self._judge(trained, training_set, incumbent)
        self._on_phase("applying")
        message = await offer(self._in_service, model, self._announce)
        run = msgspec.structs.replace(
            run,
            method=trained.model.method,
            method_reason=trained.model.method_reason,
            num_episodes=len(training_set.episode_ids),
            num_new=training_set.num_new,
            num_changed=training_set.num_changed,
            num_near_duplicates=training_set.num_near_duplicates,
            left_out=training_set.left_out,
            forks=training_set.forks,
        )
        return _ended(run, "done", message=message, model_id=model.id), training_set

    async def _planned(
        self, order: RunOrder, folder: Path, serving: TrainedModel | None
    ) -> resumption.Plan:
        """What the run trains, and with what: settled when it begins, and kept when it goes on."""
        plan = await self._plan(order.unfinished) if order.unfinished else None
        if plan is None:
            training_set = await self._build(order, folder)
            number = await self._store.next_model_number(self._scenario)
            is_warm = self._settings.start_from == "adapter"
            plan = resumption.Plan(
                model_id=adapter_id(self._scenario, number),
                base_model=self._base_model,
                settings=self._settings,
                training_set=training_set,
                against_base=order.against_base,
                counts=order.counts,
                start_path=serving.adapter_path if serving and is_warm else None,
            )
        try:
            await anyio.to_thread.run_sync(resumption.write_plan, folder, plan)
        except OSError as error:
            raise TrainingError(
                f"{folder / PLAN_FILE} cannot be written: {error.strerror}",
                advice="free some space there, or move data_dir",
            ) from error
        return plan

    async def _build(self, order: RunOrder, folder: Path) -> TrainingSet:
        review = order.review
        if review is None:
            return await self._training_sets.build(folder, selection=order.selection)
        made = await self._training_sets.build(
            folder, selection=order.selection, material=review.material
        )
        if made.data_digest != review.data_digest:
            raise TrainingError(
                f"the data are no longer what {review.approved_by} approved: their digest is "
                f"{made.data_digest}, expected {review.data_digest}",
                advice="somebody has just said something about them: look again with `honed review`",
            )
        return made

    async def _judge(
        self, trained: Trained, training_set: TrainingSet, incumbent: TrainedModel | None
    ) -> TrainedModel:
        if self._gate is None:
            return trained.model
        self._on_phase("judging")
        return await decide(
            self._gate,
            self._store,
            trained.model,
            training_set,
            trained.scores,
            incumbent_id=incumbent.id if incumbent else None,
            announce=self._announce,
        )

    def _on_phase(self, phase: str) -> None:
        if self.now is not None:
            self.now.progress = Progress(phase=phase)

    def _on_progress(self, run_id: str, folder: Path, progress: Progress) -> None:
        if self.now is not None:
            self.now.progress = progress
        line = msgspec.json.encode(progress)
        try:
            with (folder / "progress.jsonl").open("ab") as file:
                file.write(line + b"\n")
        except OSError as error:
            raise TrainingError(
                f"{folder / 'progress.jsonl'} cannot be written: {error.strerror}",
                advice="free some space there, or move data_dir",
            ) from error
        details = msgspec.to_builtins(progress)
        del details["type"]  # of the worker's line; the event has one of its own
        self._announce(log.TRAINING_PROGRESS, {"run_id": run_id} | details)

    async def _end(
        self, run: Run, *, read: tuple[int, Seen] | None = None, backoff_s: float | None = None
    ) -> None:
        """Write it down; `read` says up to where the trigger may forget what there was to learn from."""
        count, seen = read or (None, None)
        await anyio.to_thread.run_sync(resumption.clear, self._runs_dir / run.id)
        await self._store.end_run(run, trained_count=count, seen=seen, backoff_s=backoff_s)
        event = f"training.{run.state}"
        details = {"run_id": run.id, "model_id": run.model_id, "message": run.message}
        self._announce(event, details)
        seconds = ((run.ended_at_ms or 0) - run.started_at_ms) / 1000
        logger = log.get(scenario=self._scenario, run_id=run.id)
        write = logger.error if run.state == "failed" else logger.info
        write(event, state=run.state, model_id=run.model_id, message=run.message, seconds=seconds)


def _ended(run: Run, state: str, *, message: str | None, model_id: str | None = None) -> Run:
    return msgspec.structs.replace(
        run,
        state=state,
        message=message,
        model_id=model_id,
        ended_at_ms=now_ms(),
    )


def _told(error: Exception) -> str:
    """The error with its advice, on one line."""
    advice = error.advice if isinstance(error, HonedError) else None
    return f"{error} ({advice})" if advice else str(error)
