"""What the README says is so: its samples run, its commands exist, its rules parse."""

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

from honed.triggers import parse
from tests.processes import honed

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()


def _blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def test_the_python_sample_reports_an_outcome(tmp_path: Path) -> None:
    """Copied as it stands; only the home folder is another."""
    (sample,) = _blocks("python")
    home = tmp_path / "h"
    with honed(tmp_path, 'scenario = "airline"\n[apply]\nkind = "none"') as daemon:
        daemon.start("run")
        feed = home / ".local/share/honed/airline"
        feed.parent.mkdir(parents=True)
        feed.symlink_to(daemon.data_dir)
        environment = os.environ | {"HOME": str(home)}
        subprocess.run([sys.executable, "-c", sample], env=environment, check=True, timeout=30)
        assert daemon.status()["records"] == 1


def test_every_rule_in_it_parses() -> None:
    """Samples of triggers are real rules."""
    rules = [line for block in _blocks("toml") for line in block.splitlines() if line]
    assert len(rules) >= 2
    for rule in rules:
        parse(tomllib.loads(rule)["trigger"])


def test_every_command_in_it_exists() -> None:
    """The table and the samples name no command that is not there."""
    listed = subprocess.run(
        [sys.executable, "-m", "honed", "--help"],
        capture_output=True,
        text=True,
        check=True,
        timeout=30,
        env=os.environ | {"COLUMNS": "120"},
    ).stdout
    named = set(re.findall(r"^\| `honed (.+?)` \|", README, re.MULTILINE))
    verbs = {verb for row in named for verb in re.findall(r"[a-z][a-z-]+", row)}
    missing = {verb for verb in verbs if not re.search(rf"\b{verb}\b", listed)}
    assert verbs
    assert not missing


def test_every_header_in_it_is_read_by_the_gateway() -> None:
    """The table of headers and the gateway agree."""
    source = (ROOT / "src/honed/gateway/labels.py").read_text()
    table = re.findall(r"^\| (`x-honed.+?) \|", README, re.MULTILINE)
    names = {name for row in table for name in re.findall(r"`(?:x-honed)?-([a-z]+)`", row)}
    assert names == {
        "task",
        "group",
        "agent",
        "role",
        "user",
        "session",
        "worker",
        "purpose",
        "train",
        "scenario",
    }
    for name in names:
        assert f"x-honed-{name}" in source or f'"{name}"' in source, name
