"""kill -9 of the real daemon, again and again, under load from several swarm processes."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.feed_load import check_all_stored, killed_under_load
from tests.processes import honed


@pytest.mark.feature("SE-074")
@pytest.mark.parametrize(
    "rounds", [3, pytest.param(20, marks=[pytest.mark.long, pytest.mark.timeout(600)])]
)
def test_every_acknowledged_event_survives_the_daemon(
    tmp_path: Path, rounds: int, record_property: Callable[[str, object], None]
) -> None:
    """0 lost, 0 doubled, and the database is whole."""
    settings = 'scenario = "swarm"\ntrigger = "manual()"\n[apply]\nkind = "none"'
    with honed(tmp_path, settings) as daemon:

        def start() -> subprocess.Popen[bytes]:
            child = subprocess.Popen(
                [sys.executable, "-m", "honed", "run", "--config", str(daemon.config)],
                stderr=subprocess.DEVNULL,
            )
            daemon.running["run"] = child
            return child

        sent = killed_under_load(start, daemon.data_dir / "feed.sock", rounds=rounds)
    assert sent.acked
    check_all_stored(daemon.data_dir / "honed.db", sent.acked)
    record_property("acknowledged", len(sent.acked))
