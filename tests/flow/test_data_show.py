"""`honed data show`: what of an episode is learned, and why the rest is not."""

import json
import os
import pty
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.processes import Honed, honed

EXCERPT = Path(__file__).parents[1] / "data" / "tau-airline-excerpt.jsonl"
HOLDS_THEM = "40000"


def run(work: Honed, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "honed", *arguments, "--config", str(work.config)],
        env=os.environ | variables,
        capture_output=True,
        text=True,
        timeout=60,
    )


@pytest.fixture(scope="module")
def work(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Honed]:
    """Three imported trajectories and a base model; no process runs."""
    settings = f'scenario = "airline"\nbase_model = "{tiny_base}"\n[apply]\nkind = "none"'
    with honed(tmp_path_factory.mktemp("airline"), settings) as made:
        assert run(made, "import", str(EXCERPT)).returncode == 0
        yield made


@pytest.fixture(scope="module")
def episodes(work: Honed) -> list[str]:
    rows = json.loads(run(work, "episodes", "--json").stdout)
    return [row["id"] for row in rows]


def test_imported_trajectories_reach_the_loss(work: Honed, episodes: list[str]) -> None:
    """At least 95 % of the eligible tokens, and every other token has its reason."""
    for episode in episodes:
        done = run(work, "data", "show", episode, "--json", "--max-length", HOLDS_THEM)
        shown: dict[str, Any] = json.loads(done.stdout)
        assert shown["share"] >= 0.95
        told = sum(drop["num_tokens"] for drop in shown["drops"])
        assert shown["kept"] + told == shown["tokens"]
        assert all(drop["reason"] for drop in shown["drops"])


def test_plain_text_marks_what_counts(work: Honed, episodes: list[str]) -> None:
    """Without a terminal each line says its fate, and the totals follow."""
    done = run(work, "data", "show", episodes[0], "--max-length", HOLDS_THEM)
    lines = done.stdout.splitlines()
    first = next(
        row["traj"]
        for row in map(json.loads, EXCERPT.read_text().splitlines())
        if any(f"task {row['task_id']}-" in line for line in lines)
    )
    said = [turn["content"] for turn in first if turn["role"] == "assistant" and turn["content"]]
    for text in said[:-1]:
        assert f"+ {text.splitlines()[0]}" in "\n".join(lines)
    assert "  <|im_start|>assistant" in lines
    assert any(line.startswith("kept ") and "100.0 %" in line for line in lines)
    assert "\x1b" not in done.stdout


def test_terminal_gets_colours(work: Honed, episodes: list[str]) -> None:
    """On a terminal the text itself is coloured instead."""
    leader, follower = pty.openpty()
    with subprocess.Popen(
        [
            *(sys.executable, "-m", "honed", "data", "show", episodes[0]),
            *("--max-length", HOLDS_THEM, "--config", str(work.config)),
        ],
        env=os.environ | {"TERM": "xterm-256color"},
        stdout=follower,
        stderr=follower,
    ) as child:
        os.close(follower)
        seen = b""
        while chunk := _chunk(leader):
            seen += chunk
        os.close(leader)
    assert child.returncode == 0
    assert b"\x1b[1;32m" in seen
    assert b"\n+ " not in seen


def _chunk(descriptor: int) -> bytes:
    try:
        return os.read(descriptor, 65536)
    except OSError:  # the last one has closed the terminal
        return b""


def test_unknown_episode_names_the_nearest(work: Honed, episodes: list[str]) -> None:
    """A slip of the pen is answered with what was probably meant."""
    done = run(work, "data", "show", episodes[0][:-1])
    assert done.returncode == 1
    assert episodes[0] in done.stderr
    assert "honed episodes" in done.stderr


def test_without_base_model_there_is_no_text(tmp_path: Path) -> None:
    """The message says what is missing and how to give it."""
    with honed(tmp_path, 'scenario = "airline"') as work:
        done = run(work, "data", "show", "x")
    assert done.returncode == 78
    assert "base_model is not set" in done.stderr


def test_cut_is_told_beside_a_running_daemon(work: Honed, episodes: list[str]) -> None:
    """With too little room, what was lost is said with its turns; the daemon may run meanwhile."""
    work.start("run")
    done = run(work, "data", "show", episodes[0], "--max-length", "64")
    assert "beyond max_length 64 (turns 2" in done.stdout
    assert "kept      0, 0.0 % of the eligible" in done.stdout
    assert "left out: nothing in it counts" in done.stdout
