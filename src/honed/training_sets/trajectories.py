"""Reads attempts that other systems wrote down and turns them into events.

Two forms of JSON lines, told apart row by row:

    {"task_id", "trial", "reward", "traj": [OpenAI messages]}        as tau-bench writes them
    {"messages": [...], "tools"?, "reward" | "score"?, "id"?, "task_id"?, "trial"?, "group_id"?}

A trajectory becomes one call with the whole conversation and one outcome, which closes the attempt:
`unknown` where the row has no reward. The ids of events come from their content, so that importing
a file twice adds nothing. A row that cannot be read is reported with its line and the reason, never
passed over.
"""

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec

from honed.domain.events import LlmCallEvent, OutcomeEvent, format_event
from honed.domain.message import Message
from honed.domain.outcome import Outcome, Unknown, outcome_from_reward
from honed.errors import SourceError

LEARN_MODEL: Final = "chat"
"""The learn model that reads imported trajectories."""
SOURCE: Final = "import"
"""What imported outcomes name as their source."""
MAX_LINE: Final = 64 << 20
"""Bytes of one row at most; a longer one is reported, not read."""


class ImportedTrajectory(NamedTuple):
    """One attempt, ready for the feed."""

    line: int
    """Line of the file, from 1."""
    task_id: str
    group_id: str | None
    lines: tuple[bytes, ...]
    """Events as JSON, without newlines: the call, then the outcome."""
    num_dropped: int
    """Turns after the last assistant turn; nobody answered them."""


class BadRow(NamedTuple):
    """A row that is no trajectory."""

    line: int
    reason: str


class _Row(msgspec.Struct, kw_only=True):
    """A row of either form."""

    traj: list[Message] | None = None
    messages: list[Message] | None = None
    tools: list[dict[str, Any]] | None = None
    reward: float | bool | None = None
    score: float | bool | None = None
    id: str | int | None = None
    task_id: str | int | None = None
    group_id: str | int | None = None
    trial: str | int | None = None
    model: str | None = None


class _Weights(msgspec.Struct):
    """What fine-tuning files say about a turn besides the turn itself."""

    weight: float | None = None


class _WeightedRow(msgspec.Struct):
    messages: list[_Weights] = []


_rows: Final = msgspec.json.Decoder(_Row)
_weights: Final = msgspec.json.Decoder(_WeightedRow)


def read_trajectories(path: Path) -> Iterator[ImportedTrajectory | BadRow]:
    """The trajectories of a file in their order, bad rows in between; blank lines are skipped.

    Raises:
        SourceError: the file cannot be read.
    """
    try:
        with path.open("rb") as file:
            number = 0
            while row := file.readline(MAX_LINE + 1):
                number += 1
                if len(row) > MAX_LINE:
                    while row and not row.endswith(b"\n"):
                        row = file.readline(MAX_LINE)
                    yield BadRow(number, f"the row has more than {MAX_LINE} bytes")
                elif row.strip():
                    yield _read(number, row.removeprefix(b"\xef\xbb\xbf"))
    except OSError as error:
        raise SourceError(f"trajectories {path} cannot be read: {error.strerror}") from error


def _read(number: int, line: bytes) -> ImportedTrajectory | BadRow:
    try:
        return _trajectory(number, _rows.decode(line), line)
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        return BadRow(number, str(error))


def _trajectory(number: int, row: _Row, line: bytes) -> ImportedTrajectory:
    turns = _turns(row, line)
    last = max((i for i, turn in enumerate(turns) if turn.role == "assistant"), default=None)
    if last is None:
        raise ValueError(f"no turn of {len(turns)} is the assistant's: nothing to learn from")
    outcome = _outcome(row)
    content = msgspec.json.encode([turns[: last + 1], row.tools], order="deterministic")
    task_id, group_id = _ids(row, hashlib.blake2b(content, digest_size=8).hexdigest())
    call = LlmCallEvent(
        event_id=_event_id("call", task_id, group_id, content),
        task_id=task_id,
        group_id=group_id,
        model=row.model or "",
        messages=tuple(turns[:last]),
        tools=tuple(row.tools) if row.tools else None,
        response_message=turns[last],
    )
    told = OutcomeEvent(
        event_id=_event_id("outcome", task_id, group_id, content, msgspec.json.encode(outcome)),
        task_id=task_id,
        group_id=group_id,
        outcome=outcome,
        source=SOURCE,
    )
    return ImportedTrajectory(
        line=number,
        task_id=task_id,
        group_id=group_id,
        lines=(format_event(call), format_event(told)),
        num_dropped=len(turns) - last - 1,
    )


def _turns(row: _Row, line: bytes) -> list[Message]:
    if row.traj is not None:
        return row.traj
    if row.messages is None:
        raise ValueError('the row has neither "traj" nor "messages": not a known form')
    for i, turn in enumerate(_weights.decode(line).messages):
        if turn.weight is not None and turn.weight != 1:
            raise ValueError(f"$.messages[{i}].weight is {turn.weight:g}: expected 1 or none")
    return row.messages


def _outcome(row: _Row) -> Outcome:
    reward = row.score if row.reward is None else row.reward
    return Unknown() if reward is None else outcome_from_reward(float(reward))


def _ids(row: _Row, digest: str) -> tuple[str, str | None]:
    """Task and group: `id` names the attempt, `task_id` what attempts have in common."""
    own, task, trial = _name(row.id), _name(row.task_id), _name(row.trial)
    group = _name(row.group_id) or task
    if own is None:
        own = digest if task is None else f"{task}-{trial or digest}"
    return own, group


def _name(value: str | int | None) -> str | None:
    """The value as text; the empty text names nothing."""
    return None if value is None or value == "" else str(value)


def _event_id(kind: str, task_id: str, group_id: str | None, *content: bytes) -> str:
    names = msgspec.json.encode([kind, task_id, group_id])
    return f"import-{hashlib.blake2b(names + b''.join(content), digest_size=16).hexdigest()}"
