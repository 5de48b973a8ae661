"""The feed under a full disk, hostile clients, a thousand of them, and hands on its socket.

Each shows what the sender and the operator see, and that no acknowledged event is gone. Damaged pages, locks and
clocks are in `test_store`, kills in tests/flow/test_daemon_killed.py, forks in tests/unit/client.
"""

import contextlib
import json
import resource
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from honed.client import BackgroundClient, HonedClient, RefusedError
from tests.feed_load import check_all_stored
from tests.feed_parts import action, line
from tests.processes import Honed, honed, resident_mib

SETTINGS = 'scenario = "swarm"\ntrigger = "manual()"\n[apply]\nkind = "none"'
MIB = 1 << 20


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Honed]:
    """A daemon that takes events."""
    with honed(tmp_path, SETTINGS) as found:
        found.start("run")
        yield found


def feed_of(daemon: Honed) -> Path:
    return daemon.data_dir / "feed.sock"


def check(daemon: Honed, acked: list[str]) -> None:
    """Stopped in peace, the daemon has everything that was acknowledged, once."""
    assert daemon.stop("run") == 0, daemon.log_tail()
    check_all_stored(daemon.data_dir / "honed.db", acked)


def sent(client: HonedClient, **fields: Any) -> list[str]:
    return list(client.send(*[action(**fields) for _ in range(20)]).event_ids)


def told(daemon: Honed) -> str:
    """What `honed status` prints."""
    command = [sys.executable, "-m", "honed", "status", "--config", str(daemon.config)]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout


class Peer:
    """A client that keeps to no rules."""

    def __init__(self, path: Path) -> None:
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(30)
        self.socket.connect(str(path))
        self._replies = self.socket.makefile("rb")

    def hear(self) -> dict[str, Any]:
        reply = json.loads(self._replies.readline())
        assert isinstance(reply, dict)
        return reply

    def close(self) -> None:
        self._replies.close()
        self.socket.close()


Fill = Callable[[], Callable[[], None]]
"""Fills the disk; what it returns makes room again."""


@contextlib.contextmanager
def small_disk(folder: Path) -> Iterator[Fill]:
    """A file system of 8 MiB in `folder`, with the daemon's log on it too; skips where none can be mounted."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=8m", "none", str(folder)]
    if subprocess.run(mount, capture_output=True).returncode != 0:
        pytest.skip("no file system can be mounted here")

    def fill() -> Callable[[], None]:
        filler = folder / "filler"
        with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
            for size in (1 << 16, 1 << 8, 1):
                with contextlib.suppress(OSError):
                    while True:
                        file.write(b"x" * size)
        return filler.unlink

    try:
        yield fill
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def limited(daemon: Honed) -> Callable[[], None]:
    """Let no file of the daemon's grow; returns how to lift it."""
    pid = daemon.running["run"].pid
    before = resource.prlimit(pid, resource.RLIMIT_FSIZE)
    size = max(path.stat().st_size for path in daemon.data_dir.glob("honed.db*"))
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (size, before[1]))
    return lambda: resource.prlimit(pid, resource.RLIMIT_FSIZE, before)


def refusal(client: HonedClient, acked: list[str]) -> RefusedError:
    """Send until the daemon cannot store; what it says then."""
    while len(acked) < 100_000:
        try:
            acked += sent(client, target="x" * 1_000)
        except RefusedError as error:
            return error
    raise AssertionError("the disk is not full")


@pytest.mark.parametrize("kind", ["limit", "disk"])
def test_a_full_disk_refuses_events_and_keeps_what_it_has(tmp_path: Path, kind: str) -> None:
    """Senders hear why, a spool waits, status says so; when there is room it goes on by itself."""
    with contextlib.ExitStack() as opened:
        fill: Fill = lambda: limited(daemon)  # noqa: E731
        if kind == "disk":
            fill = opened.enter_context(small_disk(tmp_path / "loop"))
        daemon = opened.enter_context(honed(tmp_path / "loop", SETTINGS))
        daemon.start("run")
        client = opened.enter_context(HonedClient(feed_of(daemon)))
        acked = sent(client)
        make_room = fill()
        refused = refusal(client, acked)
        assert refused.code == "store"
        assert "the events may be sent again" in refused.__notes__[0]
        background = BackgroundClient(feed_of(daemon), spool=tmp_path / "spool")
        spooled = background.send(*[action(target="x" * 1_000) for _ in range(200)])
        assert not background.flush(0.5)
        assert "may be sent again" in daemon.status()["store_problem"]
        assert "\nstore       events could not be committed" in told(daemon)
        make_room()
        acked += sent(client)
        assert background.flush(30), background.counts()
        background.close()
        assert daemon.status()["store_problem"] is None
        check(daemon, [*acked, *spooled])


def test_a_stalled_client_is_in_nobodys_way(daemon: Honed) -> None:
    """Half a line on each of 50 connections: others are served, and a stop does not wait for them."""
    acked: list[str] = []
    stalled = [Peer(feed_of(daemon)) for _ in range(50)]
    for peer in stalled:
        peer.socket.sendall(line(action()) + b"\n" + line(action())[:40])
        assert peer.hear()["line"] == 1
    with HonedClient(feed_of(daemon)) as client:
        acked += sent(client)
    assert daemon.status()["records"] == 70
    check(daemon, acked)
    for peer in stalled:
        assert peer.hear()["code"] == "draining"
        peer.close()


@pytest.mark.parametrize(
    "size", [64 * MIB, pytest.param(1024 * MIB, marks=[pytest.mark.long, pytest.mark.timeout(600)])]
)
def test_bytes_without_a_newline_cost_no_memory(
    daemon: Honed, size: int, record_property: Callable[[str, object], None]
) -> None:
    """Each connection is cut at the limit of a line and told so; it comes again until it has sent them all."""
    pid = daemon.running["run"].pid
    with HonedClient(feed_of(daemon)) as client:
        acked = sent(client)
        before = resident_mib(pid)
        highest, left, num_cut = before, size, 0
        while left > 0:
            peer = Peer(feed_of(daemon))
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                while True:
                    left -= peer.socket.send(b"x" * MIB)
            assert peer.hear()["code"] == "too_long"
            peer.close()
            num_cut += 1
            highest = max(highest, resident_mib(pid))
        acked += sent(client)
    print(f"\n{size // MIB} MiB on {num_cut} connections: RSS {before:.1f} to {highest:.1f} MiB")  # noqa: T201
    record_property("grown_mib", highest - before)
    assert highest - before < 16
    check(daemon, acked)


def test_a_thousand_connections_are_all_served(daemon: Honed) -> None:
    """Open at the same time, and each one's event is acknowledged."""
    events = [action(task_id=f"t{n}") for n in range(1_000)]
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 8_192), hard))
    try:
        peers = [Peer(feed_of(daemon)) for _ in events]
        for peer, event in zip(peers, events, strict=True):
            peer.socket.sendall(line(event) + b"\n")
        for peer in peers:
            assert peer.hear() == {"type": "ack", "line": 1, "stored": 1, "duplicates": 0}
        assert daemon.status()["refused_connections"] == 0
        for peer in peers:
            peer.close()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    check(daemon, [event["event_id"] for event in events])


def test_a_deleted_socket_comes_back(daemon: Honed) -> None:
    """Under load: connections go on, new ones find it again, and nothing that was acknowledged is gone."""
    acked: list[str] = []
    stop = threading.Event()

    def swarm() -> None:
        with HonedClient(feed_of(daemon)) as client:
            while not stop.is_set():
                acked.extend(sent(client))

    thread = threading.Thread(target=swarm)
    thread.start()
    try:
        with BackgroundClient(feed_of(daemon)) as late:
            daemon.until(lambda: acked, "the swarm is connected")
            for _ in range(2):
                feed_of(daemon).unlink()
                ids = late.send(action())
                daemon.until(feed_of(daemon).is_socket, "the socket is there again")
                assert late.flush(30)
                acked += ids
    finally:
        stop.set()
        thread.join()
    assert "source.reopened" in daemon.log_tail()
    check(daemon, acked)


def test_a_daemon_that_restarts_in_mid_batch_gets_the_rest(tmp_path: Path) -> None:
    """One `send` of 10,000 events outlives a stop and a kill: each of them is stored once."""
    with honed(tmp_path, SETTINGS) as daemon:
        daemon.start("run")
        background = BackgroundClient(feed_of(daemon), spool=tmp_path / "spool")
        ids = background.send(*[action(target="x" * 500) for _ in range(10_000)])
        for end in (daemon.stop, daemon.kill):
            goal = background.counts().sent + 500
            daemon.until(lambda goal=goal: background.counts().sent > goal, "some are stored")
            end("run")
            daemon.start("run")
        assert background.flush(60)
        background.close()
        assert background.counts().rejected == 0
        check(daemon, list(ids))
