"""A real daemon beside a server that the operator runs: applied, lost, loaded again, rolled back."""

import json
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import anyio
import msgspec
from anyio.from_thread import start_blocking_portal
from typer.testing import CliRunner

from honed.cli.app import app
from honed.stores import open_store
from tests.own_servers import SCENARIO, VllmServer, published
from tests.processes import Honed, honed


def settings(kind: str, **server: str) -> str:
    lines = [f"{key} = {value}" for key, value in server.items()]
    return "\n".join(
        [f'scenario = "{SCENARIO}"', "[apply]", f'kind = "{kind}"', "[server]", *lines]
    )


def register(daemon: Honed, *numbers: int) -> None:
    """Adapters as trained ones: their files and their rows."""

    async def fill() -> None:
        async with open_store(f"sqlite:///{daemon.data_dir / 'honed.db'}") as store:
            for number in numbers:
                await store.add_model(published(daemon.data_dir / "adapters", number))

    daemon.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    anyio.run(fill)


def applied(daemon: Honed, number: int) -> dict[str, Any]:
    """What `honed apply --force` is answered."""
    order = {"model_id": f"airline@{number}", "force": True}
    answer: dict[str, Any] = daemon.ask("POST", "/v1/apply", order)
    return answer


@contextmanager
def vllm(folder: Path) -> Iterator[tuple[VllmServer, Honed]]:
    """A stand-in for vLLM in this process, and a daemon that has two adapters for it."""
    fake = VllmServer()
    with (
        start_blocking_portal("asyncio") as portal,
        portal.wrap_async_context_manager(fake.open()) as server,
        honed(folder, settings("vllm", url=f'"{server.url}"')) as daemon,
    ):
        register(daemon, 1, 2)
        daemon.start("run")
        yield fake, daemon


def endpoint(daemon: Honed) -> dict[str, Any]:
    told: dict[str, Any] = msgspec.json.decode((daemon.data_dir / "endpoint.json").read_bytes())
    return told


def test_adapters_of_a_vllm_go_forward_and_back(tmp_path: Path) -> None:
    """A server that was started again has forgotten them; the order that is repeated loads ours."""
    with vllm(tmp_path) as (fake, daemon):
        applied(daemon, 1)
        assert applied(daemon, 2) == {"model_id": "airline@2", "previous_model_id": "airline@1"}
        assert endpoint(daemon)["model"] == "airline@2"
        fake.adapters.clear()
        assert applied(daemon, 2)["skipped"] == "it is in service already"
        assert list(fake.adapters) == ["airline@2"]
        assert daemon.ask("POST", "/v1/rollback", {}) == {"model_id": "airline@1"}
        assert endpoint(daemon)["model"] == "airline@1"
        assert [entry["model_id"] for entry in daemon.status()["history"]] == ["airline@1"]
        shown = CliRunner().invoke(app, ["status", "--config", str(daemon.config)])
        assert f"server      your own vllm at {fake.url}; " in shown.stdout
        assert "gateway" not in shown.stdout


def test_a_hook_is_called_by_the_daemon(tmp_path: Path) -> None:
    """Forward and back; what it is told is what serves."""
    calls = tmp_path / "calls"
    script = f'echo "$HONED_MODEL_ID<$HONED_PREVIOUS_ID" >> {shlex.quote(str(calls))}'
    served = tmp_path / "served"
    hook = json.dumps(["sh", "-c", script])
    with honed(tmp_path, settings("folder", folder=f'"{served}"', hook=hook)) as daemon:
        register(daemon, 1)
        daemon.start("run")
        applied(daemon, 1)
        assert (served / "airline").resolve().name == "airline@1"
        assert daemon.ask("POST", "/v1/rollback", {}) == {"model_id": None}
    assert calls.read_text().splitlines() == ["airline@1<", "<airline@1"]
    assert not (served / "airline").exists()
