"""kill -9 of the real daemon at random moments, again and again, under load from several processes.

    KILLS=200 SEED=3 CLIENTS=8 python -m tests.faults.feed_kills

prints how often it was killed, how many events were acknowledged, lost and doubled, and how many were sent again; it
ends with status 1 when one is lost or doubled. tests/flow/test_daemon_killed.py runs the same.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from tests.feed_load import check_all_stored, kept_of, killed_under_load
from tests.processes import honed

SETTINGS = 'scenario = "swarm"\ntrigger = "manual()"\n[apply]\nkind = "none"'


def killed(folder: Path, *, kills: int, clients: int, seed: int) -> dict[str, Any]:
    """Kill a daemon in `folder` so often; the figures. Raises AssertionError when the store is not whole."""
    began_s = time.monotonic()
    with honed(folder, SETTINGS) as daemon:

        def start() -> subprocess.Popen[bytes]:
            return daemon.start("run", is_awaited=False)

        sent = killed_under_load(
            start,
            daemon.data_dir / "feed.sock",
            rounds=kills,
            num_swarms=clients,
            seed=seed,
            pause_s=0.005,
        )
    database = daemon.data_dir / "honed.db"
    kept = kept_of(database, sent.acked)
    figures = {
        "kills": kills,
        "clients": clients,
        "seed": seed,
        "acked": len(sent.acked),
        "lost": kept.num_lost,
        "doubled": kept.num_doubled,
        "sent again": sent.num_resent,
        "seconds": round(time.monotonic() - began_s),
    }
    sys.stdout.write(f"\nfeed kills: {json.dumps(figures)}\n")
    check_all_stored(database, sent.acked)
    return figures


if __name__ == "__main__":
    with tempfile.TemporaryDirectory(prefix="honed-kills-") as name:
        killed(
            Path(name),
            kills=int(os.environ.get("KILLS", "200")),
            clients=int(os.environ.get("CLIENTS", "8")),
            seed=int(os.environ.get("SEED", "0")),
        )
