"""The programs in `examples/`, run as their readers would."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

from tests.processes import honed

ROOT = Path(__file__).parents[2]
EXCERPT = ROOT / "tests" / "data" / "tau-airline-excerpt.jsonl"


def _example(name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(ROOT / "examples" / name), *arguments],
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_a_replayed_folder_becomes_episodes_with_late_outcomes(tmp_path: Path) -> None:
    """One episode per trajectory, call by call; replaying it again adds nothing."""
    folder = tmp_path / "trajectories"
    folder.mkdir()
    shutil.copy(EXCERPT, folder)
    (folder / "broken.jsonl").write_text('{"neither": 1}\n')
    rows = [json.loads(row) for row in EXCERPT.read_text().splitlines()]
    settings = 'scenario = "airline"\n[apply]\nkind = "none"\n[events]\nsettle = "0s"'
    with honed(tmp_path, settings) as daemon:
        daemon.start("run")
        socket = str(daemon.data_dir / "feed.sock")
        arguments = (str(folder), "--socket", socket, "--pace", "0.001", "--late", "0.2")
        done = _example("replay.py", *arguments)
        assert done.returncode == 0, done.stderr
        assert "broken.jsonl:1 is no trajectory" in done.stderr
        turns = sum(turn["role"] == "assistant" for row in rows for turn in row["traj"])
        assert f"{turns} calls and 3 outcomes of 3 trajectories" in done.stdout
        daemon.until(lambda: daemon.status()["episodes"] == 3, "all are episodes")
        status = daemon.status()
        assert status["unlabelled"] == 0
        assert status["success_rate"] == sum(bool(row["reward"]) for row in rows) / 3
        again = _example("replay.py", *arguments)
        assert again.returncode == 0, again.stderr
        after = daemon.status()
        assert (after["records"], after["episodes"]) == (status["records"], 3)
        assert after["duplicates"] == turns + 3


def test_the_example_swarm_works_beside_honed_up(tmp_path: Path, tiny_base: Path) -> None:
    """Its calls are captured by the gateway, its outcomes join them to episodes."""
    settings = (
        f'scenario = "support"\nbase_model = "{tiny_base}"\ntrigger = "manual()"\n'
        '[serve]\nport = 0\nthreads = 1\n[events]\nsettle = "1s"'
    )
    with honed(tmp_path, settings) as both:
        both.start("up")
        both.until(lambda: both.serving()["scenarios"]["support"]["is_serving"], "it serves")
        base_url = f"{both.serving()['address']}/v1"
        done = _example(
            "swarm.py", "--config", str(both.config), "--base-url", base_url, "--tickets", "10"
        )
        assert done.returncode == 0, done.stderr
        assert "20/20 attempts, 0 failed; right: base " in done.stdout
        both.until(lambda: both.status()["episodes"] == 20, "each attempt is an episode")
        assert both.status()["unlabelled"] == 0
        assert both.stop("up") == 0, both.log_tail()
