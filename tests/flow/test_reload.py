"""A running daemon takes another rule, from a real signal, and forgets nothing."""

import json
import os
import pty
import signal
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from honed.client import HonedClient
from tests.processes import Honed, honed

_REST = '[apply]\nkind = "none"\n[events]\nsettle = "0s"\n'
_QUESTION = [{"role": "user", "content": "which queue?"}]
_ANSWER = {"role": "assistant", "content": "sales"}


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Honed]:
    with honed(tmp_path, "") as found:
        _write(found, 'trigger = "count(5)"')
        yield found


def _write(daemon: Honed, line: str) -> None:
    scenario = "" if "scenario" in line else 'scenario = "airline"'
    top = f'{scenario}\ndata_dir = "{daemon.data_dir}"\n'
    daemon.config.write_text(f"{top}{line}\n{_REST}")


def _told(daemon: Honed, event: str) -> list[dict[str, Any]]:
    """The log lines of that event."""
    lines = daemon.log_tail().splitlines()
    found = [json.loads(line) for line in lines if line.startswith("{")]
    return [line for line in found if line["event"] == event]


def _refused(daemon: Honed, says: str) -> bool:
    return any(says in line["error"] for line in _told(daemon, "config.refused"))


def _work(daemon: Honed, tasks: int) -> None:
    """So many tasks are done, and have become episodes."""
    with HonedClient(daemon.data_dir / "feed.sock") as client:
        for n in range(tasks):
            client.llm_call(_QUESTION, _ANSWER, task_id=f"t{n}")
            client.outcome(task_id=f"t{n}", success=True)
    daemon.until(lambda: daemon.status()["episodes"] == tasks, "all are episodes")


def _reload(daemon: Honed) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "honed", "reload", "--config", str(daemon.config)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


def test_a_signal_changes_the_rule_and_nothing_that_is_remembered(daemon: Honed) -> None:
    """What waited to be learned from still does; what else has changed is named and waits."""
    child = daemon.start("run")
    _work(daemon, 3)
    before = daemon.status()
    assert before["trigger"]["explain"] == "no  count(5)  (3 of 5 episodes)"
    _write(daemon, 'trigger = "count(3) & quality(min_samples=2)"\nlog_level = "DEBUG"')
    child.send_signal(signal.SIGHUP)
    daemon.until(lambda: _told(daemon, "config.reloaded"), "the config is read anew")
    after = daemon.status()
    assert after["trigger"]["explain"].splitlines()[1:] == [
        "  yes count(3)  (3 of 3 episodes)",
        "  no  quality(below=0.6, window=50, min_samples=2)  (3 of 3 succeeded, 100%)",
    ]
    assert (after["pid"], after["started_at"]) == (child.pid, before["started_at"])
    [line] = _told(daemon, "config.reloaded")
    assert line["wait"] == ["log_level"]


def test_a_config_that_is_broken_is_refused(daemon: Honed) -> None:
    """The old rule stays, the log says why, and the next config that can be used is taken."""
    child = daemon.start("run")
    for broken, says in (
        ('trigger = "cuont(3)"', "did you mean count"),
        ("trigger = 3 3", "is not TOML"),
        ('trigger = "count(1)"\nscenario = "rail"', "this daemon learns airline"),
    ):
        _write(daemon, broken)
        child.send_signal(signal.SIGHUP)
        refused = partial(_refused, daemon, says)
        daemon.until(refused, f"it is refused: {says}")
        assert daemon.status()["trigger"]["text"] == "count(5)"
    _write(daemon, 'trigger = "cuont(3)"')
    done = _reload(daemon)
    assert (done.returncode, "did you mean count" in done.stderr) == (78, True)
    assert (
        len(_told(daemon, "config.refused")) == 3
    )  # the command has read it, the daemon was not asked
    _write(daemon, 'trigger = "count(1)"\nscenario = "rail"')
    done = _reload(daemon)
    assert (done.returncode, "this daemon learns airline" in done.stderr) == (1, True)
    assert len(_told(daemon, "config.refused")) == 4
    _write(daemon, 'trigger = "count(2)"')
    done = _reload(daemon)
    assert (done.returncode, done.stdout) == (0, "trigger: count(2)\n")
    assert daemon.status()["trigger"]["text"] == "count(2)"


def test_a_daemon_whose_terminal_is_closed_ends(daemon: Honed) -> None:
    """There the same signal says that nobody is there any more; under nohup it says nothing at all."""
    for before, ends in (((), True), (("nohup",), False)):
        ours, theirs = pty.openpty()
        child = daemon.start("run", before=(*before, sys.executable, "-m", "honed"), stdin=theirs)
        os.close(theirs)
        os.close(ours)
        child.send_signal(signal.SIGHUP)
        if ends:
            assert child.wait(40) == 0
            daemon.running.pop("run")
        else:
            daemon.status()
            assert not _told(daemon, "config.reloaded")
            assert daemon.stop("run") == 0
