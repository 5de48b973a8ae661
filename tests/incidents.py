"""Attempts at the demo's incidents by a clerk who reads well and acts blindly, and a base model that does the same.

Made without a server, so that a flow test has an honest feed in milliseconds.
"""

import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest

from honed.demo.environment import CHANGES, INSPECTIONS, SYSTEM, UNKNOWN, World
from honed.demo.pretraining_text import conversations, write_conversations
from honed.domain.job import PretrainJob

WORLD = World(7)


def attempt(number: int, *, stream: str = "feed") -> tuple[list[dict[str, Any]], bool]:
    """The conversation of one attempt and whether it solved the incident."""
    rng = random.Random(f"clerk/{stream}/{number}")
    incident = WORLD.incident(stream, number)
    messages = [_turn("system", SYSTEM), _turn("user", incident.alert)]
    while not incident.is_over:
        if incident.has_inspected:
            subject, action = incident.cause, rng.choice(CHANGES)
        else:
            subject, action = UNKNOWN, rng.choice(INSPECTIONS)
        messages.append(_turn("assistant", f"{subject}: {action}"))
        messages.append(_turn("user", incident.act(action)))
    return messages[:-1], incident.is_solved


def events(number: int, messages: list[dict[str, Any]], is_solved: bool) -> list[dict[str, Any]]:
    """The calls of an attempt and its outcome, as a swarm sends them."""
    task_id = f"incident-{number}"
    calls = [
        {
            "type": "llm_call",
            "event_id": f"{task_id}-{i}",
            "task_id": task_id,
            "group_id": task_id,
            "messages": messages[:i],
            "response_message": messages[i],
        }
        for i, message in enumerate(messages)
        if message["role"] == "assistant"
    ]
    outcome = {"type": "success", "score": 1.0} if is_solved else {"type": "failure", "reason": ""}
    verdict = {
        "type": "outcome",
        "event_id": f"{task_id}-outcome",
        "task_id": task_id,
        "group_id": task_id,
        "outcome": outcome,
    }
    return [*calls, verdict]


def _turn(role: str, content: str) -> dict[str, Any]:
    return {"role": role, "content": content}


@pytest.fixture(scope="session")
def incident_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny base model that names the subject of a finding and acts blindly; made by the real worker (about 25 s)."""
    folder = tmp_path_factory.mktemp("incidents")
    text = folder / "text.jsonl"
    write_conversations(text, conversations(7, 3_000))
    job = PretrainJob(
        data_path=str(text),
        output_path=str(folder / "base"),
        result_path=str(folder / "result.json"),
        steps=100,
    )
    (folder / "job.json").write_bytes(msgspec.json.encode(job))
    subprocess.run(
        [sys.executable, "-m", "honed.worker", str(folder / "job.json")],
        check=True,
        capture_output=True,
        timeout=180,
    )
    return folder / "base"
