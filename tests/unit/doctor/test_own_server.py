"""The check of a server that the operator runs."""

from pathlib import Path
from typing import Any

import anyio
import pytest
from anyio.from_thread import start_blocking_portal

from honed.config import load_config
from honed.doctor import own_server, processes, server
from honed.doctor.finding import Found
from honed.doctor.patient import Patient
from honed.errors import ConfigError
from honed.serve import serve
from tests.own_servers import BASE, VllmServer


def _patient(place: Path, kind: str, **section: Any) -> Patient:
    file = place / "made.toml"
    file.touch()
    return Patient(
        load_config(
            file, scenario="airline", data_dir=place / "d", apply={"kind": kind}, server=section
        )
    )


def test_without_one_nobody_is_asked(tmp_path: Path) -> None:
    """llama-server has a check of its own."""
    assert own_server.own_server(_patient(tmp_path, "llama_server")).status == "ok"


def test_a_server_that_answers_says_what_it_serves(tmp_path: Path) -> None:
    """Nothing is loaded for it; llama-server and gateway are not missed."""
    fake = VllmServer()
    with (
        start_blocking_portal("asyncio") as portal,
        portal.wrap_async_context_manager(fake.open()) as opened,
    ):
        found = _patient(tmp_path, "vllm", url=opened.url)
        assert own_server.own_server(found) == Found(
            "ok", f"vllm at {opened.url} serves the base model"
        )
    assert set(fake.asked) == {"GET /v1/models"}
    for check in (server.llama_server, processes.gateway):
        assert check(found) == Found("ok", "none is needed: apply.kind is vllm")
    gone = own_server.own_server(found)
    assert (gone.status, "nobody answers as vLLM" in gone.text, bool(gone.advice)) == (
        "fail",
        True,
        True,
    )


def test_a_server_behind_the_gateway_says_what_it_has(tmp_path: Path) -> None:
    """It is asked past the gateway, which need not run."""
    fake = VllmServer()
    file = tmp_path / "made.toml"
    file.touch()
    with (
        start_blocking_portal("asyncio") as portal,
        portal.wrap_async_context_manager(fake.open()) as opened,
    ):
        serve = {"external_url": opened.url, "external_kind": "vllm"}
        found = Patient(load_config(file, scenario="airline", data_dir=tmp_path, serve=serve))
        told = f"vLLM at {opened.url}, behind the gateway, has {BASE} with "
        assert own_server.own_server(found) == Found("ok", f"{told}no adapter")
        fake.adapters = {"airline@2": "/a", "theirs": "/b"}
        assert own_server.own_server(found) == Found("ok", f"{told}airline@2, theirs")
    assert own_server.own_server(found).status == "fail"


@pytest.mark.parametrize(
    ("hook", "status"), [(["true"], "ok"), (["/no/such/hook"], "fail")], ids=["there", "missing"]
)
def test_a_hook_is_looked_for_and_not_run(tmp_path: Path, hook: list[str], status: str) -> None:
    """The folder is made by the first switch."""
    found = own_server.own_server(_patient(tmp_path, "folder", folder="/x/served", hook=hook))
    assert found.status == status
    assert "/no/such/hook" in found.text or "folder at /x/served" in found.text


def test_the_gateway_does_not_start_beside_it(tmp_path: Path) -> None:
    """It would load a base model that nobody asks."""
    config = _patient(tmp_path, "vllm").config
    with pytest.raises(ConfigError, match="the gateway has no part"):
        anyio.run(serve, config)
