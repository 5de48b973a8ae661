"""Rows that may enter a training file, with what decides whether and where."""

import hashlib
from collections.abc import Iterator, Sequence
from typing import Any, Final, NamedTuple

from honed.domain.episode import Episode
from honed.domain.message import Message
from honed.domain.records import OutcomeRecord
from honed.domain.training_data import ChatExample, LabelledExample, PreferencePair, TrainingData
from honed.training_sets.near_duplicates import as_once_told, said, sketch
from honed.training_sets.rows import SpooledRow

SHORT: Final = "too few characters"
LONG: Final = "too many characters"
MANY_TURNS: Final = "too many turns"


class Origin(NamedTuple):
    """What of an episode decides about its rows."""

    episode_ids: tuple[str, ...]
    """The episode; of a pair the chosen one, then the rejected one."""
    names: tuple[bytes, ...]
    """As `HeldOutSplit.names`."""
    at_ms: int
    """When the attempt began, by its own clock."""
    skill: str
    """Empty where none is named."""
    is_new: bool
    """Whether no training has looked at it, or its outcome has changed since."""


class Candidate(NamedTuple):
    """A row that may enter the training file."""

    origin: Origin
    row: SpooledRow
    place: bytes
    """Hash of seed and row: rows are drawn and written in its order, whatever the order in which they were read."""
    is_taught: bool
    """Whether the selection of successes takes it."""
    worth: tuple[bool, float]
    """Whether somebody gave the answer, and the score of its outcome: what tells which of two alike rows stays."""
    versions: tuple[tuple[bytes, Any], ...]
    """Digest and sketch of each conversation in it: one, or of a pair both; also as they were once made."""
    sketch: Any
    """Of all that it says; None where near-duplicates cannot be looked for."""
    is_held_out: bool = False
    """Whether it says nearly what an earlier training has held out."""

    @property
    def key(self) -> str:
        """The episode, or the one of the chosen answer; rows of one episode share it."""
        return self.origin.episode_ids[0]

    def near(self, other: str) -> "Candidate":
        """The same, marked as a near-duplicate of a row of another episode."""
        return self._replace(row=self.row._replace(near=other))


def candidate(
    data: TrainingData,
    row: SpooledRow,
    origin: Origin,
    *,
    seed: int,
    is_taught: bool,
    worth: tuple[bool, float],
    sketched: bool,
) -> Candidate:
    """What is known of a row in the spool.

    Args:
        data: what it says.
        row: where it lies.
        origin: what of its episodes decides.
        seed: of the order of the rows.
        is_taught: as in `Candidate`, as `worth`.
        worth: as in `Candidate`.
        sketched: whether near-duplicates are looked for.
    """
    made = sketch(data) if sketched else None
    if isinstance(data, PreferencePair):
        told: list[TrainingData] = [
            LabelledExample(prompt=data.prompt, completion=data.chosen, label=True),
            LabelledExample(prompt=data.prompt, completion=data.rejected, label=False),
        ]
        versions = [(said(each), sketch(each) if sketched else None) for each in told]
    else:
        told, versions = [data], [(said(data), made)]
    versions += filter(None, (as_once_told(each, sketched=sketched) for each in told))
    return Candidate(
        origin=origin,
        row=row,
        place=place(row.digest, seed),
        is_taught=is_taught,
        worth=worth,
        versions=tuple(versions),
        sketch=made,
    )


def origin_of(
    episode: Episode, *, names: tuple[bytes, ...], skill_tag: str, is_new: bool
) -> Origin:
    """What of an episode decides about its rows."""
    work = [r.timestamp_ms for r in episode.records if not isinstance(r, OutcomeRecord)]
    return Origin(
        episode_ids=(episode.id,),
        names=names,
        at_ms=min(work, default=episode.metadata.created_at_ms),
        skill=episode.metadata.tags.get(skill_tag, ""),
        is_new=is_new,
    )


def both(chosen: Origin, rejected: Origin) -> Origin:
    """Where a pair comes from: what its chosen episode says, and what either has."""
    return chosen._replace(
        episode_ids=chosen.episode_ids + rejected.episode_ids,
        names=tuple(dict.fromkeys(chosen.names + rejected.names)),
        is_new=chosen.is_new or rejected.is_new,
    )


def place(digest: bytes, seed: int) -> bytes:
    """Where a row with this digest stands in the order of draws."""
    return hashlib.blake2b(digest, digest_size=16, key=str(seed).encode()).digest()


def why_not_of_length(
    data: TrainingData, *, min_chars: int, max_chars: int | None, max_turns: int | None
) -> str | None:
    """The reason when a row is too short or too long; of a pair its longer answer counts."""
    if min_chars == 0 and max_chars is None and max_turns is None:
        return None
    versions = list(_conversations(data))
    num_chars = max(sum(map(_num_chars, turns)) for turns in versions)
    if num_chars < min_chars:
        return SHORT
    if max_chars is not None and num_chars > max_chars:
        return LONG
    if max_turns is not None and max(map(len, versions)) > max_turns:
        return MANY_TURNS
    return None


def _conversations(data: TrainingData) -> Iterator[Sequence[Message]]:
    match data:
        case ChatExample():
            yield data.messages
        case PreferencePair():
            yield (*data.prompt, *data.chosen)
            yield (*data.prompt, *data.rejected)
        case LabelledExample():
            yield (*data.prompt, *data.completion)


def _num_chars(message: Message) -> int:
    calls = message.tool_calls or ()
    return len(message.text) + sum(
        len(call.function.name) + len(str(call.function.arguments)) for call in calls
    )
