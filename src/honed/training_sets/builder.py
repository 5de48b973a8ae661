"""Chooses the episodes that a supervised run learns from and writes them down.

Episodes stream through once, newest first; rows wait in a spool on disk, so memory holds one chunk
of episodes and a few numbers per row, however much there is. Converting and writing happen in a
thread, because the daemon's event loop has events to commit.
"""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final, Literal

import anyio.to_thread

from honed import log
from honed.domain.episode import Episode
from honed.domain.times import now_ms
from honed.domain.trained_model import Selection
from honed.errors import TrainingError
from honed.learn_models.learn_model import LearnModel
from honed.ports import EpisodeFilter, Store, TrainingSet
from honed.training_sets.harvest import NO_ROW, Harvest, Rules
from honed.training_sets.held_out import HeldOutSplit
from honed.training_sets.rows import RowSpool

CHUNK: Final = 32
"""Episodes converted in one go; a few hundred kilobytes of typical conversations."""


class SftTrainingSets:
    """Training sets of demonstrations: the newest successes, or as many episodes drawn blindly.

    Args:
        store: where the episodes are.
        learn_model: what built them, and converts them.
        scenario: whose episodes.
        secret: key of the held-out split.
        held_out_fraction: share of the groups that is never learned from, 0..1.
        max_episodes: newest episodes that a run looks at, held-out ones included.
        min_score: successes below it are not learned from.
        min_rows: a training set with fewer rows is refused.
        unlabelled: `train` takes episodes without an outcome as successes; `wait` leaves them out.
        seed: of the order of the rows and of the blind draw.
    """

    def __init__(
        self,
        store: Store,
        learn_model: LearnModel,
        *,
        scenario: str,
        secret: bytes,
        held_out_fraction: float = 0.2,
        max_episodes: int = 5_000,
        min_score: float = 0.0,
        min_rows: int = 20,
        unlabelled: Literal["wait", "train"] = "wait",
        seed: int = 3407,
    ) -> None:
        self._store = store
        self._max_episodes = max_episodes
        self._rules = Rules(
            learn_model=learn_model,
            scenario=scenario,
            split=HeldOutSplit(secret, held_out_fraction),
            min_score=min_score,
            min_rows=min_rows,
            unlabelled=unlabelled,
            seed=seed,
        )

    async def build(self, folder: Path, *, selection: Selection = "successes") -> TrainingSet:
        """Write `{learn_model}.jsonl`, `held_out.jsonl` and their metadata into `folder`.

        Rows are shuffled by the seed; held-out rows are in the order of their episodes' ids. The
        blind selection draws as many episodes as the other one has, whatever their outcome.

        Raises:
            EmptyDataError: no episodes, or too few rows; the message counts the reasons.
            TrainingError: the files cannot be written.
        """
        rules, name = self._rules, self._rules.learn_model.name
        # before the episodes are read, so that those that come in meanwhile count as new
        state = await self._store.start_scenario(rules.scenario, name, now_ms=now_ms())
        actions = await self._store.distinct_actions(rules.scenario)
        newest = EpisodeFilter(
            learn_model=name, scenario=rules.scenario, limit=self._max_episodes, newest_first=True
        )
        try:
            await anyio.to_thread.run_sync(lambda: folder.mkdir(parents=True, exist_ok=True))
            with RowSpool(folder) as spool:
                harvest = Harvest(rules, spool, selection, actions)
                async for chunk in _chunks(self._store.query_episodes(newest)):
                    await anyio.to_thread.run_sync(harvest.add, chunk)
                self._report(harvest)
                return await anyio.to_thread.run_sync(harvest.write, folder, state.episode_count)
        except OSError as error:
            raise TrainingError(
                f"training files in {folder} cannot be written: {error.strerror}"
            ) from error

    def _report(self, harvest: Harvest) -> None:
        if harvest.fault is not None:
            log.get(scenario=self._rules.scenario).warning(
                log.EPISODE_REFUSED,
                learn_model=self._rules.learn_model.name,
                count=harvest.left_out[NO_ROW],
                first=str(harvest.fault),
            )


async def _chunks(episodes: AsyncIterator[Episode]) -> AsyncIterator[list[Episode]]:
    chunk: list[Episode] = []
    async for episode in episodes:
        chunk.append(episode)
        if len(chunk) == CHUNK:
            yield chunk
            chunk = []
    if chunk:
        yield chunk
