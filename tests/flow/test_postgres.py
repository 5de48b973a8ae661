"""The daemon and its commands on a PostgreSQL server: under load while either dies, and one at a time."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from honed.client import HonedClient, RejectedError
from honed.doctor import settings as settings_check
from honed.doctor import store as store_check
from honed.doctor.patient import Patient
from tests.feed_load import swarms
from tests.feed_parts import action, call, success
from tests.postgres import PostgresServer, sql
from tests.processes import Honed, honed

PASSWORD = "hunter2"
SETTINGS = (
    'scenario = "swarm"\ntrigger = "manual()"\n[apply]\nkind = "none"\n[events]\nsettle = "0s"'
)


@pytest.fixture
def server() -> Iterator[PostgresServer]:
    made = PostgresServer("fsync=off", "shared_buffers=32MB")
    try:
        made.start()
        yield made
    finally:
        made.stop()


def settings(url: str) -> str:
    """The config's text; the server trusts anybody, so the password is only there to be looked for."""
    return f'database = "{url.replace("postgres@", f"postgres:{PASSWORD}@")}"\n{SETTINGS}'


def cli(place: Honed, *arguments: str, status: int = 0) -> str:
    """What a command prints; on stderr where it fails."""
    done = subprocess.run(
        [sys.executable, "-m", "honed", *arguments, "--config", str(place.config)],
        capture_output=True,
        text=True,
        timeout=60,
        env=os.environ | {"COLUMNS": "200"},
    )
    assert done.returncode == status, done.stdout + done.stderr
    assert PASSWORD not in done.stdout + done.stderr
    return done.stderr if status else done.stdout


def test_nothing_acknowledged_is_lost_whoever_dies(server: PostgresServer, tmp_path: Path) -> None:
    """The server is killed twice in mid-load and the daemon once; 0 lost, 0 doubled, and nobody is asked."""
    with honed(tmp_path, settings(server.url)) as place:
        place.start("run")
        daemon = place.running["run"]
        with swarms(place.data_dir / "feed.sock", 3) as running:

            def more(count: int = 100) -> None:
                before = sum(len(swarm.acked) for swarm in running)
                enough = lambda: sum(len(swarm.acked) for swarm in running) > before + count  # noqa: E731
                place.until(enough, "events are acknowledged")

            more()
            for _ in range(2):
                server.kill()
                server.start()
                more()
            assert place.running["run"] is daemon
            assert daemon.poll() is None
            place.kill("run")
            place.start("run")
            more()
        acked = [event_id for swarm in running for event_id in swarm.acked]
        stored = [id for (id,) in sql(own(server), "SELECT event_id FROM records")]
        assert len(stored) == len(set(stored))
        assert set(acked) <= set(stored)
        assert place.status()["records"] == len(stored)
        assert place.stop("run") == 0
        assert PASSWORD not in place.log_tail()


def own(server: PostgresServer) -> str:
    """The schema of the scenario."""
    return f"{server.url}&schema=honed_swarm"


def test_the_commands_work_and_a_second_daemon_does_not(
    server: PostgresServer, tmp_path: Path
) -> None:
    """Status, doctor, config, export, import, forget; what a server's store cannot do says so."""
    where = settings(server.url)
    with honed(tmp_path / "one", where) as place, honed(tmp_path / "other", where) as other:
        assert "nothing is stored" in cli(place, "runs", status=1)
        assert sql(server.url, "SELECT count(*) FROM pg_namespace WHERE nspname ~ '^honed'") == [
            (0,)
        ]
        place.config.chmod(0o644)
        place.start("run")
        with HonedClient(place.data_dir / "feed.sock") as client:
            for n in range(3):
                task = {"task_id": f"t{n}"}
                client.send(call(**task), action(**task), success(**task))
            with pytest.raises(RejectedError, match="NUL"):
                client.send(action(task_id="t\0"))
        place.until(lambda: place.status()["episodes"] == 3, "the episodes are made")
        assert place.status()["rss_mb"] < 100
        [said], config = settings_check.config(place.config)
        assert "others may read" in said.text
        assert config is not None
        found = store_check.store(Patient(config))
        assert "9 records" in found.text
        assert "a daemon works on it" in found.text
        assert "does not keep commits through a crash" in found.text  # fsync=off
        assert PASSWORD not in f"{said} {found}"

        child = other.start("run", is_awaited=False)
        assert child.wait(30) == 1  # systemd tries again: the other may be gone
        assert "another daemon works on" in other.log_tail()
        assert PASSWORD not in other.log_tail()

        (tmp_path / "b.tar").touch()
        assert "pg_dump" in cli(place, "restore", str(tmp_path / "b.tar"), status=1)
        exported = str(tmp_path / "all.jsonl")
        cli(place, "export", exported, "--outcome", "all")
        asked = json.loads(cli(place, "forget", "--task", "t1", "--yes", "--json"))
        assert (asked["records"], asked["done"]) == (3, True)
        assert any("server" in line for line in asked["out_of_reach"])
        elsewhere = cli(other, "forget", "--task", "t2", "--yes", status=1)
        assert "another daemon works on" in elsewhere
        again = json.loads(cli(place, "import", exported, "--json"))
        assert (again["episodes"], again["known"]) == (0, 3)
        assert place.stop("run") == 0
