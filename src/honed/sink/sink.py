"""Lines become records: redacted, validated, marked with the groups they join, committed together.

The hot path: it only adds. What becomes of the groups is `closing`'s.
"""

import contextlib
import hashlib
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from typing import Any, Final

import msgspec
from msgspec import Struct

from honed import log
from honed.domain import times
from honed.domain.consent import Consent
from honed.domain.episode import Episode
from honed.domain.events import Event, LearnStatsEvent, OutcomeEvent, parse_event
from honed.domain.records import RECORD_TYPES, Arrival, record_from_event
from honed.errors import NotFoundError, StoreError, ValidationError
from honed.learn_models.learn_model import LearnModel
from honed.ports import (
    Attempts,
    Disposition,
    FilePosition,
    GroupMark,
    IncomingEvent,
    Ingested,
    Provenance,
    Rejected,
    Store,
)
from honed.redaction import Redaction
from honed.sink.closing import GroupCloser
from honed.sink.feedback import Became, Reach, Taken, format_feedback, read_feedback
from honed.sink.redacting import Looked, Redacting

_EVERYBODY: Final = Consent()
_NO_REDACTION: Final = Redaction()
_NOTHING: Final[Mapping[int, Looked]] = {}

_BY_BYTES: Final = ": the bytes of the two are compared, spacing included"

_fields: Final = msgspec.json.Decoder(dict[str, msgspec.Raw])
"""Values stay as they were sent: what the event's type does not know may be more than Python reads."""


class SinkCounts(Struct, frozen=True, kw_only=True):
    """What the sink could not use, since the process started."""

    rejected: int
    """Malformed or conflicting lines."""
    withheld: int
    """Events that were not stored because the operator's rules drop them."""
    groups_without_episode: int
    """Groups that were closed without an episode."""
    refused_groups: int
    """Groups that a learn model could not read, waiting for their next try."""
    joined_reports: int
    """Reports of a model call that another report in the same episode tells of, too."""
    redacted: dict[str, int] | None
    """What was taken out of lines, by kind, of repeats as well; None when nothing is looked for."""


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
        consent: who must not be learned from, and whose content is not trusted.
        redaction: takes out of a line what must not be kept; without it lines are kept as they are.
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
        consent: Consent = _EVERYBODY,
        redaction: Redaction = _NO_REDACTION,
        now_ms: Callable[[], int] = times.now_ms,
    ) -> None:
        self._store = store
        self._redacting = Redacting(redaction)
        self.forms = self._redacting.forms
        """Under which ids something may be stored that is asked for by one from outside."""
        self._consent = self._redacting.turned(consent) if consent else None
        self._models = {model.name: model for model in learn_models}
        self._hash = hashlib.blake2b(digest_size=16, key=secret)
        self._now_ms = now_ms
        self._log = log.get(scenario=scenario)
        self._closer = GroupCloser(
            store,
            self._models,
            scenario=scenario,
            settle=settle,
            idle=idle,
            on_episode=on_episode,
            now_ms=now_ms,
        )
        self._ends_group = False
        """Whether the batch that is being read may make a group due."""
        self._num_rejected = 0
        self._num_withheld = 0
        self.problem: str | None = None
        """Why the last batch could not be stored, and what to do; None when it was."""

    async def run(self) -> None:
        """Close groups as they fall due, also those of a former process; until cancelled."""
        await self._closer.run()

    def counts(self) -> SinkCounts:
        """What could not be used so far."""
        return SinkCounts(
            rejected=self._num_rejected,
            withheld=self._num_withheld,
            groups_without_episode=self._closer.num_without_episode,
            refused_groups=self._closer.num_refused,
            joined_reports=self._closer.num_joined,
            redacted=self._redacting.counts,
        )

    async def ingest(
        self, lines: Sequence[bytes], *, position: FilePosition | None = None
    ) -> Ingested:
        """Validate and store events, one JSON object a line; returns after the commit.

        A file's `position` is committed with the events that were read from it.

        Raises:
            StoreError: nothing of the batch was acknowledged; send it again.
        """
        looked = await self._redacting.kept_of_long(lines)
        return await self._ingest(lines, looked, position)

    async def _ingest(
        self,
        lines: Sequence[bytes],
        looked: Mapping[int, Looked],
        position: FilePosition | None = None,
    ) -> Ingested:
        now_ms = self._now_ms()
        events, positions, rejected = self._read(lines, now_ms, looked)
        ends_group, self._ends_group = self._ends_group, False
        try:
            dispositions = await self._store.append(events, position=position)
        except StoreError as error:
            self.problem = "; ".join(filter(None, (str(error), error.advice)))
            raise
        if events:
            self.problem = None
        if "conflict" in dispositions or "refused" in dispositions:
            rejected = sorted(rejected + _refused(events, positions, dispositions))
        self._num_rejected += len(rejected)
        self._closer.note(now_ms, ends_group=ends_group)
        return Ingested(
            dispositions.count("stored"), dispositions.count("duplicate"), tuple(rejected)
        )

    def reject(self, count: int) -> None:
        """Count lines that a source has refused before they came here."""
        self._num_rejected += count

    def clean(self, text: str) -> str:
        """A text that quotes what came in, without what must not be kept: for log lines and answers."""
        return self._redacting.clean(text)

    async def feedback(self, told: dict[str, Any]) -> Taken:
        """Take the fields of an outcome event as `ingest` does, and say which episodes it is about.

        Raises:
            StoreError: it was not stored.
        """
        line = format_feedback(told)
        try:
            event, kept, known_before = await self._reached(line)
        except ValidationError as error:
            return Taken(event_id=None, became="refused", message=str(error))
        done = await self._ingest([line], {0: kept})
        if done.rejected:
            return Taken(
                event_id=event.event_id, became="refused", message=done.rejected[0].message
            )
        became: Became = "stored" if done.stored else "known" if done.duplicates else "withheld"
        if became == "withheld":
            return Taken(event_id=event.event_id, became=became)
        episode_ids, _ = await self._attempts(event)
        reach: Reach = "open" if known_before.num_open else "nothing"
        return Taken(
            event_id=event.event_id,
            became=became,
            reach="episodes" if episode_ids else reach,
            episode_ids=episode_ids,
        )

    async def _reached(self, line: bytes) -> tuple[OutcomeEvent, bytes, Attempts]:
        """What was told, its line as it is kept, and the attempts that it is about.

        The ids that it names are kept in the form in which the store knows them, else in today's.

        Raises:
            ValidationError: it is no outcome event.
        """
        told = msgspec.json.decode(line)
        clean = msgspec.json.decode(self._redacting.kept(line))
        found = []
        for ids in self._redacting.forms_of_names(told):
            event, kept = read_feedback(clean | ids)
            attempts = await self._attempts(event)
            found.append((event, kept, attempts))
            if attempts.episode_ids or attempts.num_open:
                return found[-1]
        return found[0]

    async def _attempts(self, event: OutcomeEvent) -> Attempts:
        """Those that the outcome goes to; before it is stored: for that makes a group for its calls."""
        if event.receipt_id and event.task_id is None:
            return await self._store.attempts((), event.receipt_id)
        keys = {name: model.group_key(event) for name, model in self._models.items()}
        named = [(name, key) for name, key in keys.items() if key]
        if event.episode_id and not named:
            return await self._one(event.episode_id)
        return await self._store.attempts(named, group_id=event.group_id)

    async def _one(self, episode_id: str) -> Attempts:
        """The episode, if there is one of that id."""
        try:
            return Attempts(((await self._store.get_episode(episode_id)).id,), 0)
        except NotFoundError:
            return Attempts((), 0)

    async def adopt(self, episode: Episode, provenance: Provenance) -> bool:
        """Store an episode of another data folder as it is; False if the store has it.

        Its events keep their bytes and their times, so that what arrives here again is a repeat.

        Raises:
            ValidationError: an event cannot be read, or is stored already with other content.
            StoreError: nothing of it was stored.
        """
        episode, kept = self._redacting.episode(episode, provenance)
        read = [
            self._incoming(told.body, told.received_ms, clean.body)
            for told, clean in zip(provenance.events, kept.events, strict=True)
        ]
        lines = [event for event in read if event is not None]
        self._ends_group = False  # the episode is closed: no group falls due
        return await self._store.add_episode(episode, lines, verdicts=kept.verdicts)

    def _read(
        self, lines: Sequence[bytes], now_ms: int, looked: Mapping[int, Looked] = _NOTHING
    ) -> tuple[list[IncomingEvent], list[int], list[Rejected]]:
        """The events to store, which of the lines they were, and the lines that are none."""
        events: list[IncomingEvent] = []
        positions: list[int] = []
        rejected: list[Rejected] = []
        suspects = self._redacting.suspects(lines)
        for position, line in enumerate(lines):
            try:
                kept = looked.get(position) if looked else None
                if kept is None:
                    kept = self._redacting.kept(line) if position in suspects else line
                if isinstance(kept, ValidationError):
                    raise kept
                event = self._incoming(line, now_ms, kept)
            except ValidationError as error:
                rejected.append(Rejected(position, "invalid", str(error), error.path))
                continue
            if event is None:
                self._num_withheld += 1
                continue
            events.append(event)
            positions.append(position)
        return events, positions, rejected

    def _incoming(self, line: bytes, now_ms: int, kept: bytes) -> IncomingEvent | None:
        """The event of a line; nothing of it but its digest is made of what is not kept."""
        event = parse_event(kept)
        if self._consent is not None and (changed := self._changes(event, line, kept)):
            if self._consent.drops and changed.get("train") is False:
                return None
            event = msgspec.structs.replace(event, **changed)
            # Not `format_event`: what this version does not know of the event is kept as well.
            kept = msgspec.json.encode(_fields.decode(kept) | changed)
        receipt_id = getattr(event, "receipt_id", None)
        # A verdict on a call goes where the call went; only the store knows where that is.
        follows_call = isinstance(event, OutcomeEvent) and receipt_id and event.task_id is None
        if follows_call:
            self._ends_group = True
            marks: tuple[GroupMark, ...] = ()
        else:
            marks = self._marks(_arrival(event, now_ms))
            if isinstance(event, OutcomeEvent) and not marks and not _says_whose(event):
                expected = "a task_id, receipt_id, session_id, group_id or episode_id"
                raise ValidationError(f"the outcome is about nothing: expected {expected}")
        fields = (
            event.event_id,
            self._digest(line),
            RECORD_TYPES[type(event)],
            event.task_id,
            event.group_id,
            event.session_id,
            receipt_id,
            getattr(event, "worker_id", None),
            now_ms,
            kept,
            marks,
        )
        # The generated constructor is a Python function: 0.15 us, and 0.4 with names.
        return tuple.__new__(IncomingEvent, fields)

    def _changes(self, event: Event, line: bytes, kept: bytes) -> dict[str, Any]:
        """What the operator's rules say, which may name what was taken out of the line."""
        assert self._consent is not None
        changed = self._consent.changes(event)
        if kept is not line:
            with contextlib.suppress(ValidationError):
                changed |= self._consent.changes(parse_event(line))
        return changed

    def _digest(self, line: bytes) -> bytes:
        keyed = self._hash.copy()  # 1 us cheaper than to begin with the key each time
        keyed.update(line)
        return keyed.digest()

    def _marks(self, arrival: Arrival) -> tuple[GroupMark, ...]:
        marks: tuple[GroupMark, ...] = ()
        for name, model in self._models.items():
            try:
                key = model.group_key(arrival)
                if key is None:
                    continue
                closes = model.is_closing(arrival)
            except Exception as error:  # a learn model's fault must not cost the record
                self._log.error(
                    log.EPISODE_REFUSED,
                    learn_model=name,
                    event_id=arrival.event_id,
                    error=f"{type(error).__name__}: {error}",
                )
                continue
            marks += (GroupMark(name, key, closes),)
            if closes or self._closer.is_held(name, key):
                self._ends_group = True
        return marks


def _says_whose(event: OutcomeEvent) -> bool:
    named = event.task_id, event.receipt_id, event.session_id, event.group_id, event.episode_id
    return any(named)


def _arrival(event: Event, now_ms: int) -> Arrival:
    """What the learn models are asked about: the event itself where that will do."""
    if event.event_id is not None and not isinstance(event, LearnStatsEvent):
        return event
    try:
        return record_from_event(event, received_ms=now_ms)
    except (msgspec.DecodeError, RecursionError) as error:
        raise ValidationError(f"$.stats_json: {error}", path="$.stats_json") from None


def _refused(
    events: Sequence[IncomingEvent],
    positions: Sequence[int],
    dispositions: Sequence[Disposition],
) -> list[Rejected]:
    """The lines that the store refused: their id is known with other content, or cannot be kept."""
    rejected: list[Rejected] = []
    for position, event, disposition in zip(positions, events, dispositions, strict=True):
        if disposition == "conflict":
            message = f"event_id {event.event_id} is stored already, with other content{_BY_BYTES}"
            rejected.append(Rejected(position, "conflict", message, "$.event_id"))
        elif disposition == "refused":
            message = "an id holds NUL or is too long: the database cannot keep it"
            rejected.append(Rejected(position, "invalid", message, "$"))
    return rejected
