"""What people say about attempts, through the command line of a running daemon."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from honed.client import HonedClient
from tests.processes import Honed, honed

SETTINGS = 'scenario = "airline"\n[apply]\nkind = "none"\n[events]\nsettle = "0s"\n'
QUESTION = [{"role": "user", "content": "which queue?"}]
ANSWER = {"role": "assistant", "content": "sales"}


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Honed]:
    """A running daemon with one ended attempt and one that is open."""
    with honed(tmp_path, SETTINGS) as found:
        found.start("run")
        with HonedClient(found.data_dir / "feed.sock") as client:
            client.llm_call(QUESTION, ANSWER, task_id="t1", receipt_id="r1", group_id="g")
            client.outcome(task_id="t1", success=True, source="desk")
            client.llm_call(QUESTION, ANSWER, task_id="t2", receipt_id="r2", group_id="g")
        found.until(lambda: found.status()["episodes"], "the first attempt is an episode")
        yield found


def say(daemon: Honed, *arguments: str, text: str | None = None, status: int = 0) -> Any:
    """Run `honed feedback --json`; its answer, or what it said on stderr."""
    command = [sys.executable, "-m", "honed", "feedback", "--config", str(daemon.config), "--json"]
    done = subprocess.run(
        [*command, *arguments], input=text, capture_output=True, text=True, timeout=60,
        env={"PATH": os.environ["PATH"], "HOME": str(daemon.config.parent)},
    )  # fmt: skip
    assert done.returncode == status, done.stderr + done.stdout
    return json.loads(done.stdout) if status == 0 else done.stderr


def test_a_late_verdict_with_a_better_answer_reaches_its_episode(daemon: Honed) -> None:
    """By receipt; what was said before stays visible, the newest counts, twice is known."""
    arguments = ("--receipt", "r1", "--failure", "--reason", "wrong", "--answer", "-")
    arguments += ("--source", "ann", "--comment", "it is a return", "--id", "f1")
    [taken] = say(daemon, *arguments, text="returns\n")
    assert (taken["became"], taken["reach"]) == ("stored", "episodes")
    [episode_id] = taken["episode_ids"]
    [again] = say(daemon, *arguments, text="returns\n")
    assert (again["became"], again["episode_ids"]) == ("known", [episode_id])
    told = say(daemon, "--list", episode_id)
    assert [said["source"] for said in told["verdicts"]] == ["desk", "ann"]
    assert told["verdicts"][1]["comment"] == "it is a return"
    assert told["outcome"] == {"type": "failure", "reason": "wrong"}
    assert [said["demonstration"] for said in told["demonstrations"]] == ["returns"]
    [by_episode] = say(daemon, "--episode", episode_id, "--score", "0.5")
    assert by_episode["episode_ids"] == [episode_id]


def test_the_client_and_a_person_speak_of_one_episode(daemon: Honed) -> None:
    """By its id alone, of any client; one that is not there is refused by the command."""
    [first] = say(daemon, "--receipt", "r1", "--comment", "which one?")
    [episode_id] = first["episode_ids"]

    def newest() -> Any:
        return say(daemon, "--list", episode_id)["outcome"]

    with HonedClient(daemon.data_dir / "feed.sock") as client:
        client.outcome(episode_id=episode_id, success=False, reason="late", source="ann")
    daemon.until(lambda: newest() == {"type": "failure", "reason": "late"}, "it is heard")
    [taken] = say(daemon, "--episode", episode_id, "--score", "0.5")
    assert (taken["became"], taken["reach"]) == ("stored", "episodes")
    assert taken["episode_ids"] == [episode_id]
    daemon.until(lambda: newest() == {"type": "success", "score": 0.5}, "it is heard, too")
    assert "no episode has the id e0" in say(daemon, "--episode", "e0", "--success", status=1)


def test_an_open_attempt_and_an_unknown_call_are_told_apart(daemon: Honed) -> None:
    """The one gets the verdict when it ends, the other when its call comes."""
    assert say(daemon, "--task", "t2", "--comment", "odd")[0]["reach"] == "open"
    assert say(daemon, "--receipt", "nobody", "--success")[0]["reach"] == "nothing"
    assert len(say(daemon, "--group", "g", "--score", "0.4")[0]["episode_ids"]) == 1
    assert say(daemon, "--group", "nobody", "--success")[0]["reach"] == "nothing"


def test_many_verdicts_from_a_file_are_taken_once(daemon: Honed, tmp_path: Path) -> None:
    """JSON lines or CSV; the same file again is known."""
    table = tmp_path / "verdicts.csv"
    table.write_text("task_id,success,score,comment\nt1,true,0.5,fair\nt2,no,,\n")
    assert [t["became"] for t in say(daemon, "--file", str(table))] == ["stored", "stored"]
    assert [t["became"] for t in say(daemon, "--file", str(table))] == ["known", "known"]
    lines = tmp_path / "verdicts.jsonl"
    lines.write_text('{"receipt_id": "r1", "score": 0.25}\n\n{"task_id": "t1", "success": false}\n')
    assert [t["reach"] for t in say(daemon, "--file", str(lines))] == ["episodes", "episodes"]


def test_what_cannot_be_taken_is_refused_with_the_reason(daemon: Honed) -> None:
    """A conflict, an unknown field, an object that has no name; the others are stored."""
    fine = {"event_id": "e1", "task_id": "t1", "outcome": {"type": "success"}}
    outcomes = [
        fine,
        fine | {"comment": "other"},
        {"task_id": "t1", "demonstraton": "x"},
        {"outcome": {"type": "success"}},
    ]
    taken = daemon.ask("POST", "/v1/feedback", {"outcomes": outcomes})["outcomes"]
    assert [t["became"] for t in taken] == ["stored", "refused", "refused", "refused"]
    reasons = ("with other content", "unknown field demonstraton", "expected a receipt_id")
    for said, reason in zip(taken[1:], reasons, strict=True):
        assert reason in said["message"]
