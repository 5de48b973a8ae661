"""`honed why` and `honed trigger replay` on a real store, with and without a daemon."""

import json
import re
from pathlib import Path

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
            "the daemon does not run: `honed up` or `honed run` starts it"
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
