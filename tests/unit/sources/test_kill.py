"""Acknowledged means on disk: a feed that is killed under load."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.feed_load import ROOT, check_all_stored, killed_under_load


@pytest.mark.parametrize("rounds", [3, pytest.param(20, marks=pytest.mark.long)])
def test_acknowledged_events_survive_kill_9(tmp_path: Path, rounds: int) -> None:
    """Four swarms send while their daemon dies at random moments: nothing is lost, nothing twice."""

    def start() -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "tests.feed_server", str(tmp_path)]
        return subprocess.Popen(command, cwd=ROOT)

    sent = killed_under_load(start, tmp_path / "feed.sock", rounds=rounds)
    check_all_stored(tmp_path / "honed.db", sent.acked)
    assert len(sent.acked) >= 4 * 20 * (rounds + 1)
    assert sent.num_resent > 0
