"""The command line as a person or a script meets it."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from honed.client import HonedClient, RejectedError
from honed.config import load_config
from tests.incidents import attempt, events
from tests.processes import honed

EXCERPT = Path(__file__).parents[1] / "data" / "tau-airline-excerpt.jsonl"


def _honed(folder: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run `honed` with an environment of its own; stdout and stderr apart."""
    kept = {name: os.environ[name] for name in ("PATH", "LANG") if name in os.environ}
    return subprocess.run(
        [sys.executable, "-m", "honed", *arguments],
        cwd=folder,
        env=kept | {"HOME": str(folder)} | variables,
        capture_output=True,
        text=True,
        timeout=60,
    )


@pytest.fixture
def scenario(tmp_path: Path) -> dict[str, str]:
    """All that a scenario needs, from the environment alone."""
    return {"HONED__SCENARIO": "airline", "HONED__DATA_DIR": str(tmp_path / "data")}


def test_importing_twice_adds_nothing(tmp_path: Path, scenario: dict[str, str]) -> None:
    """One episode per trajectory, reward as outcome, without a config file and without a daemon."""
    first = json.loads(_honed(tmp_path, "import", str(EXCERPT), "--json", **scenario).stdout)
    assert (first["episodes"], first["trajectories"], first["bad_rows"]) == (3, 3, [])
    second = json.loads(_honed(tmp_path, "import", str(EXCERPT), "--json", **scenario).stdout)
    assert (second["episodes"], second["total_episodes"]) == (0, 3)
    rows = json.loads(_honed(tmp_path, "episodes", "--json", **scenario).stdout)
    assert len(rows) == 3
    rewards = [json.loads(line)["reward"] for line in EXCERPT.read_text().splitlines()]
    assert sum(row["outcome"]["type"] == "success" for row in rows) == sum(map(bool, rewards))


def test_importing_through_a_running_daemon_is_the_same(tmp_path: Path) -> None:
    """What was imported without a daemon is known to it, byte for byte."""
    with honed(tmp_path, 'scenario = "airline"\n[apply]\nkind = "none"') as daemon:
        config = ("--config", str(daemon.config), "--json")
        done = _honed(tmp_path, "import", str(EXCERPT), *config)
        assert json.loads(done.stdout)["episodes"] == 3
        daemon.start("run")
        again = json.loads(_honed(tmp_path, "import", str(EXCERPT), *config).stdout)
        assert (again["episodes"], again["total_episodes"]) == (0, 3)
        status = daemon.status()
        assert (status["duplicates"], status["conflicts"]) == (status["records"], 0)


def test_status_counts_what_could_not_be_used(tmp_path: Path) -> None:
    """A refused event is not only the sender's news."""
    with honed(tmp_path, 'scenario = "airline"\n[apply]\nkind = "none"') as daemon:
        daemon.start("run")
        with (
            HonedClient(daemon.data_dir / "feed.sock") as client,
            pytest.raises(RejectedError),
        ):
            client.send({"type": "dance"})
        assert daemon.status()["rejected"] == 1
        shown = _honed(tmp_path, "status", "--config", str(daemon.config)).stdout
        assert "not used    1 lines rejected\n" in shown
        assert "episodes    0 made so far, of 0 records, 0 without an outcome" in shown


def test_status_says_how_the_last_run_ended_and_why(tmp_path: Path, tiny_base: Path) -> None:
    """None yet; then one that was skipped, with its reason on the same line."""
    settings = (
        f'scenario = "airline"\nbase_model = "{tiny_base}"\ntrigger = "manual()"\n'
        '[apply]\nkind = "none"'
    )
    with honed(tmp_path, settings) as daemon:
        daemon.start("run")
        config = ("--config", str(daemon.config))
        assert "last run    none yet\n" in _honed(tmp_path, "status", *config).stdout
        done = _honed(tmp_path, "train-now", "--wait", *config)
        assert done.returncode == 1
        (line,) = [
            line
            for line in _honed(tmp_path, "status", *config).stdout.splitlines()
            if line.startswith("last run")
        ]
        assert re.search(r"skipped \d+ s ago: \w+", line), line


def test_a_row_that_cannot_be_read_is_reported_with_its_line(
    tmp_path: Path, scenario: dict[str, str]
) -> None:
    """The good rows come in, the bad one is named."""
    mixed = tmp_path / "mixed.jsonl"
    mixed.write_text(EXCERPT.read_text().splitlines()[0] + '\n{"neither": 1}\n')
    done = _honed(tmp_path, "import", str(mixed), **scenario)
    assert "1 episodes from 1 trajectories" in done.stdout
    assert "line 2 skipped" in done.stderr
    assert done.returncode == 0


def test_exit_statuses_tell_what_is_wrong(tmp_path: Path, scenario: dict[str, str]) -> None:
    """3: nothing runs; 78: the config; 2: wrong usage; one line on stderr each."""
    not_running = _honed(tmp_path, "status", **scenario)
    assert not_running.returncode == 3
    assert "nobody listens" in not_running.stderr
    assert len(not_running.stderr.splitlines()) == 1
    for verb in ("status", "run", "serve"):
        bad = _honed(tmp_path, verb)
        assert bad.returncode == 78, bad.stderr
        assert "scenario: required" in bad.stderr
    assert _honed(tmp_path, "no-such-verb", **scenario).returncode == 2


def test_a_second_daemon_on_one_folder_is_refused(tmp_path: Path) -> None:
    """The first one goes on."""
    with honed(tmp_path, 'scenario = "airline"\n[apply]\nkind = "none"') as daemon:
        daemon.start("run")
        second = _honed(tmp_path, "run", "--config", str(daemon.config))
        assert second.returncode == 78
        assert "another daemon runs on" in second.stderr
        assert daemon.status()["scenario"] == "airline"
        assert daemon.stop("run") == 0


def test_the_starter_config_loads_and_is_not_overwritten(tmp_path: Path) -> None:
    """`honed init` writes a file that every command accepts."""
    done = _honed(tmp_path, "init", "airline", "--base-model", "Qwen/Qwen3-0.6B")
    assert done.returncode == 0, done.stderr
    config = load_config(tmp_path / "honed.toml")
    assert (config.scenario, config.base_model) == ("airline", "Qwen/Qwen3-0.6B")
    assert config.apply.mode == "auto"
    assert _honed(tmp_path, "init", "airline").returncode == 1


def test_up_runs_both_and_ends_both(tmp_path: Path, tiny_base: Path) -> None:
    """One command starts daemon and gateway; one signal ends them cleanly."""
    settings = f'scenario = "tiny"\nbase_model = "{tiny_base}"\n[serve]\nport = 0\nthreads = 1'
    with honed(tmp_path, settings) as both:
        child = both.start("up")
        children = both.children("up")
        assert len(children) == 2
        status = both.stop("up")
        assert status == 0, both.log_tail()
        assert child.returncode == 0


def test_up_starts_a_killed_daemon_again_and_keeps_the_gateway(
    tmp_path: Path, tiny_base: Path
) -> None:
    """One crash does not take the other process along; what is said meanwhile is heard by the next daemon."""
    settings = f'scenario = "tiny"\nbase_model = "{tiny_base}"\n[serve]\nport = 0\nthreads = 1'
    with honed(tmp_path, settings) as both:
        both.start("up")
        gateway = both.serving()["address"]
        for number in range(2):  # also one that has not lived for long
            daemon = both.status()["pid"]
            os.kill(daemon, signal.SIGKILL)
            with HonedClient(both.data_dir / "feed.sock") as client:
                client.send(*events(number, *attempt(number)))
            assert both.status()["pid"] != daemon
        assert both.status()["records"] == sum(len(events(n, *attempt(n))) for n in range(2))
        assert both.serving()["address"] == gateway
        assert both.stop("up") == 0, both.log_tail()
        ends = [line for line in both.log_tail().splitlines() if ".stopped" in line]
        assert "gateway.stopped" in ends[-2]
        assert "daemon.stopped" in ends[-1]


def test_up_keeps_the_address_while_the_gateway_is_away(tmp_path: Path, tiny_gguf: Path) -> None:
    """A request that comes after kill -9 of the gateway waits and is answered by the next one."""
    settings = f'scenario = "tiny"\n[serve]\nport = 0\nthreads = 1\nbase_model_path = "{tiny_gguf}"'
    with honed(tmp_path, settings) as both:
        both.start("up")
        address = both.serving()["address"]
        [gateway] = [pid for pid in both.children("up") if pid != both.status()["pid"]]
        os.kill(gateway, signal.SIGKILL)
        body = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 4}
        answer = httpx.post(f"{address}/v1/chat/completions", json=body, timeout=30)
        assert answer.status_code == 200, answer.text
        assert both.serving()["address"] == address
        assert gateway not in both.children("up")


def test_up_ends_when_one_of_both_cannot_run(tmp_path: Path) -> None:
    """A wrong config is told, not tried again for ever; nothing is left behind."""
    missing = tmp_path / "none.gguf"
    settings = f'scenario = "tiny"\n[serve]\nport = 0\nbase_model_path = "{missing}"'
    with honed(tmp_path, settings) as both:
        done = _honed(tmp_path, "up", "--config", str(both.config))
    assert done.returncode == 78, done.stderr
    assert f"base_model_path {missing} does not exist" in done.stderr
    assert not list(tmp_path.rglob("*.sock"))


def test_a_file_that_is_not_there_is_one_line(tmp_path: Path, scenario: dict[str, str]) -> None:
    """No traceback; reading commands make no store."""
    done = _honed(tmp_path, "import", "none.jsonl", **scenario)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("honed: trajectories none.jsonl cannot be read")
    assert "Traceback" not in done.stderr
    other = scenario | {"HONED__DATA_DIR": str(tmp_path / "mistyped")}
    looked = _honed(tmp_path, "episodes", **other)
    assert looked.returncode == 1
    assert "nothing is stored" in looked.stderr
    assert not (tmp_path / "mistyped").exists()
    assert _honed(tmp_path, "episodes", "--outcome", "winning", **scenario).returncode == 2


def test_a_lost_secret_is_told_not_made_again(tmp_path: Path, scenario: dict[str, str]) -> None:
    """With another one, repeats would be conflicts and the held-out split would move."""
    assert _honed(tmp_path, "import", str(EXCERPT), **scenario).returncode == 0
    secret = tmp_path / "data" / "secret.key"
    kept = secret.read_bytes()
    secret.unlink()
    for arguments in (("run",), ("import", str(EXCERPT))):
        done = _honed(tmp_path, *arguments, **scenario, HONED__APPLY__KIND="none")
        assert done.returncode == 1
        assert "secret.key" in done.stderr
    secret.write_bytes(kept)
    assert _honed(tmp_path, "import", str(EXCERPT), **scenario).returncode == 0
