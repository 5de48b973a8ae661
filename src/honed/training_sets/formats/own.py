"""honed's own form: an episode with its events byte for byte and every verdict on it.

    {"honed": 1, "episode": {...}, "events": [{"received_ms", "event"}], "verdicts": [...], "held_out"?: true}

An episode that is written and read again is the same in all that makes it: id, task, group, records,
outcome, metadata. The events keep their bytes, so that one that arrives twice is known as a repeat.
"""

from typing import Any, Final, NamedTuple

import msgspec
from msgspec import UNSET, Raw, Struct, UnsetType

from honed.domain.episode import Episode, EpisodeMetadata
from honed.domain.events import parse_event
from honed.domain.ids import is_episode_id
from honed.domain.outcome import Outcome, Unknown
from honed.domain.records import record_from_event
from honed.errors import ValidationError
from honed.ports import Provenance, StoredEvent, Verdict

FORM: Final = 1
"""Version of this form; a newer one is refused."""


class StoredEpisode(NamedTuple):
    """An episode and where it comes from."""

    episode: Episode
    provenance: Provenance
    is_held_out: bool = False
    """Whether it was held out where it comes from, and so is wherever it goes."""


class _Episode(Struct, kw_only=True, omit_defaults=True):
    id: str
    learn_model: str
    metadata: EpisodeMetadata
    task_id: str | None = None
    group_id: str | None = None
    outcome: Outcome = Unknown()


class _Event(Struct):
    received_ms: int
    event: Raw


class _Line(Struct):
    honed: int
    episode: _Episode
    events: tuple[_Event, ...]
    verdicts: tuple[Verdict, ...] = ()
    held_out: bool | UnsetType = UNSET


class _Form(Struct):
    honed: int


_form: Final = msgspec.json.Decoder(_Form)
_line: Final = msgspec.json.Decoder(_Line)
_encoder: Final = msgspec.json.Encoder()


def format_episode(stored: StoredEpisode) -> bytes:
    """The episode as one line of JSON, without the newline."""
    fields: dict[str, Any] = {
        name: getattr(stored.episode, name) for name in _Episode.__struct_fields__
    }
    return _encoder.encode(
        _Line(
            honed=FORM,
            episode=_Episode(**fields),
            events=tuple(
                _Event(event.received_ms, Raw(event.body)) for event in stored.provenance.events
            ),
            verdicts=stored.provenance.verdicts,
            held_out=True if stored.is_held_out else UNSET,
        )
    )


def read_episode(text: bytes) -> StoredEpisode:
    """The episode of a line, its records made of the events again.

    Raises:
        ValueError: a newer form, an id that is none, or an event that cannot be read.
    """
    form = _form.decode(text).honed
    if form != FORM:
        raise ValueError(f"$.honed is {form}: expected {FORM}; another version of honed wrote it")
    line = _line.decode(text)
    if not is_episode_id(line.episode.id):
        raise ValueError(f"$.episode.id is {line.episode.id!r}: not an episode id")
    events = tuple(StoredEvent(told.received_ms, bytes(told.event)) for told in line.events)
    fields: dict[str, Any] = {
        name: getattr(line.episode, name) for name in _Episode.__struct_fields__
    }
    records = tuple(_record(i, event) for i, event in enumerate(events))
    return StoredEpisode(
        Episode(records=records, **fields),
        Provenance(events, line.verdicts),
        line.held_out is True,
    )


def _record(index: int, event: StoredEvent) -> Any:
    try:
        return record_from_event(parse_event(event.body), received_ms=event.received_ms)
    except (ValidationError, msgspec.DecodeError) as error:
        raise ValueError(f"$.events[{index}].event: {error}") from None
