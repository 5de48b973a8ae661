"""Ended groups become episodes: the closing loop, which sleeps until a group can be due.

Groups live in the store, so an episode may span batches and restarts, and a fault of a learn model
costs no record.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import timedelta
from typing import Final

import anyio
import anyio.lowlevel
import msgspec

from honed import log
from honed.domain.episode import Episode, as_episode
from honed.domain.records import Record
from honed.domain.reports import once
from honed.errors import StoreError
from honed.learn_models.learn_model import LearnModel
from honed.ports import Closing, OpenGroup, Store

_PAGE: Final = 100
"""Groups that are closed in one transaction, at most."""
_PAGE_RECORDS: Final = 1_000
"""Records that are read for one transaction; a group with more is closed alone."""
_GRAIN_S: Final = 0.05
"""The closing loop wakes at most this often: groups that fall due together are closed together."""
_RETRY_FIRST_S: Final = 1.0
_RETRY_MAX_S: Final = 300.0
_LOOK_AGAIN_MS: Final = 3_600_000
"""When a group is looked at again that nothing but a record, or another config, can complete."""


class GroupCloser:
    """The closing loop of one sink; arguments as there, `learn_models` by name."""

    def __init__(
        self,
        store: Store,
        learn_models: Mapping[str, LearnModel],
        *,
        scenario: str,
        settle: timedelta,
        idle: timedelta,
        on_episode: Callable[[Episode], None],
        now_ms: Callable[[], int],
    ) -> None:
        self._store = store
        self._models = learn_models
        self._scenario = scenario
        self._settle_ms = round(settle.total_seconds() * 1000)
        self._idle_ms = round(idle.total_seconds() * 1000)
        self._on_episode = on_episode
        self._now_ms = now_ms
        self._log = log.get(scenario=scenario)
        self._wake = anyio.Event()
        self._due_ms = math.inf
        """When there is work, as far as is known."""
        self._held: dict[tuple[str, str], int] = {}
        """Groups that were held back, and how often in a row a learn model failed on them."""
        self.num_without_episode = 0
        self.num_joined = 0
        """Reports that told of a call which another report in the same episode tells of."""
        self._joined: dict[int, int] = {}
        """The same, of groups that are being closed."""

    @property
    def num_refused(self) -> int:
        """Groups that a learn model could not read, waiting for their next try."""
        return sum(faults > 0 for faults in self._held.values())

    def is_held(self, learn_model: str, key: str) -> bool:
        """Whether the group was looked at and left open; a new record may complete it."""
        return bool(self._held) and (learn_model, key) in self._held

    def note(self, now_ms: int, *, ends_group: bool) -> None:
        """Hear of a committed batch, which may make a group due."""
        if ends_group:
            due_ms: float = now_ms + self._settle_ms
        else:
            due_ms = now_ms + self._idle_ms if self._idle_ms else math.inf
        if due_ms < self._due_ms:
            self._due_ms = due_ms
            self._wake.set()

    async def run(self) -> None:
        """Close groups as they fall due, also those of a former process; until cancelled."""
        faults = 0
        while True:
            self._due_ms = math.inf  # from here on `note` lowers it again
            try:
                await self._close_due()
                next_ms = await self._store.next_due_ms(
                    settle_ms=self._settle_ms, idle_ms=self._idle_ms
                )
                faults = 0
            except StoreError as error:
                faults += 1
                next_ms = self._now_ms() + _backoff_ms(faults)
                self._log.error(log.BATCH_FAILED, error=str(error), advice=error.advice)
            if next_ms is not None:
                self._due_ms = min(self._due_ms, next_ms)
            await anyio.sleep(_GRAIN_S)
            await self._until_due()

    async def _until_due(self) -> None:
        while (left_ms := self._due_ms - self._now_ms()) > 0:
            self._wake = anyio.Event()
            with anyio.move_on_after(left_ms / 1000):
                await self._wake.wait()

    async def _close_due(self) -> None:
        """Close every group that is due now, or hold it back."""
        while True:
            now_ms = self._now_ms()
            groups = await self._store.open_groups(
                settled_before_ms=now_ms - self._settle_ms,
                idle_before_ms=now_ms - self._idle_ms if self._idle_ms else -1,
                now_ms=now_ms,
                limit=_PAGE,
            )
            for page in _pages(groups):
                await self._close_page(page)
            if len(groups) < _PAGE:
                return

    async def _close_page(self, page: Sequence[OpenGroup]) -> None:
        ready: list[tuple[OpenGroup, Closing]] = []
        waiting: list[OpenGroup] = []
        for group, records in await self._read_page(page):
            # The store shields its transactions: without this a stop would wait for the backlog.
            await anyio.lowlevel.checkpoint()
            try:
                episodes = self._build(group, records)
            except Exception as error:  # a learn model's fault ends neither the loop nor the page
                await self._hold_faulty(group, error)
                continue
            if episodes is None:
                waiting.append(group)
            else:
                ready.append((group, Closing(group.id, tuple(episodes), len(records))))
        if waiting:
            await self._hold(waiting, self._idle_ms or _LOOK_AGAIN_MS)
        if ready:
            await self._close(ready)

    async def _read_page(self, page: Sequence[OpenGroup]) -> list[tuple[OpenGroup, list[Record]]]:
        """The groups with their records; one with a broken record is held back and left out."""
        await anyio.lowlevel.checkpoint()
        try:
            records = await self._store.group_records([group.id for group in page])
        except StoreError as error:
            if len(page) > 1:
                return [found for group in page for found in await self._read_page([group])]
            await self._hold_faulty(page[0], error)
            return []
        return [(group, records[group.id]) for group in page]

    async def _close(self, ready: Sequence[tuple[OpenGroup, Closing]]) -> None:
        """Close groups in one transaction; if that fails, each alone, so that one holds up none."""
        await anyio.lowlevel.checkpoint()
        try:
            closed = await self._store.close_groups([closing for _, closing in ready])
        except StoreError as error:
            if len(ready) == 1:  # when it is the store that is broken, this raises again
                await self._hold_faulty(ready[0][0], error)
            else:
                for one in ready:
                    await self._close([one])
            return
        done = [pair for pair in ready if pair[0].id in closed]  # the others have grown: due again
        for group, closing in done:
            self._held.pop((group.learn_model, group.key), None)
            self.num_without_episode += not closing.episodes
            self.num_joined += self._joined.pop(group.id, 0)
            for episode in closing.episodes:
                self._announce(episode)

    def _build(self, group: OpenGroup, records: Sequence[Record]) -> list[Episode] | None:
        """The group's episodes; None when it should wait for more records.

        A verdict may overtake the records that it is about, so a group without an episode stays
        open until it is idle. So does one whose learn model is not configured now.
        """
        now_ms = self._now_ms()
        reported, records = len(records), once(records)
        if reported > len(records):
            self._joined[group.id] = reported - len(records)
        is_idle = bool(self._idle_ms) and group.last_ms <= now_ms - self._idle_ms
        model = self._models.get(group.learn_model)
        if model is None or not (is_idle or model.is_complete(records)):
            return None
        episodes = model.build_episodes(records, now_ms=now_ms, final=is_idle)
        if not episodes and not is_idle:
            return None
        return [self._in_scenario(as_episode(episode)) for episode in episodes]

    def _announce(self, episode: Episode) -> None:
        self._log.debug(
            log.EPISODE_CREATED,
            episode_id=episode.id,
            learn_model=episode.learn_model,
            outcome=type(episode.outcome).__name__.lower(),
            num_records=len(episode.records),
        )
        self._on_episode(episode)

    async def _hold_faulty(self, group: OpenGroup, error: Exception) -> None:
        key = (group.learn_model, group.key)
        faults = self._held[key] = self._held.get(key, 0) + 1
        self._log.error(
            log.EPISODE_REFUSED,
            learn_model=group.learn_model,
            group=group.key,
            error=f"{type(error).__name__}: {error}",
            retry_s=_backoff_ms(faults) / 1000,
        )
        await self._hold([group], _backoff_ms(faults))

    async def _hold(self, groups: Sequence[OpenGroup], wait_ms: int) -> None:
        for group in groups:
            self._held.setdefault((group.learn_model, group.key), 0)
        ids = [group.id for group in groups]
        await self._store.hold_groups(ids, until_ms=self._now_ms() + wait_ms)

    def _in_scenario(self, episode: Episode) -> Episode:
        if episode.metadata.scenario is not None:
            return episode
        metadata = msgspec.structs.replace(episode.metadata, scenario=self._scenario)
        return msgspec.structs.replace(episode, metadata=metadata)


def _pages(groups: Sequence[OpenGroup]) -> Iterator[list[OpenGroup]]:
    """Cut into what is read and closed together, so that memory does not follow the page."""
    page: list[OpenGroup] = []
    num_records = 0
    for group in groups:
        if page and num_records + group.num_records > _PAGE_RECORDS:
            yield page
            page, num_records = [], 0
        page.append(group)
        num_records += group.num_records
    if page:
        yield page


def _backoff_ms(faults: int) -> int:
    return round(1000 * min(_RETRY_MAX_S, _RETRY_FIRST_S * 2.0 ** min(faults - 1, 20)))
