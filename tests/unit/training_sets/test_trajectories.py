"""Attempts of other systems become events: one call and one outcome each, the same every time."""

import json
from pathlib import Path
from typing import Any

import pytest

from honed.domain.events import LlmCallEvent, OutcomeEvent, parse_event
from honed.domain.outcome import Failure, Outcome, Success, Unknown
from honed.domain.records import record_from_event
from honed.errors import SourceError
from honed.learn_models import create
from honed.training_sets import BadRow, ImportedTrajectory, Reading, open_rows, read_rows

EXCERPT = Path(__file__).parents[2] / "data" / "tau-airline-excerpt.jsonl"
ASKED = {"role": "user", "content": "hi"}
SAID = {"role": "assistant", "content": "hello"}


def write(folder: Path, *rows: Any) -> Path:
    path = folder / "rows.jsonl"
    path.write_text(
        "".join(f"{row if isinstance(row, str) else json.dumps(row)}\n" for row in rows)
    )
    return path


def read_all(path: Path) -> list[Reading | BadRow]:
    with open_rows(path) as rows:
        return list(read_rows(rows))


def trajectories(path: Path) -> list[ImportedTrajectory]:
    return [told for row in read_all(path) if isinstance(row, Reading) for told in row.trajectories]


def read_one(folder: Path, row: Any) -> ImportedTrajectory:
    (reading,) = read_all(write(folder, row))
    assert isinstance(reading, Reading), reading
    (trajectory,) = reading.trajectories
    return trajectory


def refused(folder: Path, row: Any) -> str:
    (bad,) = read_all(write(folder, row))
    assert isinstance(bad, BadRow)
    return bad.reason


def outcome_of(trajectory: ImportedTrajectory) -> Outcome:
    event = parse_event(trajectory.outcome)
    assert isinstance(event, OutcomeEvent)
    return event.outcome


def test_tau_bench_trajectories() -> None:
    """Two trials of one task are two attempts in one group, tool calls and tool turns and all."""
    rows = [json.loads(line) for line in EXCERPT.read_text().splitlines()]
    found = trajectories(EXCERPT)
    assert len(found) == len(rows) == 3
    assert found[0].group_id == found[1].group_id == str(rows[0]["task_id"])
    assert {t.task_id for t in found} == {f"{row['task_id']}-{row['trial']}" for row in rows}
    for row, trajectory in zip(rows, found, strict=True):
        call = parse_event(trajectory.calls[0])
        assert isinstance(call, LlmCallEvent)
        assert call.messages is not None
        assert call.response_message is not None
        turns = [*call.messages, call.response_message]
        assert len(turns) + trajectory.num_dropped == len(row["traj"])
        kept = row["traj"][: len(turns)]
        assert [turn.role for turn in turns] == [turn["role"] for turn in kept]
        assert [turn.text for turn in turns] == [turn["content"] or "" for turn in kept]
        assert [
            (call.function.name, call.function.arguments, call.id)
            for turn in turns
            for call in turn.tool_calls or ()
        ] == [
            (call["function"]["name"], call["function"]["arguments"], call["id"])
            for turn in kept
            for call in turn.get("tool_calls") or ()
        ]
        expected = Success(1.0) if row["reward"] else Failure("reward 0")
        assert outcome_of(trajectory) == expected
    assert {row["reward"] for row in rows} == {0.0, 1.0}


def test_a_trajectory_is_one_episode_that_teaches_every_assistant_turn() -> None:
    """The chat learn model makes one episode of the events, and all of its turns count."""
    chat = create("chat")
    for trajectory in trajectories(EXCERPT):
        records = [record_from_event(parse_event(line), received_ms=1) for line in trajectory.lines]
        assert {chat.group_key(record) for record in records} == {f"task:{trajectory.task_id}"}
        (episode,) = chat.build_episodes(records, now_ms=1)
        assert (episode.task_id, episode.group_id) == (trajectory.task_id, trajectory.group_id)
        assert chat.convert(episode).trained_turns is None  # type: ignore[union-attr]


def test_reading_twice_gives_the_same_events(tmp_path: Path) -> None:
    """Event ids come from the content: equal for equal rows, other for other rows."""
    assert read_all(EXCERPT) == read_all(EXCERPT)
    one = read_one(tmp_path, {"messages": [ASKED, SAID], "reward": 1})
    two = read_one(tmp_path, {"reward": 1, "messages": [dict(reversed(ASKED.items())), SAID]})
    assert one == two
    other = read_one(tmp_path, {"messages": [ASKED, SAID], "reward": 0})
    assert (other.calls, other.task_id) == (one.calls, one.task_id)
    assert parse_event(other.outcome).event_id != parse_event(one.outcome).event_id


def test_openai_rows(tmp_path: Path) -> None:
    """Tools, ids, groups and scores of OpenAI rows are taken over; what is missing is made."""
    tools = [{"type": "function", "function": {"name": "look"}}]
    row = {"messages": [ASKED, SAID, ASKED], "tools": tools, "score": 0.5, "id": 7, "group_id": "g"}
    trajectory = read_one(tmp_path, row)
    assert (trajectory.task_id, trajectory.group_id, trajectory.num_dropped) == ("7", "g", 1)
    assert outcome_of(trajectory) == Success(0.5)
    call = parse_event(trajectory.calls[0])
    assert isinstance(call, LlmCallEvent)
    assert call.tools == tuple(tools)
    bare = read_one(tmp_path, {"messages": [ASKED, SAID]})
    assert (len(bare.task_id), bare.group_id, outcome_of(bare)) == (16, None, Unknown())
    trial = read_one(
        tmp_path, {"messages": [ASKED, SAID], "task_id": "t", "trial": 2, "reward": True}
    )
    assert (trial.task_id, trial.group_id, outcome_of(trial)) == ("t-2", "t", Success(1.0))
    no_trial = read_one(tmp_path, {"messages": [ASKED, SAID], "task_id": "t", "id": ""})
    assert (no_trial.task_id, no_trial.group_id) == (f"t-{bare.task_id}", "t")


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ("{broken", "malformed"),
        ("[1]", "Expected `object`"),
        ({"prompt": "x"}, "no known form has the keys of this row: prompt"),
        ({"messages": [ASKED]}, "no turn of 1 is the assistant's"),
        ({"messages": []}, "no turn of 0"),
        ({"messages": [{"role": "wizard", "content": "x"}]}, "$.messages[0].role"),
        ({"messages": [{"content": "x"}]}, "$.messages[0]"),
        ({"traj": [SAID], "task_id": 1, "reward": "good"}, "$.reward"),
        ({"traj": [ASKED, SAID], "reward": 7}, "0..1"),
        ({"messages": [ASKED, {**SAID, "weight": 0}]}, "$.messages[1].weight"),
        ("[" * 10_000, ""),
    ],
)
def test_bad_rows(tmp_path: Path, row: Any, says: str) -> None:
    """A row that is no trajectory is reported with what is wrong with it."""
    assert says in refused(tmp_path, row)


def test_a_bad_row_does_not_stop_the_others(tmp_path: Path) -> None:
    """Line numbers count blank lines, and the rows around a bad one are read."""
    good = {"messages": [ASKED, SAID]}
    path = write(tmp_path, good, "", "nonsense", good, '{"messages": [{"role": "user"')
    found = read_all(path)
    assert [row.line for row in found] == [1, 3, 4, 5]
    assert [isinstance(row, BadRow) for row in found] == [False, True, False, True]


def test_a_row_without_end_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A row over the limit is reported, and reading goes on behind it."""
    monkeypatch.setattr("honed.training_sets.row_files.MAX_ROW", 1_000)
    good = {"messages": [ASKED, SAID]}
    path = write(tmp_path, "x" * 5_000, good, "y" * 1_001, good)
    assert [isinstance(row, BadRow) for row in read_all(path)] == [
        True,
        False,
        True,
        False,
    ]


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    """A missing file is named."""
    with pytest.raises(SourceError, match=r"nothing\.jsonl"):
        read_all(tmp_path / "nothing.jsonl")
