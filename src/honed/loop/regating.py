"""Candidates that wait for more evidence: scored and judged again when the held-out set has grown.

What is held out is a fixed share of the episodes, so its growth is that of all of them. Only the newest candidate of a
line waits: the next one has learned from more, and replaces it.
"""

import shutil
from math import ceil
from pathlib import Path
from typing import Final

import anyio.to_thread

from honed import log
from honed.domain.job import ScoreJob, TrainSettings
from honed.domain.trained_model import TrainedModel
from honed.errors import HonedError
from honed.loop.in_service import Announce, InService
from honed.loop.judging import decide, offer
from honed.ports import Gate, Processor, Store, TrainingSets

GROWTH: Final = 1.25
"""Times the episodes at its last verdict. Each look costs some of what may pass by chance, so looks must be few."""

_UNTIL_A_RUN_ENDS: Final = 1 << 62
"""Episodes: more than there will ever be."""


class Regating:
    """Judges the newest candidate of a line again."""

    def __init__(
        self,
        store: Store,
        training_sets: TrainingSets,
        processor: Processor,
        gate: Gate,
        in_service: InService,
        *,
        scenario: str,
        learn_model: str,
        base_model: str,
        settings: TrainSettings,
        runs_dir: Path,
        announce: Announce,
    ) -> None:
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
        self._announce = announce
        self._log = log.get(scenario=scenario)
        self._due_at: int | None = None
        """Number of episodes before which nothing is due; None: the store has to be asked."""

    def look_again(self) -> None:
        """There may be another candidate: a run has ended."""
        self._due_at = None

    @property
    def may_wait(self) -> bool:
        """Whether a candidate may wait; when not, nobody need count episodes for it."""
        return self._due_at != _UNTIL_A_RUN_ENDS

    async def waiting(self, episode_count: int) -> TrainedModel | None:
        """The candidate that is due, at this number of episodes."""
        if self._in_service.base_problem:
            return None
        if self._due_at is not None and episode_count < self._due_at:
            return None
        candidate = await self._newest()
        verdict = candidate.gate if candidate else None
        if candidate is None or verdict is None or verdict.decision != "not_enough_evidence":
            self._due_at = _UNTIL_A_RUN_ENDS
            return None
        due_at = ceil(GROWTH * (verdict.episode_count or episode_count))
        is_due = episode_count >= due_at
        # whatever comes of it, the next attempt needs as much more again
        self._due_at = ceil(GROWTH * episode_count) if is_due else due_at
        serving = await self._in_service.current(self._learn_model) if is_due else None
        if serving is not None and serving.id == candidate.id:
            return None  # somebody has put it into service without a pass: it does as itself
        return candidate if is_due else None

    async def judge_again(self, candidate: TrainedModel) -> TrainedModel | None:
        """Score and judge it, and offer it to service; None when that did not work, which is told."""
        folder = self._runs_dir / f"again-{candidate.id}"
        try:
            return await self._judge(candidate, folder)
        except Exception as error:  # as with runs, nothing of this may end the daemon; it waits on
            is_known = isinstance(error, HonedError)
            self._log.warning(
                log.GATE_FAILED, model_id=candidate.id, error=str(error), exc_info=not is_known
            )
            return None
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.to_thread.run_sync(lambda: shutil.rmtree(folder, ignore_errors=True))

    async def _judge(self, candidate: TrainedModel, folder: Path) -> TrainedModel:
        # whoever looks settles nothing: nothing is going to be learned from these files
        training_set = await self._training_sets.build(folder, look=lambda *seen: None)
        incumbent = await self._in_service.current(self._learn_model)
        scores = await self._processor.score(
            ScoreJob(
                base_model=self._base_model,
                held_out_path=str(training_set.held_out_path.absolute()),
                candidate_path=candidate.adapter_path,
                incumbent_path=incumbent.adapter_path if incumbent else None,
                result_path=str((folder / "result.json").absolute()),
                max_length=self._settings.max_length,
                device=self._settings.device,
                threads=self._settings.threads,
            ),
            folder,
        )
        judged = await decide(
            self._gate,
            self._store,
            candidate,
            training_set,
            scores,
            incumbent_id=incumbent.id if incumbent else None,
            announce=self._announce,
        )
        await offer(self._in_service, judged, self._announce)
        return judged

    async def _newest(self) -> TrainedModel | None:
        """The newest candidate of the line, unless it learned on another base."""
        for model in await self._store.list_models(self._scenario):
            if (model.learn_model, model.selection) == (self._learn_model, "successes"):
                is_there = await anyio.Path(model.adapter_path).exists()
                return model if is_there and model.base_model == self._base_model else None
        return None
