"""Learn models in a real daemon: a class of one's own, and several side by side."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from honed.client import HonedClient
from tests.feed_parts import action, call, success
from tests.processes import ROOT, Honed, honed

pytestmark = pytest.mark.timeout(240)

PAGE = (ROOT / "docs" / "learn-models.md").read_text()
CLASS = PAGE.partition("```python\n")[2].partition("```")[0]
SETTINGS = """
scenario = "airline"
trigger = "never()"
{base}

[events]
settle = "0s"

[learn]
model = {model}

[train]
r = 4
max_steps = 1
max_length = 256
min_rows = 1
threads = 1
device = "cpu"

[gate]
enabled = false

[apply]
kind = "none"
"""


def settings(model: object, base: Path | None = None) -> str:
    base_model = f'base_model = "{base}"' if base else ""
    return SETTINGS.format(model=json.dumps(model), base=base_model)


def send(daemon: Honed, *events: dict[str, Any]) -> None:
    with HonedClient(daemon.data_dir / "feed.sock") as client:
        client.send(*events)


def task(n: int) -> list[dict[str, Any]]:
    """A task whose actions and calls both can be learned from."""
    seen = {"context": {"observation": f"service {n} is slow"}, "scenario": "airline"}
    return [
        action(task_id=f"t{n}", name="look", **seen),
        action(task_id=f"t{n}", name="fix", result={"success": True, "output": f"fixed {n}"}),
        call(task_id=f"t{n}", messages=[{"role": "user", "content": f"service {n} is slow"}]),
        success(task_id=f"t{n}"),
    ]


def lines(daemon: Honed) -> dict[str, dict[str, Any]]:
    return {line["learn_model"]: line for line in daemon.status()["lines"]}


@pytest.mark.feature("SE-084")
def test_a_class_of_ones_own_is_found_by_its_name(tmp_path: Path) -> None:
    """The class that the page shows, from a folder of PYTHONPATH, builds the daemon's episodes."""
    package = tmp_path / "code" / "my_swarm"
    package.mkdir(parents=True)
    (package / "learning.py").write_text(CLASS)
    variables = {"PYTHONPATH": str(package.parent)}
    with honed(tmp_path / "swarm", settings("my_swarm.learning:LastWords")) as daemon:
        daemon.start("run", variables=variables)
        send(daemon, *task(1))
        daemon.until(lambda: daemon.status()["episodes"] == 1, "the task is an episode")
        assert daemon.status()["learn_model"] == "last_words"
        assert daemon.stop("run") == 0
        refused = subprocess.run(
            [sys.executable, "-m", "honed", "run", "--config", str(daemon.config)],
            capture_output=True,
            text=True,
            cwd=ROOT,
            timeout=60,
        )
    assert refused.returncode == 78
    assert "my_swarm.learning:LastWords cannot be imported: ModuleNotFoundError" in refused.stderr
    assert "PYTHONPATH" in refused.stderr


def test_several_learn_models_count_the_same_events_in_their_own_way(tmp_path: Path) -> None:
    """Each has its episodes, and `honed status` tells them apart."""
    with honed(tmp_path, settings(["chat", "worker_task"])) as daemon:
        daemon.start("run")
        send(daemon, *task(1), call(session_id="s"), success(session_id="s"))
        daemon.until(lambda: daemon.status()["episodes"] == 3, "three are closed")
        found = lines(daemon)
        assert {name: line["episodes"] for name, line in found.items()} == {
            "chat": 2,
            "worker_task": 1,
        }
        assert list(found) == ["chat", "worker_task"]
        said = subprocess.run(
            [sys.executable, "-m", "honed", "status", "--config", str(daemon.config)],
            capture_output=True,
            text=True,
            cwd=ROOT,
            timeout=60,
            check=True,
        ).stdout
        assert "learn model worker_task: 1 episodes, 0 without an outcome\n" in said


@pytest.mark.long
def test_each_learn_model_trains_an_adapter_line(tmp_path: Path, tiny_base: Path) -> None:
    """Both are trained in turn, in processes of their own, and measured against their own line."""
    with honed(tmp_path, settings(["chat", "worker_task"], tiny_base)) as daemon:
        daemon.start("run")
        for n in range(30):
            send(daemon, *task(n))
        daemon.until(lambda: daemon.status()["episodes"] == 60, "all tasks are closed")
        names = ["chat", "worker_task", "chat"]
        for number, name in enumerate(names, 1):
            run_id = daemon.ask("POST", "/v1/train-now", {"learn_model": name})["run_id"]
            run = daemon.until(lambda run_id=run_id: daemon.run(run_id), "it is done", limit_s=120)  # type: ignore[misc]
            assert run["state"] == "done", run["message"]
            assert run["learn_model"] == name
            model = daemon.model(f"airline@{number}")
            assert model["learn_model"] == name
            daemon.ask("POST", "/v1/apply", {"model_id": model["id"], "force": True})
        assert {name: line["current_model"] for name, line in lines(daemon).items()} == {
            "chat": "airline@3",
            "worker_task": "airline@2",
        }
        job = json.loads((daemon.data_dir / "runs" / run_id / "job.json").read_text())
        assert job["incumbent_path"].endswith("airline@1")
        rows = next((daemon.data_dir / "adapters" / "airline@2").glob("manifest.json"))
        assert json.loads(rows.read_text())["learn_model"] == "worker_task"
