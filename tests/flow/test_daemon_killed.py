"""kill -9 of the real daemon, again and again, under load from several swarm processes.

`SEED=n` chooses the moments, `KILLS=n` how often the long form kills:

    KILLS=200 SEED=3 pytest tests/flow/test_daemon_killed.py -m long -s
"""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.faults.feed_kills import killed

KILLS = int(os.environ.get("KILLS", "200"))
SEED = int(os.environ.get("SEED", "0"))


@pytest.mark.feature("SE-074")
@pytest.mark.parametrize(
    ("kills", "clients"),
    [(5, 4), pytest.param(KILLS, 8, marks=[pytest.mark.long, pytest.mark.timeout(1_800)])],
)
def test_every_acknowledged_event_survives_the_daemon(
    tmp_path: Path, kills: int, clients: int, record_property: Callable[[str, object], None]
) -> None:
    """0 lost, 0 doubled, and the database is whole."""
    figures = killed(tmp_path, kills=kills, clients=clients, seed=SEED)
    assert figures["acked"]
    assert (figures["lost"], figures["doubled"]) == (0, 0)
    record_property("feed kills", figures)
