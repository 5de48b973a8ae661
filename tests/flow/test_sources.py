"""Events come to a real daemon at every door that the config opens."""

import os
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from honed.client import HonedClient
from honed.config import load_config
from honed.doctor import processes
from honed.doctor.patient import Patient
from tests.feed_parts import call, line, success
from tests.processes import honed


@pytest.mark.feature("SE-145")
def test_every_door_leads_to_the_same_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Socket, HTTP, inbox and followed file give equal episodes; what is repeated at another door is known."""
    monkeypatch.setenv("HONED_HTTP_TOKEN", "s3cret")
    log = tmp_path / "swarm.jsonl"
    settings = (
        f'scenario = "airline"\n[apply]\nkind = "none"\n[events]\nsettle = "0s"\n'
        f'http = "127.0.0.1:0"\ninbox = "{tmp_path / "inbox"}"\nfiles = ["{log}"]\n'
    )
    attempts = [[call(task_id=f"t{n}"), success(task_id=f"t{n}")] for n in range(4)]
    bodies = [b"".join(line(event) + b"\n" for event in attempt) for attempt in attempts]
    with honed(tmp_path, settings) as daemon:
        daemon.start("run")
        with HonedClient(daemon.data_dir / "feed.sock") as client:
            client.send(*attempts[0])
        url = f"http://{daemon.status()['sources']['http']['address']}/events"
        headers = {"content-type": "application/x-ndjson", "authorization": "Bearer s3cret"}
        answer = httpx.post(url, content=bodies[1], headers=headers, trust_env=False)
        assert answer.json()["accepted"] == 2, answer.text
        (tmp_path / "inbox" / "batch.jsonl").write_bytes(bodies[2] + bodies[1])
        log.write_bytes(bodies[3])
        daemon.until(lambda: daemon.status()["episodes"] == 4, "each attempt is an episode")
        daemon.until(lambda: daemon.status()["duplicates"] == 2, "the repeated one is known")
        status = daemon.status()
        assert status["sources"]["files"]["rejected"] == 0
        assert daemon.stop("run") == 0, daemon.log_tail()


def test_doctor_says_why_traces_teach_nothing(tmp_path: Path) -> None:
    """Model calls without their messages are counted, and what to switch on is named."""
    settings = 'scenario = "airline"\n[apply]\nkind = "none"\n[events]\nhttp = "127.0.0.1:0"\notlp = true\n'
    name = {"key": "gen_ai.operation.name", "value": {"stringValue": "chat"}}
    span = {
        "traceId": "0af7651916cd43dd8448eb211c80319c",
        "spanId": "b7ad6b7169203331",
        "name": "chat small",
        "attributes": [name],
    }
    with honed(tmp_path, settings) as daemon:
        daemon.start("run")
        url = f"http://{daemon.status()['sources']['http']['address']}/v1/traces"
        traces = {"resourceSpans": [{"scopeSpans": [{"spans": [span]}]}]}
        assert httpx.post(url, json=traces, trust_env=False).status_code == 200
        found = processes.daemon(Patient(load_config(daemon.config)))
        assert daemon.stop("run") == 0, daemon.log_tail()
    assert found.status == "warn"
    assert "1 model calls were traced without their messages" in found.text
    assert "OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT=true" in (found.advice or "")


def test_a_door_for_other_machines_needs_a_token(tmp_path: Path) -> None:
    """The daemon says so, ends as for any config that cannot be used, and has opened nothing."""
    environment = {name: value for name, value in os.environ.items() if "HONED" not in name}
    (tmp_path / "honed.toml").write_text(
        f'scenario = "airline"\ndata_dir = "{tmp_path / "data"}"\n[apply]\nkind = "none"\n'
        '[events]\nhttp = "0.0.0.0:0"\n'
    )
    done = subprocess.run(
        [sys.executable, "-m", "honed", "run", "--config", str(tmp_path / "honed.toml")],
        env=environment,
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert done.returncode == 78
    assert "without a token" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "data").exists()


def test_a_socket_path_that_is_too_long_is_a_fault_of_the_config(tmp_path: Path) -> None:
    """The daemon ends with 78, as for any config that cannot be used, and has opened nothing."""
    folder = tmp_path / ("x" * 110)
    (tmp_path / "honed.toml").write_text(
        f'scenario = "airline"\ndata_dir = "{folder}"\n[apply]\nkind = "none"\n'
    )
    done = subprocess.run(
        [sys.executable, "-m", "honed", "run", "--config", str(tmp_path / "honed.toml")],
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert done.returncode == 78, done.stderr
    assert "Linux allows 107" in done.stderr
    assert not folder.exists()


def test_traces_need_the_http_door(tmp_path: Path) -> None:
    """A config that opens one without the other is refused with both names."""
    (tmp_path / "honed.toml").write_text('scenario = "airline"\n[events]\notlp = true\n')
    done = subprocess.run(
        [sys.executable, "-m", "honed", "config", "show", "--config", str(tmp_path / "honed.toml")],
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert done.returncode == 78
    assert "otlp needs events.http" in done.stderr
