"""What strangers wrote is shown by every command, and acted on by none."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from honed.cli.printing import visible

HOSTILE = "[/b][red]\x1b]0;owned\x07\x1b[2J"
SHOWN = "[/b][red]\\x1b]0;owned\\x07\\x1b[2J"


@pytest.fixture
def config(tmp_path: Path) -> str:
    """A scenario whose one episode bears a name that means to harm a terminal."""
    settings = f'scenario = "airline"\nbase_model = "no/base"\ndata_dir = "{tmp_path / "d"}"\n'
    (tmp_path / "honed.toml").write_text(settings)
    turns = [{"role": "user", "content": "hello"}, {"role": "assistant", "content": HOSTILE}]
    rows = [
        {"messages": turns, "reward": 1, "id": HOSTILE, "group_id": HOSTILE},
        {HOSTILE: "no known form"},
    ]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(tmp_path / "honed.toml")


def run(config: str, *arguments: str) -> str:
    """What a command prints, stderr included."""
    done = subprocess.run(
        [sys.executable, "-m", "honed", *arguments, "--config", config],
        env=os.environ | {"COLUMNS": "250"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=60,
    )
    assert "Traceback" not in done.stdout
    assert "\x1b]" not in done.stdout
    assert "\x07" not in done.stdout
    return done.stdout


def test_names_and_faults_are_shown_as_they_are(config: str, tmp_path: Path) -> None:
    """Imported, listed, asked for and not found: brackets stay, control characters are spelled out."""
    assert SHOWN in run(config, "import", str(tmp_path / "rows.jsonl"))
    assert SHOWN in run(config, "episodes")
    assert SHOWN in run(config, "data", "show", HOSTILE)
    assert SHOWN in run(config, "adapters", HOSTILE)


@pytest.mark.parametrize("text", ["plain", "tab\tand\nline", "Füße 你好 😀"])
def test_ordinary_text_is_not_changed(text: str) -> None:
    """Letters of all scripts, new lines and tabs."""
    assert visible(text) == text
