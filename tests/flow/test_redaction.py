"""Secrets come to a real daemon at every door, and are in none of its files."""

import json
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest

from honed.client import HonedClient, RejectedError
from tests.feed_parts import action, call, line, success
from tests.processes import Honed, honed
from tests.redaction_corpus import fill

TRAJECTORIES = Path(__file__).parents[1] / "data" / "tau-airline-excerpt.jsonl"
NOT_ITS_OWN = "jane.doe@example.org"


class Planted:
    """Secrets that are like those of people and tools, each one once."""

    def __init__(self) -> None:
        self._rng = random.Random(5)
        self.all: list[str] = []

    def __call__(self, template: str) -> str:
        secret = fill(template, self._rng)
        self.all.append(secret)
        return secret

    def text(self) -> str:
        """What an agent's tool may print: a secret in each line, in the forms in which they come."""
        return (
            f"export GITHUB_TOKEN={self('ghp_[a:36]')}\n"
            f"$ psql postgresql://app:{self('[c:14]4')}@db/app\n"
            f'{{"aws_access_key_id": "{self("AKIA[A:16]")}", "api_key": "{self("[a:40]")}"}}\n'
            f"\x1b[32mBearer {self('[a:40]')}\x1b[0m mail to {self('[z:8].[z:8]')}@example.org,"
            f" IBAN {self('GB82WEST12345698765432')}, ask sk-ant-api03-{self('[a:93]')}AA\n"
        )


def _left(planted: list[str], *places: Path) -> list[tuple[str, str]]:
    """Which secret stands in which file."""
    files = [file for place in places for file in (place.rglob("*") if place.is_dir() else [place])]
    held = {str(file): file.read_bytes() for file in files if file.is_file()}
    assert held
    return [(s, name) for s in planted for name, raw in held.items() if s.encode() in raw]


def _span(planted: Planted, number: int, **attributes: Any) -> dict[str, Any]:
    told = {"gen_ai.operation.name": "chat", "honed.task_id": f"trace-{number}"} | attributes
    return {
        "traceId": f"{number:032x}",
        "spanId": f"{number:016x}",
        "name": f"chat {planted('ghp_[a:36]')}",
        "startTimeUnixNano": "1000000",
        "endTimeUnixNano": "2000000",
        "attributes": [{"key": k, "value": {"stringValue": v}} for k, v in told.items()],
    }


def _export(planted: Planted) -> dict[str, Any]:
    """A call, with a secret in every place that there is, and two spans that cannot be read."""
    said = [{"role": "user", "parts": [{"type": "text", "content": planted.text()}]}]
    answer = [{"role": "assistant", "parts": [{"type": "text", "content": planted.text()}]}]
    messages = {
        "gen_ai.input.messages": json.dumps(said),
        "gen_ai.output.messages": json.dumps(answer),
    }
    wrong = [{"role": planted("xoxb-[d:12]-[d:13]-[a:24]"), "parts": []}]
    spans = [
        _span(planted, 1, **messages, **{"user.id": NOT_ITS_OWN, "db.url": planted.text()}),
        _span(planted, 2, **{"gen_ai.input.messages": json.dumps(wrong)}),
        _span(planted, 3, **{"gen_ai.input.messages": planted("ghp_[a:36]")}),
    ]
    resource = {"attributes": [{"key": "k", "value": {"stringValue": planted("ghp_[a:36]")}}]}
    return {"resourceSpans": [{"resource": resource, "scopeSpans": [{"spans": spans}]}]}


def _command(daemon: Honed, *arguments: str, text: str | None = None) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "honed", *arguments, "--config", str(daemon.config)],
        env={name: value for name, value in os.environ.items() if "HONED" not in name},
        input=text,
        capture_output=True,
        text=True,
        timeout=60,
    )
    return done.stdout + done.stderr


def _attempt(planted: Planted, task: str) -> list[dict[str, Any]]:
    reason = {"type": "failure", "reason": planted.text()}
    return [
        call(task_id=task, user=NOT_ITS_OWN, messages=[{"role": "user", "content": planted.text()}]),
        action(task_id=task, result={"success": False, "output": planted.text()}, tags={
            "note": planted("ghp_[a:36]")}),
        success(task_id=task) | {"outcome": reason, "comment": planted.text()},
    ]  # fmt: skip


def _wrong(planted: Planted) -> list[bytes]:
    """Lines that are refused: of an unknown type, not JSON, not UTF-8, too long."""
    return [
        line(action() | {"type": planted("ghp_[a:36]")}),
        line(action() | {"tick": planted("AKIA[A:16]")}),
        f'{{"type": "action", "target": "{planted("ghp_[a:36]")}'.encode(),
        f'{{"target": "{planted("ghp_[a:36]")}'.encode() + b'\xff"}',
        line(action(target=planted("ghp_[a:36]") + "x" * 70_000)),
    ]


def _at_every_door(daemon: Honed, folder: Path, planted: Planted) -> str:
    """Send attempts and refused lines; what was answered."""
    answers: list[str] = []
    with HonedClient(daemon.data_dir / "feed.sock") as client:
        first = _attempt(planted, "socket")
        client.send(*first)
        changed = first[1] | {"target": planted("ghp_[a:36]")}
        for each in (*_wrong(planted)[:2], line(changed)):
            try:
                client.send_lines([each])
            except RejectedError as error:
                answers.append(str(error))
    address = daemon.status()["sources"]["http"]["address"]
    lines = [*map(line, _attempt(planted, "http")), *_wrong(planted)]
    with httpx.Client(base_url=f"http://{address}", trust_env=False, timeout=30) as web:
        kind = {"content-type": "application/x-ndjson"}
        answers += [
            web.post("/events", content=b"\n".join(lines), headers=kind).text,
            web.post("/events", json=_attempt(planted, "array")).text,
            web.post("/v1/traces", json=_export(planted)).text,
        ]
    lines = [*map(line, _attempt(planted, "file")), *_wrong(planted)]
    (folder / "inbox" / "a.jsonl").write_bytes(b"\n".join(lines) + b"\n")
    text = "\n".join(json.dumps(event) for event in _attempt(planted, "command"))
    answers.append(_command(daemon, "ingest", "-", text=text))
    rows = [json.loads(each) for each in TRAJECTORIES.read_text().splitlines()]
    for row in rows:
        row["traj"][1]["content"] += planted.text()
        row["traj"][2]["content"] += planted.text()
    answers.append(_command(daemon, "import", "-", text="\n".join(map(json.dumps, rows))))
    comment = ("--comment", planted.text())
    daemon.until(lambda: daemon.status()["episodes"] >= 8, "every attempt is an episode")
    answers.append(_command(daemon, "feedback", "--task", "socket", "--success", *comment))
    daemon.until(lambda: daemon.status()["sources"]["files"]["rejected"] == 5, "the file is read")
    return "\n".join(answers)


@pytest.mark.parametrize("is_on", [True, False], ids=["on", "off"])
def test_no_secret_is_in_any_file(tmp_path: Path, is_on: bool) -> None:
    """Socket, HTTP, traces, files and commands: not in database, log of the database, log of the daemon or answer.

    The same with redaction off shows that the search finds what there is.
    """
    settings = (
        f'scenario = "airline"\nlog_level = "DEBUG"\n[apply]\nkind = "none"\n[events]\n'
        f'settle = "0s"\nhttp = "127.0.0.1:0"\notlp = true\ninbox = "{tmp_path / "inbox"}"\n'
        f'line_max = "64KiB"\n[redact]\nenabled = {str(is_on).lower()}\n'
    )
    planted = Planted()
    log = tmp_path / "processes.log"
    with honed(tmp_path, settings) as daemon:
        daemon.start("run")
        answers = _at_every_door(daemon, tmp_path, planted)
        counts = daemon.status()["redacted"]
        shown = _command(daemon, "status")
        left = _left([*planted.all, NOT_ITS_OWN], daemon.data_dir, log)
        assert daemon.stop("run") == 0, daemon.log_tail()
        left += _left([*planted.all, NOT_ITS_OWN], daemon.data_dir, log)
        told = [secret for secret in planted.all if secret in answers]
    assert len(planted.all) > 100
    if not is_on:
        assert len({secret for secret, _ in left}) > len(planted.all) * 0.8
        assert told
        assert counts is None
        assert "redaction   off" in shown
        return
    assert left == []
    assert told == []
    assert {"aws_key", "github_token", "email", "iban", "url_password"} <= counts.keys()
    assert f"{counts['github_token']} github_token" in shown


def test_who_is_forgotten_by_name_leaves_no_byte(tmp_path: Path) -> None:
    """By the user's own address, which stands nowhere; the texts of others are whole."""
    settings = 'scenario = "airline"\n[apply]\nkind = "none"\n[events]\nsettle = "0s"\n'
    with honed(tmp_path, settings) as daemon:
        daemon.start("run")
        with HonedClient(daemon.data_dir / "feed.sock") as client:
            for user, mark in ((NOT_ITS_OWN, "a cormorant"), ("joe@example.com", "two herons")):
                text = [{"role": "user", "content": f"I saw {mark}"}]
                client.send(
                    call(task_id=f"t of {user}", user=user, messages=text),
                    success(task_id=f"t of {user}"),
                )
        daemon.until(lambda: daemon.status()["episodes"] == 2, "both are episodes")
        assert len(_left(["a cormorant", "two herons"], daemon.data_dir)) >= 2
        answer = _command(daemon, "forget", "--task", f"t of {NOT_ITS_OWN}", "--yes")
        assert "2 records in 1 attempts, 1 episodes" in answer
        gone = ["a cormorant", NOT_ITS_OWN, "joe@example.com"]
        assert _left(gone, daemon.data_dir, tmp_path / "processes.log") == []
        assert len(_left(["two herons"], daemon.data_dir)) >= 1
