"""`honed why` and `honed trigger replay` on a real store, with and without a daemon."""

import json
import re
from functools import partial
from pathlib import Path
from xml.etree import ElementTree as ET

import anyio

from honed.domain.outcome import Failure, Success
from honed.domain.times import now_ms
from honed.ports import Verdict
from honed.stores import open_store
from honed.triggers import parse
from tests.contract.test_store import episode
from tests.flow.test_command_line import EXCERPT, _honed
from tests.processes import honed

SETTINGS = """
scenario = "airline"
trigger = 'every("2h") & count(2) | quality(below=0.1)'
[apply]
kind = "none"
"""


def test_why_tells_figures_and_when_with_a_daemon_and_without(tmp_path: Path) -> None:
    """The same verdict; what else is waited for differs."""
    with honed(tmp_path, SETTINGS) as daemon:
        config = ("--config", str(daemon.config))
        _honed(tmp_path, "import", str(EXCERPT), *config)
        early = _honed(tmp_path, "why", *config)
        assert early.returncode == 1
        assert "never started (`honed up` or `honed run` starts it)" in early.stderr
        daemon.start("run")
        running = json.loads(_honed(tmp_path, "why", "--json", *config).stdout)
        assert daemon.stop("run") == 0
        alone = json.loads(_honed(tmp_path, "why", "--json", *config).stdout)
        assert (running["running"], alone["running"]) == (True, False)
        assert running["waits_for"] == ["no base_model is configured: nothing can train"]
        assert alone["waits_for"] == [
            "the daemon does not run: `honed up` or `honed run` starts it",
            "no base_model is configured: nothing can train",
        ]
        for found in (running, alone):
            assert not found["verdict"]["fires"]
            every, count = found["verdict"]["parts"][0]["parts"]
            assert (every["rule"], count["rule"]) == ('every("2h")', "count(2)")
            assert (count["fires"], count["detail"]) == (True, "3 of 2 episodes")
            assert (found["prospect"], found["pace"]["episodes"]) == ("later", 3)
            assert 7_000 < found["in_s"] <= 7_200
        text = _honed(tmp_path, "why", *config).stdout
        assert "    yes count(2)  (3 of 2 episodes)\n" in text
        assert re.search(
            r"^fires      in 1h59m\d+s, at 20..-..-.. ..:..:.. UTC", text, re.MULTILINE
        )
        assert "quality(below=0.1, window=50, min_samples=10) is taken as it stands" in text


def test_why_tells_each_learn_model_and_that_nothing_is_trained_offline(tmp_path: Path) -> None:
    """All of them unless one is named; an unknown one is refused with those that there are."""
    settings = SETTINGS.replace("[apply]", 'processor_mode = "offline"\n[apply]')
    settings += '[learn]\nmodel = ["chat", "worker_task"]\n'
    with honed(tmp_path, settings) as daemon:
        daemon.start("run")
        config = ("--config", str(daemon.config))
        _honed(tmp_path, "import", str(EXCERPT), *config)
        daemon.until(lambda: daemon.status()["episodes"], "episodes are made")
        found = json.loads(_honed(tmp_path, "why", "--json", *config).stdout)
        assert found["learn_model"] == "chat"
        assert [each["learn_model"] for each in found["others"]] == ["worker_task"]
        assert "nothing is new since" in found["others"][0]["waits_for"][-1]
        assert found["waits_for"][0].startswith("processor_mode is offline: nothing is trained")
        text = _honed(tmp_path, "why", *config).stdout
        assert text.startswith("learn model chat\n")
        assert "\n\nlearn model worker_task\n" in text
        other = _honed(tmp_path, "why", "--learn-model", "dpo", *config)
        assert (other.returncode, "expected one of: chat, worker_task" in other.stderr) == (1, True)
        assert daemon.stop("run") == 0


async def _fill(path: Path, *, days: int) -> None:
    """One episode each hour until now; from the middle on half of them fail."""
    async with open_store(f"sqlite:///{path}") as store:
        last_ms = now_ms()
        for hour in range(24 * days, 0, -1):
            ms = last_ms - hour * 3_600_000
            is_good = hour > 12 * days or hour % 2
            outcome = Success() if is_good else Failure("no")
            said = Verdict(outcome=outcome, source="test", at_ms=ms)
            made = episode(outcome, ms=ms, task_id=f"t{hour}")
            await store.add_episode(made, [], verdicts=[said])


def test_replay_tells_when_a_rule_would_have_fired(tmp_path: Path) -> None:
    """As JSON, as a table with a plot, and as an SVG that stands alone."""
    with honed(tmp_path, SETTINGS) as daemon:
        daemon.data_dir.mkdir()
        anyio.run(partial(_fill, daemon.data_dir / "honed.db", days=5))
        config = ("--config", str(daemon.config))
        plot = tmp_path / "plot.svg"
        rule = "count(25) | quality(below=0.6, window=10, min_samples=10)"
        done = _honed(tmp_path, "trigger", "replay", rule, "--json", "--plot", str(plot), *config)
        found = json.loads(done.stdout)
        assert (found["rule"], found["episodes"], found["run_time_s"]) == (rule_of(rule), 120, 0)
        firings = found["firings"]
        assert [each["new"] for each in firings] == [25, 25, 17, 10, 10, 10, 10, 10]
        assert [each["success_rate"] for each in firings[:2]] == [1, 1]
        assert (
            "yes quality(below=0.6, window=10, min_samples=10)  (6 of 10" in firings[2]["verdict"]
        )
        assert found["waiting"] == 3
        assert ET.parse(plot).getroot().tag == "{http://www.w3.org/2000/svg}svg"

        text = _honed(tmp_path, "trigger", "replay", rule, "--since", "60h", *config).stdout
        assert text.startswith("    episodes that wait\n")
        assert "^" in text
        assert re.search(r"^ *1  20\d\d-.*  10 +0 +50%  quality: ", text, re.MULTILINE)
        assert "would have fired 5 times in 2d12h (" in text
        slow = _honed(tmp_path, "trigger", "replay", "count(10)", "--run-time", "20h", *config)
        assert "would have fired 6 times" in slow.stdout

        bad = _honed(tmp_path, "trigger", "replay", "count(1)", "--since", "7x", *config)
        assert (bad.returncode, "not a duration" in bad.stderr) == (2, True)
        none = _honed(tmp_path, "trigger", "replay", "count(1)", "--since", "0s", *config)
        assert (none.returncode, "is no time at all" in none.stderr) == (2, True)
        same = _honed(tmp_path, "trigger", "replay", "count(40)", *config).stdout
        assert "\neach on 40 episodes\n" in same
        other = _honed(tmp_path, "trigger", "replay", "--scenario", "rail", *config)
        assert (other.returncode, "no episode of scenario rail" in other.stderr) == (1, True)


def rule_of(text: str) -> str:
    return str(parse(text))
