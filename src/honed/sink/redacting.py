"""Redaction at the door: what of a line is kept, how often what was taken out, and ids that are asked by.

Nearly every line costs one look and stays as it is. A long one full of near misses may take a second
(docs/redaction.md), which the other connections would feel: it is looked at in a thread.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Final

import anyio.to_thread
import msgspec

from honed.domain.consent import Consent, Rule
from honed.domain.episode import Episode, EpisodeMetadata
from honed.domain.events import parse_event
from honed.domain.outcome import Outcome
from honed.domain.records import record_from_event
from honed.errors import ValidationError
from honed.ports import Provenance, StoredEvent, Verdict
from honed.redaction import Redacted, Redaction, Redactor

_LONG: Final = 64 << 10
"""Bytes from which a line is looked at in a thread; handing it over costs 60 us."""
_JOINING: Final = frozenset(("agent", "user", "task", "group", "session"))
"""Fields of consent's rules whose values are turned as a whole."""
_NAMES: Final = ("receipt_id", "task_id", "session_id", "group_id")
"""What an outcome may be about."""

Looked = bytes | ValidationError
"""The line as it is kept, or why it cannot be."""


class _Told(msgspec.Struct):
    """What of an episode is in none of its events."""

    metadata: EpisodeMetadata
    outcome: Outcome
    verdicts: tuple[Verdict, ...]
    task_id: str | None
    group_id: str | None


class Redacting:
    """What a sink keeps of lines.

    Args:
        redaction: of the data folder.
    """

    def __init__(self, redaction: Redaction) -> None:
        self._redactor = redaction.redactor
        self.forms = redaction.forms
        self._limiter = anyio.CapacityLimiter(1)
        self._counts: Counter[str] = Counter()

    @property
    def counts(self) -> dict[str, int] | None:
        """What was taken out of lines since the process started, by kind, of repeats as well; None when it is off."""
        return None if self._redactor is None else dict(self._counts)

    def suspects(self, lines: Sequence[bytes]) -> set[int]:
        """Positions of the lines that `kept` has to look at; the others are kept as they are."""
        found: set[int] = set()
        if max(map(len, lines), default=0) >= _LONG:
            found.update(position for position, line in enumerate(lines) if len(line) >= _LONG)
        if not all(map(bytes.isascii, lines)):
            found.update(position for position, line in enumerate(lines) if not _is_utf8(line))
        if self._redactor is not None:
            found |= self._redactor.suspects(
                [b"" if position in found else line for position, line in enumerate(lines)]
                if found
                else lines
            )
        return found

    def kept(self, line: bytes) -> bytes:
        """The line as it is kept.

        Raises:
            ValidationError: it is not UTF-8, or may hold something but is not JSON.
        """
        # The decoder skips unknown keys without looking at their encoding.
        if not line.isascii():
            _check_utf8(line)
        if self._redactor is None or (redacted := self._redactor.redact(line)) is None:
            return line
        self._counts.update(redacted.counts)
        return redacted.line

    async def kept_of_long(self, lines: Sequence[bytes]) -> Mapping[int, Looked]:
        """What is kept of the long lines among these, by position."""
        if self._redactor is None or max(map(len, lines), default=0) < _LONG:
            return {}
        found: dict[int, Looked] = {}
        for position, line in enumerate(lines):
            if len(line) >= _LONG:
                try:
                    redacted = await anyio.to_thread.run_sync(
                        _look, self._redactor, line, limiter=self._limiter
                    )
                    self._counts.update(redacted.counts if redacted else ())
                    found[position] = redacted.line if redacted else line
                except ValidationError as error:
                    found[position] = error
        return found

    def clean(self, text: str) -> str:
        """A text without what must not be kept; nothing is counted."""
        if self._redactor is None:
            return text
        line = msgspec.json.encode([text.encode(errors="replace").decode()])
        redacted = self._redactor.redact(line)
        return text if redacted is None else str(msgspec.json.decode(redacted.line)[0])

    def forms_of_names(self, told: Mapping[str, object]) -> list[dict[str, str]]:
        """What an outcome is about, once for each form of the ids that it names; today's first."""
        named = {
            name: self.forms(each) for name in _NAMES if isinstance(each := told.get(name), str)
        }
        num = max((len(forms) for forms in named.values()), default=1)
        return [
            {name: forms[min(i, len(forms) - 1)] for name, forms in named.items()}
            for i in range(num)
        ]

    def episode(self, episode: Episode, provenance: Provenance) -> tuple[Episode, Provenance]:
        """An episode of another data folder as it is kept; the same where nothing is taken out."""
        if self._redactor is None:
            return episode, provenance
        told = _Told(
            episode.metadata,
            episode.outcome,
            provenance.verdicts,
            episode.task_id,
            episode.group_id,
        )
        line = msgspec.json.encode(told)
        if (kept := self.kept(line)) is not line:
            told = msgspec.json.decode(kept, type=_Told)
        events = tuple(
            StoredEvent(event.received_ms, self.kept(event.body)) for event in provenance.events
        )
        records = episode.records
        if events != provenance.events:
            records = tuple(
                record_from_event(parse_event(event.body), received_ms=event.received_ms)
                for event in events
            )
        changed = {name: getattr(told, name) for name in ("metadata", "outcome")}
        changed |= {name: getattr(told, name) for name in ("task_id", "group_id")}
        return (
            msgspec.structs.replace(episode, records=records, **changed),
            Provenance(events, told.verdicts),
        )

    def turned(self, consent: Consent) -> Consent:
        """The rules, and those that name one id also for the forms in which it may be stored."""
        return Consent(
            tuple(each for rule in consent.exclude for each in self._forms_of(rule)),
            tuple(each for rule in consent.untrusted for each in self._forms_of(rule)),
            consent.drops,
        )

    def _forms_of(self, rule: Rule) -> list[Rule]:
        if rule.field not in _JOINING or any(sign in rule.pattern for sign in "*?["):
            return [rule]
        return [Rule(rule.field, form.replace("[", "[[]")) for form in self.forms(rule.pattern)]


def _look(redactor: Redactor, line: bytes) -> Redacted | None:
    if not line.isascii():
        _check_utf8(line)
    return redactor.redact(line)


def _is_utf8(line: bytes) -> bool:
    try:
        _check_utf8(line)
    except ValidationError:
        return False
    return True


def _check_utf8(line: bytes) -> None:
    try:
        line.decode()
    except UnicodeDecodeError as error:
        raise ValidationError(
            f"the line is not UTF-8: {error.reason} at byte {error.start}"
        ) from None
