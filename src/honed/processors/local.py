"""A training run in a worker process on this machine, its adapter published by one rename."""

import contextlib
import os
import shutil
import sys
from collections.abc import Collection
from datetime import timedelta
from pathlib import Path

import anyio
import msgspec

from honed import log
from honed.domain.job import (
    EpisodeScore,
    Job,
    JobResult,
    ScoreJob,
    ScoreResult,
    TrainJob,
    TrainResult,
    parse_job,
)
from honed.domain.times import now_ms
from honed.domain.trained_model import TrainedModel
from honed.errors import TrainingError
from honed.ports import OnProgress, Trained, TrainRequest
from honed.processors.sharing import Sharing
from honed.processors.warm_worker import WarmWorker
from honed.processors.worker_process import DEFAULT_GRACE, DEFAULT_SILENCE

GGUF_FILE = "adapter.gguf"


class LocalProcessor:
    """Trains in a process that this one starts, waits for and ends."""

    def __init__(
        self,
        *,
        runs_dir: Path,
        adapters_dir: Path,
        python: str = sys.executable,
        stop_grace: timedelta = DEFAULT_GRACE,
        silence_limit: timedelta = DEFAULT_SILENCE,
        keep_warm: timedelta = timedelta(0),
        sharing: Sharing | None = None,
    ) -> None:
        """Take the places of runs and adapters; they must be on one file system.

        Args:
            runs_dir: job, log and unpublished files of each run, in `runs_dir/RUN_ID/`.
            adapters_dir: published adapters, one folder `scenario@n` each.
            python: interpreter that has the training stack.
            stop_grace: how long a worker that is told to end may take to end by itself.
            silence_limit: a worker that reports nothing for so long counts as hung and is ended.
            keep_warm: how long the worker stays loaded without a job; see `give_back`.
            sharing: what makes room on a GPU for each job; None asks nobody.
        """
        self._runs_dir = runs_dir.absolute()
        self._adapters_dir = adapters_dir.absolute()
        self._sharing = sharing
        self._worker = WarmWorker(
            keep_warm, python=python, stop_grace=stop_grace, silence_limit=silence_limit
        )

    async def train(self, request: TrainRequest, *, on_progress: OnProgress) -> Trained:
        """Train, export, score and publish; cancelling the task ends the worker's process group.

        Raises:
            TrainingError: the run failed, or an adapter of that id exists; nothing was published.
        """
        target = self._adapters_dir / request.model_id
        check_free(target)
        folder = self._runs_dir / request.run_id
        unpublished = folder / "adapter"
        if unpublished.exists():  # of a run that was cut off
            await anyio.to_thread.run_sync(shutil.rmtree, unpublished)
        job = _train_job(request, folder, unpublished)
        result = await self._run(job, folder, on_progress)
        assert isinstance(result, TrainResult)
        with anyio.CancelScope(shield=True):
            await anyio.to_thread.run_sync(publish, unpublished, target)
        return Trained(_trained_model(request, target, result), result.scores)

    async def discard(self, run_id: str, *, registered: Collection[str]) -> None:
        """Remove a cut-off run's unfinished files; take back an adapter that nobody knows of.

        An adapter that was published just before the end was never judged: it goes back into the
        run's folder, as `unregistered`, so that every published folder is one that the store knows.
        """
        folder = self._runs_dir / run_id
        try:
            await anyio.to_thread.run_sync(self._take_back, folder, frozenset(registered))
        except OSError as error:  # it is in nobody's way
            log.get(run_id=run_id).warning(log.TRAINING_UNCLEARED, error=str(error))

    def _take_back(self, folder: Path, registered: frozenset[str]) -> None:
        unpublished = folder / "adapter"
        if unpublished.exists():
            shutil.rmtree(unpublished)
        model_id = _model_of(folder / "job.json")
        if model_id is None or model_id in registered:
            return
        with contextlib.suppress(FileNotFoundError):
            (self._adapters_dir / model_id).rename(folder / "unregistered")

    async def score(self, job: ScoreJob, folder: Path) -> tuple[EpisodeScore, ...]:
        """Score held-out episodes without training; line n of the held-out file is `[n]`.

        Raises:
            TrainingError: the worker failed.
        """
        result = await self._run(job, folder, lambda progress: None)
        assert isinstance(result, ScoreResult)
        return result.scores

    async def give_back(self) -> None:
        """End a worker that stays loaded, and free its memory; one that is at work ends its job first."""
        await self._worker.give_back()

    async def _run(self, job: Job, folder: Path, on_progress: OnProgress) -> JobResult:
        if self._sharing is None:
            return await self._worker.run(job, folder, on_progress)
        return await self._sharing.during(lambda: self._worker.run(job, folder, on_progress))


def _train_job(request: TrainRequest, folder: Path, output: Path) -> TrainJob:
    incumbent = request.incumbent
    training_set = request.training_set
    return TrainJob(
        run_id=request.run_id,
        model_id=request.model_id,
        scenario=request.scenario,
        learn_model=request.learn_model,
        base_model=request.base_model,
        data_path=str(training_set.data_path.absolute()),
        held_out_path=str(training_set.held_out_path.absolute()) if training_set.held_out else None,
        incumbent_path=incumbent.adapter_path if incumbent else None,
        output_path=str(output),
        result_path=str(folder / "result.json"),
        settings=request.settings,
        episode_ids=training_set.episode_ids,
        seen=training_set.seen,
        data_digest=training_set.data_digest,
        data_reason=training_set.why_shape,
        dataset=training_set.dataset,
        parent_id=request.parent_id,
        selection=request.selection,
        base_facts_path=str(request.base_facts_path) if request.base_facts_path else None,
        left_out=training_set.left_out,
        forks=training_set.forks,
        start_path=request.start_path,
        metadata_path=_metadata_path(training_set.data_path),
        checkpoints_path=str(request.checkpoints_path) if request.checkpoints_path else None,
    )


def _metadata_path(data_path: Path) -> str | None:
    path = data_path.absolute().with_suffix(".meta.jsonl")
    return str(path) if path.is_file() else None


def _trained_model(request: TrainRequest, target: Path, result: TrainResult) -> TrainedModel:
    gguf_path = target / GGUF_FILE
    return TrainedModel(
        id=request.model_id,
        scenario=request.scenario,
        run_id=request.run_id,
        base_model=request.base_model,
        learn_model=request.learn_model,
        method=result.method,
        adapter_path=str(target),
        gguf_path=str(gguf_path) if gguf_path.is_file() else None,
        digest=result.digest,
        data_digest=request.training_set.data_digest,
        episode_ids=request.training_set.episode_ids,
        sample_count=request.training_set.num_rows,
        created_at_ms=now_ms(),
        selection=request.selection,
        parent_id=request.parent_id,
        metrics=result.metrics,
        seen=request.training_set.seen,
        method_reason=result.method_reason,
        started_from=result.started_from,
    )


def _model_of(job_path: Path) -> str | None:
    """The adapter that a training job was to make; None when that is not written there."""
    try:
        job = parse_job(job_path.read_bytes())
    except (FileNotFoundError, msgspec.DecodeError):
        return None
    return job.model_id if isinstance(job, TrainJob) else None


def check_free(target: Path) -> None:
    """Make sure that nothing has the name; raises TrainingError."""
    if target.exists():
        raise TrainingError(
            f"adapter folder {target} exists: expected a new name for each run",
            advice="adapters are never overwritten; move the folder away",
        )


def publish(unpublished: Path, target: Path) -> None:
    """Rename the finished folder to its name; the worker has synced what is in it."""
    target.parent.mkdir(parents=True, exist_ok=True)
    check_free(target)
    try:
        unpublished.rename(target)
        for folder in (target.parent, unpublished.parent):
            fd = os.open(folder, os.O_RDONLY)
            try:
                os.fsync(fd)
            finally:
                os.close(fd)
    except OSError as error:
        raise TrainingError(f"adapter {target.name} could not be published: {error}") from error
