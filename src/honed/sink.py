"""The one intake: lines become records, records join groups, ended groups become episodes.

`ingest` is the hot path and only adds; `run` is the closing loop, which sleeps until a group can be
due. Groups live in the store, so an episode may span batches and restarts, and a fault of a learn
model costs no record.
"""

import hashlib
import math
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from typing import Final, get_args

import anyio
import anyio.lowlevel
import msgspec
from msgspec import Struct

from honed import log
from honed.domain import times
from honed.domain.episode import Episode
from honed.domain.events import OutcomeEvent, parse_event
from honed.domain.records import Record, record_from_event
from honed.errors import StoreError, ValidationError
from honed.learn_models.learn_model import LearnModel
from honed.ports import (
    Closing,
    Disposition,
    GroupMark,
    IncomingEvent,
    Ingested,
    OpenGroup,
    Rejected,
    Store,
)

_RECORD_TYPES: Final = {cls: str(cls.__struct_config__.tag) for cls in get_args(Record)}
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


class SinkStats(Struct, frozen=True, kw_only=True):
    """Counts for `honed status`; the first two are the store's."""

    record_count: int
    episode_count: int
    rejected: int
    """Malformed or conflicting lines since the process started."""
    without_episode: int
    """Groups that were closed without an episode, since the process started."""
    refused_groups: int
    """Groups that a learn model could not read, waiting for their next try."""


class Sink:
    """`ports.DataSink` and the closing loop, for one daemon.

    Args:
        store: where everything goes.
        learn_models: each of them groups the same records in its own way.
        scenario: what an episode belongs to when its records do not say.
        secret: keys the digests by which repeated events are recognised, at most 64 bytes.
        settle: how long an ended group waits for records that are still on their way.
        idle: a group without a new record for this long is closed as it is; 0 means never.
        on_episode: called after the commit of each new episode.
        now_ms: the clock, Unix milliseconds.
    """

    def __init__(
        self,
        store: Store,
        learn_models: Sequence[LearnModel],
        *,
        scenario: str,
        secret: bytes,
        settle: timedelta,
        idle: timedelta,
        on_episode: Callable[[Episode], None],
        now_ms: Callable[[], int] = times.now_ms,
    ) -> None:
        self._store = store
        self._models = {model.name: model for model in learn_models}
        self._scenario = scenario
        self._secret = secret
        self._settle_ms = round(settle.total_seconds() * 1000)
        self._idle_ms = round(idle.total_seconds() * 1000)
        self._on_episode = on_episode
        self._now_ms = now_ms
        self._log = log.get(scenario=scenario)
        self._wake = anyio.Event()
        self._due_ms = math.inf
        """When the closing loop has work, as far as is known."""
        self._ends_group = False
        """Whether the batch that is being read may make a group due."""
        self._held: dict[tuple[str, str], int] = {}
        """Groups that were held back, and how often in a row a learn model failed on them."""
        self._num_rejected = 0
        self._num_without_episode = 0

    # ------------------------------------------------------------ lines in

    async def ingest(self, lines: Sequence[bytes]) -> Ingested:
        """Validate and store events, one JSON object a line; returns after the commit.

        Raises:
            StoreError: nothing of the batch was acknowledged; send it again.
        """
        now_ms = self._now_ms()
        events, rejected = self._read(lines, now_ms)
        ends_group, self._ends_group = self._ends_group, False
        dispositions = await self._store.append(events) if events else []
        if "conflict" in dispositions:
            rejected = sorted(rejected + _conflicts(lines, events, rejected, dispositions))
        self._num_rejected += len(rejected)
        self._note_due(now_ms, ends_group=ends_group)
        return Ingested(
            dispositions.count("stored"), dispositions.count("duplicate"), tuple(rejected)
        )

    def _read(
        self, lines: Sequence[bytes], now_ms: int
    ) -> tuple[list[IncomingEvent], list[Rejected]]:
        events: list[IncomingEvent] = []
        rejected: list[Rejected] = []
        for position, line in enumerate(lines):
            try:
                events.append(self._incoming(line, now_ms))
            except ValidationError as error:
                rejected.append(Rejected(position, "invalid", str(error), error.path))
        return events, rejected

    def _incoming(self, line: bytes, now_ms: int) -> IncomingEvent:
        # The decoder skips unknown keys without looking at their encoding.
        if not line.isascii():
            _check_utf8(line)
        event = parse_event(line)
        try:
            record = record_from_event(event, received_ms=now_ms)
        except (msgspec.DecodeError, RecursionError) as error:
            raise ValidationError(f"$.stats_json: {error}", path="$.stats_json") from None
        receipt_id = getattr(event, "receipt_id", None)
        # A verdict on a call goes where the call went; only the store knows where that is.
        follows_call = isinstance(event, OutcomeEvent) and receipt_id and event.task_id is None
        if follows_call:
            self._ends_group = True
        return IncomingEvent(  # by position: names cost 0.4 us on the hot path
            event.event_id,
            hashlib.blake2b(line, digest_size=16, key=self._secret).digest(),
            _RECORD_TYPES[type(record)],
            event.task_id,
            event.group_id,
            event.session_id,
            receipt_id,
            record.worker_id,
            now_ms,
            line,
            () if follows_call else self._marks(record),
        )

    def _marks(self, record: Record) -> tuple[GroupMark, ...]:
        marks: tuple[GroupMark, ...] = ()
        for name, model in self._models.items():
            try:
                key = model.group_key(record)
                if key is None:
                    continue
                closes = model.is_closing(record)
            except Exception as error:  # a learn model's fault must not cost the record
                self._log.error(
                    log.EPISODE_REFUSED,
                    learn_model=name,
                    event_id=record.event_id,
                    error=f"{type(error).__name__}: {error}",
                )
                continue
            marks += (GroupMark(name, key, closes),)
            if closes or (self._held and (name, key) in self._held):
                self._ends_group = True
        return marks

    def _note_due(self, now_ms: int, *, ends_group: bool) -> None:
        """Tell the closing loop when a batch makes a group due."""
        if ends_group:
            due_ms: float = now_ms + self._settle_ms
        else:
            due_ms = now_ms + self._idle_ms if self._idle_ms else math.inf
        if due_ms < self._due_ms:
            self._due_ms = due_ms
            self._wake.set()

    # ------------------------------------------------------------ episodes out

    async def run(self) -> None:
        """Close groups as they fall due, also those of a former process; until cancelled."""
        faults = 0
        while True:
            self._due_ms = math.inf  # from here on `ingest` lowers it again
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

    async def stats(self) -> SinkStats:
        """Counts for `honed status`."""
        stats = await self._store.stats()
        return SinkStats(
            record_count=stats.num_records,
            episode_count=stats.num_episodes,
            rejected=self._num_rejected,
            without_episode=self._num_without_episode,
            refused_groups=sum(faults > 0 for faults in self._held.values()),
        )

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
            self._num_without_episode += not closing.episodes
            for episode in closing.episodes:
                self._announce(episode)

    def _build(self, group: OpenGroup, records: Sequence[Record]) -> list[Episode] | None:
        """The group's episodes; None when it should wait for more records.

        A verdict may overtake the records that it is about, so a group without an episode stays
        open until it is idle. So does one whose learn model is not configured now.
        """
        now_ms = self._now_ms()
        is_idle = bool(self._idle_ms) and group.last_ms <= now_ms - self._idle_ms
        model = self._models.get(group.learn_model)
        if model is None or not (is_idle or model.is_complete(records)):
            return None
        episodes = model.build_episodes(records, now_ms=now_ms, final=is_idle)
        if not episodes and not is_idle:
            return None
        return [self._in_scenario(episode) for episode in episodes]

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


def _conflicts(
    lines: Sequence[bytes],
    events: Sequence[IncomingEvent],
    rejected: Sequence[Rejected],
    dispositions: Sequence[Disposition],
) -> list[Rejected]:
    """The lines that were refused because their id is known with other content."""
    invalid = {line.position for line in rejected}
    positions = [position for position in range(len(lines)) if position not in invalid]
    return [
        Rejected(
            position,
            "conflict",
            f"event_id {event.event_id} is stored already, with other content",
            "$.event_id",
        )
        for position, event, disposition in zip(positions, events, dispositions, strict=True)
        if disposition == "conflict"
    ]


def _backoff_ms(faults: int) -> int:
    return round(1000 * min(_RETRY_MAX_S, _RETRY_FIRST_S * 2.0 ** min(faults - 1, 20)))


def _check_utf8(line: bytes) -> None:
    try:
        line.decode()
    except UnicodeDecodeError as error:
        raise ValidationError(
            f"the line is not UTF-8: {error.reason} at byte {error.start}"
        ) from None
