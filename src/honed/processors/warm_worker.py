"""A worker process that stays loaded between jobs; each job is done by a fork of it (`honed.worker --warm`).

One job at a time. A job that is cancelled or hangs takes the whole process with it, as it would without this; so does
another base model. The process ends by itself when no job comes for a while, and with this one.
"""

import contextlib
import subprocess
import sys
from datetime import timedelta
from pathlib import Path
from typing import Final, NamedTuple

import anyio
import msgspec
from anyio.abc import Process

from honed import log
from honed.domain.job import Job, JobResult, Progress, ScoreJob, TrainJob
from honed.domain.warm import Ended, Order
from honed.ports import OnProgress
from honed.processors.worker_process import (
    DEFAULT_GRACE,
    DEFAULT_SILENCE,
    end_worker,
    messages,
    prepare_folder,
    result_of,
    run_job,
    silent,
    start_worker,
)

_GONE: Final = (anyio.BrokenResourceError, anyio.ClosedResourceError)


class _Warm(NamedTuple):
    process: Process
    base_model: str


class _NotTakenError(Exception):
    """The process ended before it read the order: it had waited long enough."""


class WarmWorker:
    """Does jobs like `run_job`, the later ones without waiting for imports and base model."""

    def __init__(
        self,
        keep_warm: timedelta,
        *,
        python: str = sys.executable,
        stop_grace: timedelta = DEFAULT_GRACE,
        silence_limit: timedelta = DEFAULT_SILENCE,
    ) -> None:
        """Start nothing yet.

        Args:
            keep_warm: how long the process stays without a job; zero makes a new one for each.
            python: the interpreter that has the training stack.
            stop_grace: how long a worker that is told to end may take to end by itself.
            silence_limit: a worker that writes no line for so long counts as hung and is ended.
        """
        self._keep_warm = keep_warm
        self._python = python
        self._stop_grace = stop_grace
        self._silence_limit = silence_limit
        self._warm: _Warm | None = None
        self._turn = anyio.Lock()

    async def run(self, job: Job, folder: Path, on_progress: OnProgress) -> JobResult:
        """Do a job and return its result; see `run_job`.

        Raises:
            TrainingError: the worker says why it failed, by the class where there is one for it.
            ProcessFailedError: it ended without a result, or was silent for too long.
        """
        if not self._keep_warm or not isinstance(job, TrainJob | ScoreJob):
            return await run_job(
                job,
                folder,
                on_progress,
                python=self._python,
                stop_grace=self._stop_grace,
                silence_limit=self._silence_limit,
            )
        async with self._turn:
            job_path, log_path = prepare_folder(job, folder)
            order = Order(job_path=str(job_path), log_path=str(log_path))
            try:
                status = await self._do(order, job.base_model, log_path, on_progress)
            except _NotTakenError:
                status = await self._do(order, job.base_model, log_path, on_progress)
            return result_of(status, Path(job.result_path), log_path)

    async def give_back(self) -> None:
        """End the process, and with it all that it holds; at once when no job runs, else after it."""
        async with self._turn:
            await self._end()

    async def _do(
        self, order: Order, base_model: str, log_path: Path, on_progress: OnProgress
    ) -> int | None:
        """Have an order done; the exit status of the job's process.

        Raises:
            _NotTakenError: the process had just ended; another one has to be asked.
        """
        is_new = not self._is_warm_for(base_model)
        if is_new:
            await self._end()
            self._warm = await self._start(base_model, log_path)
        assert self._warm is not None
        process = self._warm.process
        status: int | None = None
        has_ended = is_taken = is_silent = False
        try:
            assert process.stdin is not None
            with contextlib.suppress(*_GONE):
                await process.stdin.send(msgspec.json.encode(order) + b"\n")
            async with contextlib.aclosing(messages(process, self._silence_limit)) as answers:
                async for answer in answers:
                    is_taken = True
                    if isinstance(answer, Progress):
                        on_progress(answer)
                    elif isinstance(answer, Ended):
                        has_ended, status = True, answer.status
                        break
        finally:
            if not has_ended:
                is_silent = process.returncode is None
                await self._end()
        if has_ended:
            return status
        if is_silent:
            raise silent(self._silence_limit, log_path)
        if not is_taken and not is_new:
            raise _NotTakenError
        return process.returncode

    def _is_warm_for(self, base_model: str) -> bool:
        return (
            self._warm is not None
            and self._warm.process.returncode is None
            and self._warm.base_model == base_model
        )

    async def _start(self, base_model: str, log_path: Path) -> _Warm:
        seconds = f"{self._keep_warm.total_seconds():g}"
        command = [self._python, "-m", "honed.worker", "--warm", seconds]
        process = await start_worker(command, log_path, stdin=subprocess.PIPE)
        log.get(base_model=base_model).info(log.WORKER_STARTED, worker_pid=process.pid)
        return _Warm(process, base_model)

    async def _end(self) -> None:
        if self._warm is None:
            return
        process, self._warm = self._warm.process, None
        await end_worker(process, self._stop_grace)
        log.get().info(log.WORKER_ENDED, status=process.returncode)
