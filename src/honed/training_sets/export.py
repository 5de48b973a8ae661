"""Episodes out of the store, one line each, in any shape; what a shape cannot hold is counted.

Episodes stream; for preference rows the ids of all groups are kept, and one group's attempts; of a learn model that
makes pairs itself their rows, for they are ordered across groups.
"""

from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Final, get_args

import msgspec

from honed.domain.episode import Episode
from honed.domain.outcome import Outcome, is_known, is_success
from honed.domain.training_data import ChatExample
from honed.domain.verdict import Told
from honed.errors import LearnError, ValidationError
from honed.learn_models import DpoLearnModel, LearnModel, convert, forks_of
from honed.ports import EpisodeFilter, EpisodeRow, Store
from honed.training_sets.formats import StoredEpisode, format_episode
from honed.training_sets.harvest import MAY_NOT_TEACH, NO_ROW
from honed.training_sets.held_out import HeldOutSplit
from honed.training_sets.rows import format_row
from honed.training_sets.shapes import (
    NO_FAILURE,
    NO_GROUP,
    NO_OUTCOME,
    NO_SUCCESS,
    SHAPES,
    InexpressibleError,
    ShapeName,
    pairs,
)

OWN: Final = "honed"
NO_PAIR: Final = "no other attempt to compare it with"
EXPORTS: Final = (OWN, *get_args(ShapeName))
"""Names of what `Export.lines` writes."""
_PAGE: Final = 16
_LISTED: Final = 1_000


@dataclass(slots=True)
class Export:
    """One export: what to write, and what came of it."""

    store: Store
    learn_model: LearnModel
    scenario: str
    shape: str
    """One of `EXPORTS`."""
    filter: EpisodeFilter
    split: HeldOutSplit | None = None
    """Tells which episodes a training has held out, for the own form says so; None: none."""
    num_episodes: int = 0
    """Episodes looked at so far."""
    num_rows: int = 0
    left_out: Counter[str] = field(default_factory=Counter)
    """Reason to number of attempts that are in no row."""
    num_forks: int = 0
    """Conversations of an attempt besides its longest one, which alone is written."""
    fault: str | None = None
    """The first episode that could not be converted, in its learn model's words."""

    async def lines(self) -> AsyncIterator[bytes]:
        """The rows, without newlines."""
        if self.shape == OWN:
            lines = self._own()
        elif self.shape == "preference":
            lines = self._preferences()
        else:
            lines = self._examples()
        async for line in lines:
            self.num_rows += 1
            yield line

    async def _own(self) -> AsyncIterator[bytes]:
        page: list[Episode] = []
        async for episode in self.store.query_episodes(self.filter):
            page.append(episode)
            if len(page) == _PAGE:
                async for line in self._whole(page):
                    yield line
                page = []
        async for line in self._whole(page):
            yield line

    async def _whole(self, page: list[Episode]) -> AsyncIterator[bytes]:
        provenance = await self.store.provenance([episode.id for episode in page])
        held_out = await self._held_out(page)
        for episode in page:
            self.num_episodes += 1
            told = provenance[episode.id]
            verdicts = [Told(said.outcome, said.source, said.version) for said in told.verdicts]
            # one may have come since the episode was read
            if stands := self.store.composition.stands(verdicts):
                episode = msgspec.structs.replace(episode, outcome=stands.outcome)
            yield format_episode(StoredEpisode(episode, told, episode.id in held_out))

    async def _held_out(self, page: list[Episode]) -> frozenset[str]:
        """The episodes of a page that a training has held out."""
        if self.split is None:
            return frozenset()
        names = {episode.id: self.split.names(episode) for episode in page}
        settled = await self.store.lessons.sides(
            sorted({n for each in names.values() for n in each})
        )
        return frozenset(id for id, each in names.items() if any(map(settled.get, each)))

    async def _examples(self) -> AsyncIterator[bytes]:
        write = next(write for name, write in SHAPES.items() if name == self.shape)
        actions = await self.store.distinct_actions(self.scenario)
        async for episode in self.store.query_episodes(self.filter):
            self.num_episodes += 1
            example = self._example(episode, actions)
            if example is None:
                continue
            try:
                line = write(example, episode.outcome)
            except (InexpressibleError, ValidationError) as error:
                self.left_out[_countable(error)] += 1
                continue
            yield line

    async def _preferences(self) -> AsyncIterator[bytes]:
        actions = await self.store.distinct_actions(self.scenario)
        if isinstance(self.learn_model, DpoLearnModel):
            async for row in self._pairs(self.learn_model, actions):
                yield row
            return
        for ids in (await self._comparable()).values():
            attempts: list[tuple[ChatExample, Outcome]] = []
            for episode_id in ids:
                episode = await self.store.get_episode(episode_id)
                example = self._example(episode, actions)
                if example is not None:
                    attempts.append((example, episode.outcome))
            rows, left_out = pairs(attempts)
            self.left_out.update(left_out)
            for row in rows:
                yield row

    async def _pairs(self, model: DpoLearnModel, actions: list[str]) -> AsyncIterator[bytes]:
        """The pairs that a model makes whose business they are, group by group."""
        groups: dict[str, list[str]] = {}
        async for row in self._listed():
            self.num_episodes += 1
            if row.group_id is None or not is_known(row.outcome):
                self.left_out[NO_GROUP if row.group_id is None else NO_OUTCOME] += 1
            else:
                groups.setdefault(row.group_id, []).append(row.id)
        rows: list[tuple[float, str, str, bytes]] = []
        paired: set[str] = set()
        for ids in groups.values():
            episodes = [await self.store.get_episode(episode_id) for episode_id in ids]
            for pair in model.build_pairs(episodes, available_actions=actions):
                line = format_row(model.convert_pair(pair))
                rows.append((-pair.quality_gap, pair.chosen.id, pair.rejected.id, line))
        rows.sort()  # as `build_pairs` does, over all groups
        for _, chosen, rejected, line in rows[: model.config.max_pairs]:
            paired |= {chosen, rejected}
            yield line
        if alone := sum(map(len, groups.values())) - len(paired):
            self.left_out[NO_PAIR] += alone

    async def _comparable(self) -> dict[str, list[str]]:
        """Ids of the episodes in groups with a success and a failure."""
        groups: dict[str, list[str]] = {}
        successes, failures = Counter[str](), Counter[str]()
        async for row in self._listed():
            self.num_episodes += 1
            if row.group_id is None or not is_known(row.outcome):
                self.left_out[NO_GROUP if row.group_id is None else NO_OUTCOME] += 1
                continue
            (successes if is_success(row.outcome) else failures)[row.group_id] += 1
            groups.setdefault(row.group_id, []).append(row.id)
        for group, ids in list(groups.items()):
            if not (successes[group] and failures[group]):
                self.left_out[NO_FAILURE if successes[group] else NO_SUCCESS] += len(ids)
                del groups[group]
        return groups

    async def _listed(self) -> AsyncIterator[EpisodeRow]:
        offset = 0
        while True:
            filter = msgspec.structs.replace(self.filter, offset=offset, limit=_LISTED)
            rows = await self.store.list_episodes(filter)
            for row in rows:
                yield row
            if len(rows) < _LISTED:
                return
            offset += _LISTED

    def _example(self, episode: Episode, actions: list[str]) -> ChatExample | None:
        """The episode's conversation; None, and counted, where there is none to write."""
        if not episode.may_teach:
            self.left_out[MAY_NOT_TEACH] += 1
            return None
        try:
            example = convert(self.learn_model, episode, available_actions=actions)
        except LearnError as error:
            self.left_out[NO_ROW] += 1
            self.fault = self.fault or str(error)
            return None
        if not isinstance(example, ChatExample):
            self.left_out[NO_ROW] += 1
            return None
        self.num_forks += sum(forks_of(self.learn_model, episode).values())
        return example


def _countable(error: InexpressibleError | ValidationError) -> str:
    return NO_ROW if isinstance(error, ValidationError) else str(error)
