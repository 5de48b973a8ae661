"""The closed loop on real parts: events in at the socket, an adapter out of llama-server."""

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from honed.client import HonedClient
from honed.training_sets import HeldOutSplit, load_or_make_secret
from tests.incidents import attempt, events
from tests.processes import Honed, honed, is_alive

pytestmark = pytest.mark.timeout(240)

SETTINGS = """
scenario = "incidents"
base_model = "{base}"
trigger = '{trigger}'
check_interval = "1s"

[events]
settle = "0.1s"

[train]
r = 16
lora_alpha = 32
lora_dropout = 0
learning_rate = 5e-3
lr_scheduler_type = "cosine"
num_train_epochs = 5
gradient_accumulation_steps = 1
max_length = 256
threads = 1
backoff = "1s"

[apply]
mode = "auto"

[serve]
port = 0
ctx_size = 512
parallel = 2
threads = 1
"""


@pytest.fixture
def loop(request: pytest.FixtureRequest, tmp_path: Path, incident_base: Path) -> Iterator[Honed]:
    """Daemon and gateway on an empty folder; a parameter is the trigger."""
    trigger = getattr(request, "param", "manual()")
    settings = SETTINGS.format(base=incident_base, trigger=trigger)
    with honed(tmp_path / "loop", settings) as found:
        found.start("serve")
        found.start("run")
        found.until(lambda: _lane(found)["state"] == "active", "the base model is served")
        yield found


def _lane(loop: Honed) -> dict[str, Any]:
    lane: dict[str, Any] = loop.serving()["scenarios"]["incidents"]
    return lane


def _feed(loop: Honed, rows: list[tuple[list[dict[str, Any]], bool]]) -> None:
    """Send attempts through the real socket and wait until they are episodes."""
    before = loop.status()["episodes"]
    with HonedClient(loop.data_dir / "feed.sock") as client:
        for number, (messages, is_solved) in enumerate(rows, start=before):
            client.send(*events(number, messages, is_solved))
    loop.until(lambda: loop.status()["episodes"] == before + len(rows), "all attempts are episodes")


def _ask(loop: Honed, messages: list[dict[str, Any]]) -> httpx.Response:
    """One chat call through the gateway's stable address; evaluation, so that nothing is learned from it."""
    body = {"model": "incidents", "messages": messages, "temperature": 0, "max_tokens": 10}
    response = httpx.post(
        f"{loop.serving()['address']}/v1/chat/completions",
        json=body,
        headers={"x-honed-purpose": "evaluation"},
        timeout=30,
    )
    response.raise_for_status()
    return response


class Callers:
    """Clients that keep calling through the gateway; every failure is kept."""

    def __init__(self, loop: Honed) -> None:
        self._address = loop.serving()["address"]
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._call) for _ in range(2)]
        self.failures: list[str] = []
        self.models: list[str] = []

    def __enter__(self) -> "Callers":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(30)

    def _call(self) -> None:
        messages = attempt(1)[0][:2]
        body = {"model": "incidents", "messages": messages, "temperature": 0, "max_tokens": 8}
        with httpx.Client(timeout=60) as client:
            while not self._stop.wait(0.05):
                try:
                    answer = client.post(
                        f"{self._address}/v1/chat/completions",
                        json=body,
                        headers={"x-honed-purpose": "probe"},
                    )
                    answer.raise_for_status()
                    self.models.append(answer.headers["x-honed-model"])
                except httpx.HTTPError as error:
                    self.failures.append(repr(error))


def test_an_event_at_the_socket_becomes_an_adapter_that_answers(loop: Honed) -> None:
    """Feed, trigger, worker, gate, swap under load; then status, restart and rollback."""
    _feed(loop, [attempt(i) for i in range(500)])
    with Callers(loop) as callers:
        command = ["train-now", "--wait", "--json", "--config", str(loop.config)]
        done = subprocess.run(
            [sys.executable, "-m", "honed", *command],
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["state"] == "done"
        model = loop.model("incidents@1")
        assert model["gate"]["decision"] == "pass", model["gate"]
        assert (model["gate"]["proof"], model["gate"]["incumbent_id"]) == ("outcome", None)
        loop.until(lambda: "incidents@1" in callers.models, "callers see the new adapter")
    assert callers.failures == []

    folder = loop.data_dir / "adapters" / "incidents@1"
    assert {path.name for path in folder.iterdir()} >= {
        "adapter_config.json",
        "adapter_model.safetensors",
        "adapter.gguf",
        "fingerprint.json",
        "manifest.json",
    }
    assert loop.status()["current_model"] == "incidents@1"
    messages = attempt(2)[0][:4]
    assert _ask(loop, messages).headers["x-honed-model"] == "incidents@1"

    loop.kill("run")  # the swarm does not notice, and what was known is known again
    assert _ask(loop, messages).headers["x-honed-model"] == "incidents@1"
    loop.start("run")
    assert loop.status()["current_model"] == "incidents@1"

    assert loop.ask("POST", "/v1/rollback")["model_id"] is None
    assert _ask(loop, messages).headers["x-honed-model"] == "base"


@pytest.mark.long
def test_train_now_says_that_a_run_is_in_progress_or_waits_for_it(loop: Honed) -> None:
    """Alone it is refused with what to do; with --wait it names what it waits for, and then trains."""
    _feed(loop, [attempt(i) for i in range(300)])
    first = loop.ask("POST", "/v1/train-now", {})["run_id"]
    command = [sys.executable, "-m", "honed", "train-now", "--config", str(loop.config)]
    refused = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert refused.returncode == 1
    assert f"run {first} is in progress" in refused.stderr
    assert "`honed train-now --wait` waits for it" in refused.stderr
    waited = subprocess.run(
        [*command, "--wait", "--json"], capture_output=True, text=True, timeout=200
    )
    assert f"run {first} is in progress; the new one starts when it has ended" in waited.stderr
    assert f"run {first} done 0 s ago: incidents@1" in waited.stderr
    second = json.loads(waited.stdout)
    assert (second["id"] != first, second["state"]) == (True, "done")
    assert waited.returncode == 0


@pytest.mark.parametrize("loop", ["count(300)"], indirect=True)
def test_a_worker_killed_in_mid_training_is_run_again(loop: Honed) -> None:
    """kill -9 of the worker: the daemon says so, requests go on, nothing half is published, the next try succeeds."""
    _feed(loop, [attempt(i) for i in range(300)])
    with Callers(loop) as callers:
        loop.until(lambda: _step(loop) > 3, "the trigger has fired and it trains")
        first = loop.status()["training"]["run_id"]
        (worker,) = loop.children("run")
        os.kill(worker, signal.SIGKILL)
        run = loop.until(lambda: loop.run(first), "the daemon says that the run failed")
        assert run["state"] == "failed"
        assert "SIGKILL" in run["message"]
        assert not is_alive(worker)
        adapters = loop.data_dir / "adapters"
        assert not adapters.exists() or not list(adapters.iterdir())
        run = loop.until(lambda: _last_done(loop), "it has run again by itself", limit_s=120)
        assert run["id"] != first
        assert [path.name for path in adapters.iterdir()] == ["incidents@2"]
    assert callers.failures == []


def test_a_candidate_trained_on_shuffled_answers_is_refused(loop: Honed) -> None:
    """Its loss falls too, but not where outcomes say that it should; it never serves."""
    rows = [attempt(i) for i in range(500)]
    secret_split = _held_out(loop)
    taught = [i for i, row in enumerate(rows) if row[1] and not secret_split(f"incident-{i}")]
    answers = [rows[i][0][-1] for i in taught]
    for i, answer in zip(taught, answers[1:] + answers[:1], strict=True):
        rows[i] = ([*rows[i][0][:-1], answer], True)
    _feed(loop, rows)
    run_id = loop.ask("POST", "/v1/train-now", {})["run_id"]
    run = loop.until(lambda: loop.run(run_id), "the run has ended", limit_s=120)
    assert run["state"] == "done", run
    gate = loop.model("incidents@1")["gate"]
    assert gate["decision"] != "pass", gate
    assert loop.status()["current_model"] is None
    assert _ask(loop, rows[0][0][:2]).headers["x-honed-model"] == "base"
    refused = loop.ask("POST", "/v1/apply", {"model_id": "incidents@1"})
    assert "gate" in refused["skipped"]


def _last_done(loop: Honed) -> dict[str, Any] | None:
    run: dict[str, Any] = loop.status()["last_run"]
    return run if run["state"] == "done" else None


def _step(loop: Honed) -> int:
    training = loop.status()["training"]
    return int(training.get("step") or 0) if training else 0


def _held_out(loop: Honed) -> Callable[[str], bool]:
    """The daemon's own split: which groups it keeps from training."""
    return HeldOutSplit(load_or_make_secret(loop.data_dir / "secret.key"), 0.2).is_held_out
