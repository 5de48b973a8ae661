"""Load on a feed while its daemon is killed again and again, and the proof afterwards.

As a program (`python -m tests.feed_load SOCKET NAME PAUSE_S`) it is one swarm process: it sends events and
writes the id of each one to stdout once it is acknowledged, finds the daemon again when it is away,
and ends when stdin closes.

For tests: `killed_under_load` kills and restarts a daemon `rounds` times under several of them,
`check_all_stored` compares what was acknowledged with what is in the database.
"""

import contextlib
import itertools
import random
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from honed.client import ConnectionLostError, HonedClient, RefusedError
from honed.client.wire import new_event_id

ROOT = Path(__file__).parent.parent


class Sent(NamedTuple):
    """What the swarms got acknowledged, and how much of it was sent again."""

    acked: list[str]
    num_resent: int


class Swarm:
    """One swarm process, its acknowledged ids read as they come."""

    def __init__(self, socket_path: Path, name: str, *, pause_s: float = 0) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.feed_load", str(socket_path), name, str(pause_s)],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.acked: list[str] = []
        self.num_resent = 0
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def stop(self) -> None:
        """Let it finish what it sends, and wait for it."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self._reader.join(60)
        assert self.process.wait(60) == 0
        assert self.process.stdout is not None
        self.process.stdout.close()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for row in self.process.stdout:
            word, _, rest = row.strip().partition(" ")
            if word == "acked":
                self.acked += rest.split(",")
            else:
                self.num_resent += int(rest)


@contextlib.contextmanager
def swarms(socket_path: Path, count: int, *, pause_s: float = 0) -> Iterator[list[Swarm]]:
    """Several swarm processes; stopped in order when the context ends, killed when it fails.

    `pause_s` is what each waits between two batches of 20 events.
    """
    running = [Swarm(socket_path, f"swarm{n}", pause_s=pause_s) for n in range(count)]
    try:
        yield running
        for swarm in running:
            swarm.stop()
    finally:
        for swarm in running:
            swarm.process.kill()
            swarm.process.wait(10)


def killed_under_load(
    start: Callable[[], subprocess.Popen[bytes]],
    socket_path: Path,
    *,
    rounds: int,
    num_swarms: int = 4,
    seed: int = 0,
    pause_s: float = 0,
) -> Sent:
    """Load a daemon and kill it with SIGKILL at random moments, `rounds` times; then let it finish.

    Args:
        start: starts the daemon and returns at once; it is waited for by its socket.
        socket_path: where it listens.
        rounds: how often it is killed; most rounds wait until every client has got new acks, one in five kills the
            daemon while it starts.
        num_swarms: client processes at a time.
        seed: of the moments.
        pause_s: what each client waits between two batches of 20 events.

    Returns:
        Every acknowledged id. The last daemon was stopped with SIGTERM.
    """
    moments = random.Random(seed)
    with swarms(socket_path, num_swarms, pause_s=pause_s) as running:
        for number in range(rounds + 1):
            daemon = start()
            try:
                if number < rounds and moments.random() < 0.2:
                    time.sleep(moments.uniform(0, 1.5))
                else:
                    _wait_for_acks(running, daemon)
                    time.sleep(moments.uniform(0, 0.15))
            finally:
                if number < rounds:
                    daemon.send_signal(signal.SIGKILL)
                    daemon.wait(30)
        for swarm in running:
            swarm.stop()
    daemon.send_signal(signal.SIGTERM)
    assert daemon.wait(30) == 0
    return Sent(
        [event_id for swarm in running for event_id in swarm.acked],
        sum(swarm.num_resent for swarm in running),
    )


class Kept(NamedTuple):
    """What a store has of the events that were acknowledged."""

    num_stored: int
    num_lost: int
    num_doubled: int


def kept_of(database: Path, acked: list[str]) -> Kept:
    """Count what is stored, acknowledged but not stored, and stored more than once (by its id, where it has one)."""
    with contextlib.closing(sqlite3.connect(database)) as db:
        stored = [row[0] for row in db.execute("SELECT event_id FROM records")]
    known = [event_id for event_id in stored if event_id is not None]
    found = set(known)
    return Kept(len(stored), len(set(acked) - found), len(known) - len(found))


def check_all_stored(database: Path, acked: list[str]) -> None:
    """Every acknowledged event is in the store, none twice, and its group knows it."""
    kept = kept_of(database, acked)
    assert kept.num_doubled == 0, "an event is stored twice"
    assert kept.num_lost == 0, f"{kept.num_lost} of {len(acked)} acknowledged events are lost"
    db = sqlite3.connect(database)
    (in_groups,) = db.execute("SELECT sum(num_records) FROM groups").fetchone()
    (members,) = db.execute("SELECT count(*) FROM memberships").fetchone()
    (counted,) = db.execute("SELECT num_records FROM totals").fetchone()
    (late,) = db.execute("SELECT num_late FROM totals").fetchone()
    assert in_groups == members
    assert counted == kept.num_stored
    (probes,) = db.execute(
        "SELECT count(*) FROM records WHERE json_extract(CAST(body AS TEXT), '$.purpose') = 'probe'"
    ).fetchone()  # nothing is learned from them, so they are in no group
    assert members + late + probes == kept.num_stored
    assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    db.close()


def _wait_for_acks(running: list[Swarm], daemon: subprocess.Popen[bytes]) -> None:
    before = [len(swarm.acked) for swarm in running]
    deadline = time.monotonic() + 30
    while any(len(swarm.acked) == count for swarm, count in zip(running, before, strict=True)):
        assert daemon.poll() is None, f"the daemon ended with {daemon.returncode}"
        assert time.monotonic() < deadline, "no new acknowledgements for 30 s"
        time.sleep(0.005)


# ---------------------------------------------------------------- one swarm process


def main(socket_path: str, name: str, pause_s: float) -> None:
    """Send batches until stdin closes; a batch is sent until it is acknowledged."""
    stop = threading.Event()
    threading.Thread(target=lambda: (sys.stdin.read(), stop.set()), daemon=True).start()
    client = HonedClient(socket_path, timeout_s=5)
    num_resent = 0
    for batch in itertools.count():
        if stop.wait(pause_s):
            break
        events = [_action(f"{name}-{batch // 5}", n) for n in range(20)]
        while not _is_sent(client, events):
            num_resent += len(events)
            time.sleep(0.05)
        _say(f"acked {','.join(event['event_id'] for event in events)}")
    _say(f"resent {num_resent}")
    client.close()


def _say(row: str) -> None:
    sys.stdout.write(row + "\n")
    sys.stdout.flush()


def _is_sent(client: HonedClient, events: list[dict[str, Any]]) -> bool:
    try:
        client.send(*events)
    except (ConnectionLostError, RefusedError):
        return False
    return True


def _action(task_id: str, tick: int) -> dict[str, Any]:
    return {
        "type": "action",
        "event_id": new_event_id(),
        "task_id": task_id,
        "tick": tick,
        "worker_id": tick % 4,
        "action": "probe",
        "result": {"success": True, "output": "x" * 300},
    }


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], float(sys.argv[3]))
