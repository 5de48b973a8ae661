"""Backup under load and back, forgetting through the daemon and without it."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx
import pytest

from honed.client import HonedClient
from tests.feed_load import check_all_stored, swarms
from tests.feed_parts import action, call, success
from tests.processes import Honed, honed

SETTINGS = (
    'scenario = "swarm"\ntrigger = "manual()"\n[apply]\nkind = "none"\n[events]\nsettle = "0s"'
)
MARK = "Xylophon"


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
    return done.stderr if status else done.stdout


def test_a_backup_under_load_has_all_that_was_acknowledged_before(tmp_path: Path) -> None:
    """Restored it is whole; meanwhile nobody who sends waits for long."""
    with honed(tmp_path / "loop", SETTINGS) as place:
        place.start("run")
        with swarms(place.data_dir / "feed.sock", 2) as running:
            place.until(lambda: min(len(swarm.acked) for swarm in running) > 500, "events are in")
            before = [event_id for swarm in running for event_id in list(swarm.acked)]
            child = subprocess.Popen(
                [
                    *(sys.executable, "-m", "honed", "backup", str(tmp_path / "b.tar")),
                    *("--json", "--config", str(place.config)),
                ],
                stdout=subprocess.PIPE,
            )
            slowest = slowest_send(place, child)
            assert child.stdout is not None
            made = json.loads(child.stdout.read())
            child.stdout.close()
            assert child.wait(60) == 0
        assert "another daemon runs" in cli(place, "restore", str(tmp_path / "b.tar"), status=1)
        assert place.stop("run") == 0
        assert "there are records" in cli(place, "restore", str(tmp_path / "b.tar"), status=1)
        done = json.loads(cli(place, "restore", str(tmp_path / "b.tar"), "--force", "--json"))
        assert Path(done["moved_to"]).is_dir()
        assert made["records"] >= len(before)
        check_all_stored(place.data_dir / "honed.db", before)
        place.start("run")
        assert place.status()["records"] == made["records"]
    assert slowest < 2.0


def slowest_send(place: Honed, child: subprocess.Popen[bytes]) -> float:
    """The longest wait for an acknowledgement while the child works, seconds."""
    slowest = 0.0
    with HonedClient(place.data_dir / "feed.sock") as client:
        while child.poll() is None:
            began = time.monotonic()
            client.send(action(task_id="measured"))
            slowest = max(slowest, time.monotonic() - began)
    return slowest


def events(task: str) -> list[dict[str, Any]]:
    return [
        call(task_id=task, user=f"user-{task}", model=task),
        action(task_id=task, user=f"user-{task}", target=task),
        success(task_id=task),
    ]


@pytest.mark.parametrize("with_daemon", [True, False])
def test_forget_asks_shows_and_leaves_nothing(tmp_path: Path, with_daemon: bool) -> None:
    """The daemon's writer does it where one runs; the raw files have no byte of it afterwards."""
    with honed(tmp_path / "loop", SETTINGS) as place:
        place.start("run")
        sent = [event for n in range(30) for event in events(f"t{n}")] + events(MARK)
        with HonedClient(place.data_dir / "feed.sock") as client:
            client.send(*sent)
            place.until(lambda: place.status()["episodes"] == 31, "the episodes are made")
            if not with_daemon:
                assert place.stop("run") == 0
            whose = ("forget", "--user", f"user-{MARK}")
            seen = json.loads(cli(place, *whose, "--json"))
            assert (seen["records"], seen["episodes"], seen["done"]) == (3, 1, False)
            assert MARK.encode() in raw(place)
            assert "Aborted" in cli(place, *whose, status=1)
            done = json.loads(cli(place, *whose, "--yes", "--json"))
            assert (done["records"], done["done"], done["scrubbed"]) == (3, True, True)
            assert MARK.encode() not in raw(place)
            if with_daemon:
                client.send(*sent[-3:])
                assert place.status()["duplicates"] == 3
                assert MARK.encode() not in raw(place)
                assert place.status()["episodes"] == 31  # how many came, not how many are kept
        assert "name one of" in cli(place, "forget", status=2)


def raw(place: Honed) -> bytes:
    return b"".join(path.read_bytes() for path in place.data_dir.glob("honed.db*"))


def test_cleanup_says_what_would_go(tmp_path: Path) -> None:
    """With a daemon and without; compacting is for when it is stopped."""
    with honed(tmp_path / "loop", f'{SETTINGS}\n[keep]\nuntrained = "0.001s"') as place:
        place.start("run")
        with HonedClient(place.data_dir / "feed.sock") as client:
            client.send(*[event for n in range(30) for event in events(f"t{n}")])
        place.until(lambda: place.status()["episodes"] == 30, "the episodes are made")
        seen = json.loads(cli(place, "cleanup", "--dry-run", "--json"))
        assert (seen["episodes"], seen["records"], seen["done"]) == (30, 90, False)
        assert "another daemon" in cli(place, "cleanup", "--compact", status=1)
        assert "gone: 90 records, 30 episodes" in cli(
            place, "cleanup"
        )  # so nothing was gone before
        assert place.status()["episodes"] == 30
        with pytest.raises(httpx.HTTPStatusError):
            place.ask("POST", "/v1/forget", {"kind": "colour", "name": "red"})
        assert place.stop("run") == 0
        assert json.loads(cli(place, "cleanup", "--compact", "--json"))["episodes"] == 0


def test_a_dry_run_says_that_what_no_training_has_seen_stays(tmp_path: Path) -> None:
    """Where it keeps the data above their limit, neither the look nor the real run takes any of it."""
    with honed(tmp_path / "loop", f'{SETTINGS}\n[keep]\nmax_size = "1KiB"') as place:
        place.start("run")
        with HonedClient(place.data_dir / "feed.sock") as client:
            client.send(*events("t1"))
        place.until(lambda: place.status()["episodes"] == 1, "the episode is made")
        assert "nothing would go for that" in cli(place, "cleanup", "--dry-run")
        assert "gone: 0 records, 0 episodes" in cli(place, "cleanup")


def test_cleanup_never_goes_by_other_limits_than_the_config_says(tmp_path: Path) -> None:
    """A running daemon has those of its start: it refuses, even to look, and names what differs."""
    with honed(tmp_path / "loop", SETTINGS) as place:
        place.start("run")
        with HonedClient(place.data_dir / "feed.sock") as client:
            client.send(*events("t1"))
        place.until(lambda: place.status()["episodes"] == 1, "the episode is made")
        assert "gone: 0 records" in cli(place, "cleanup")
        with place.config.open("a") as file:
            file.write('\n[keep]\nuntrained = "0.001s"\n')
        for arguments in (["cleanup", "--dry-run"], ["cleanup"]):
            told = cli(place, *arguments, status=1)
            assert "keep.untrained" in told
            assert "restart the daemon" in told
        assert place.ask("POST", "/v1/cleanup", {"dry": True})["episodes"] == 0
        assert place.stop("run") == 0
        assert "gone: 3 records, 1 episodes" in cli(place, "cleanup")
