"""Adapters in vLLM and SGLang: loaded under their own names, proved, pointed at; and what goes wrong there."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from structlog.testing import capture_logs

from honed.appliers import RuntimeLoraApplier, Server
from honed.domain.trained_model import TrainedModel
from honed.errors import AdapterNotFoundError, ApplyError, ConfigError, ProbeFailedError
from tests.own_servers import BASE, SglangServer, VllmServer, gone, published
from tests.unit.appliers.conftest import runtime_applier

pytestmark = pytest.mark.anyio

LOAD = {"vllm": "/v1/load_lora_adapter", "sglang": "/load_lora_adapter"}
UNLOAD = {"vllm": "/v1/unload_lora_adapter", "sglang": "/unload_lora_adapter"}
PROBE = {"vllm": "/v1/completions", "sglang": "/generate"}


class Own(NamedTuple):
    """An operator's server with an applier for it."""

    kind: str
    fake: Any
    server: Server
    applier: RuntimeLoraApplier
    folder: Path

    def endpoint(self) -> dict[str, Any]:
        """What the agents read."""
        told: dict[str, Any] = json.loads((self.folder / "endpoint.json").read_bytes())
        return told

    def published(self, number: int) -> TrainedModel:
        return published(self.folder / "adapters", number)


@asynccontextmanager
async def owned(kind: str, folder: Path, **of_applier: Any) -> AsyncIterator[Own]:
    fake = VllmServer() if kind == "vllm" else SglangServer()
    async with fake.open() as server:
        yield Own(kind, fake, server, runtime_applier(fake, server, folder, **of_applier), folder)


@pytest.fixture(params=["vllm", "sglang"])
async def own(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Own]:
    async with owned(request.param, tmp_path) as opened:
        yield opened


async def test_agents_are_pointed_at_the_version_that_was_proved(own: Own) -> None:
    """The name is the adapter's own, as a request must give it to this server; the base has its name too."""
    prefix = "" if own.kind == "vllm" else f"{BASE}:"
    one, two = own.published(1), own.published(2)
    await own.applier.apply(one, previous=None)
    assert own.endpoint() == {
        "scenario": "airline",
        "url": own.server.url,
        "model": f"{prefix}airline@1",
        "model_id": "airline@1",
        "former_id": None,
    }
    await own.applier.apply(two, previous=one)
    assert own.endpoint()["model"] == f"{prefix}airline@2"
    await own.applier.apply(None, previous=two)
    assert (own.endpoint()["model"], own.endpoint()["model_id"]) == (BASE, None)


async def test_the_adapter_before_stays_loaded_and_older_ones_go(own: Own) -> None:
    """Whoever is a little late is still answered; adapters of others, and of other scenarios, are not ours."""
    own.fake.adapters |= {"sql": "/srv/sql", "airline2@1": "/srv/airline2@1"}
    models = [own.published(number) for number in (1, 2, 3)]
    for model, previous in zip(models, [None, *models], strict=False):
        await own.applier.apply(model, previous=previous)
    assert sorted(own.fake.adapters) == ["airline2@1", "airline@2", "airline@3", "sql"]
    assert own.endpoint()["former_id"] == "airline@2"
    await own.applier.apply(models[2], previous=None)  # as `honed apply` does once more
    assert sorted(own.fake.adapters) == ["airline2@1", "airline@2", "airline@3", "sql"]


async def test_what_is_loaded_already_is_not_loaded_again(own: Own) -> None:
    """Everything that can be done twice is safe to do twice."""
    one = own.published(1)
    for _ in range(2):
        await own.applier.apply(one, previous=None)
    assert own.fake.asked.count(f"POST {LOAD[own.kind]}") == 1


async def test_a_server_that_was_started_again_is_told_again(own: Own) -> None:
    """It has forgotten its adapters: the base answers, which `current` says, and the next look loads ours."""
    one = own.published(1)
    await own.applier.apply(one, previous=None)
    own.fake.adapters.clear()
    assert await own.applier.current() is None
    await own.applier.apply(one, previous=None)
    assert await own.applier.current() == "airline@1"


async def test_a_name_that_was_loaded_from_elsewhere_is_loaded_anew(own: Own) -> None:
    """Another data folder had an adapter of that name: its weights are others."""
    one = own.published(1)
    own.fake.adapters["airline@1"] = "/former/airline@1"
    await own.applier.apply(one, previous=None)
    assert own.fake.adapters["airline@1"] == one.adapter_path


@pytest.mark.parametrize("kind", ["vllm", "sglang"])
async def test_the_server_may_see_the_adapters_elsewhere(tmp_path: Path, kind: str) -> None:
    """In a container the folder has another path, and that is the one it is told."""
    one = published(tmp_path / "adapters", 1)
    (tmp_path / "mnt").symlink_to(tmp_path / "adapters")
    async with owned(kind, tmp_path, adapters_at=tmp_path / "mnt") as own:
        await own.applier.apply(one, previous=None)
        assert own.fake.adapters == {"airline@1": str(tmp_path / "mnt" / "airline@1")}
        assert await own.applier.current() == "airline@1"


@pytest.mark.parametrize("kind", ["vllm", "sglang"])
async def test_an_adapter_that_the_server_does_not_see_is_not_found(
    tmp_path: Path, kind: str
) -> None:
    """The error says where it looked, and which setting says where it should."""
    one = published(tmp_path / "adapters", 1)
    async with owned(kind, tmp_path, adapters_at=Path("/nowhere")) as own:
        with pytest.raises(AdapterNotFoundError, match="at /nowhere/airline@1") as raised:
            await own.applier.apply(one, previous=None)
        assert raised.value.advice is not None
        assert "adapters_at" in raised.value.advice
        assert not (tmp_path / "endpoint.json").exists()


async def test_an_adapter_that_is_refused_leaves_what_serves(own: Own) -> None:
    """What the server said stands in the error."""
    one, two = own.published(1), own.published(2)
    await own.applier.apply(one, previous=None)

    async def refuse(request: Request) -> Response:
        told = "LoRA rank 64 is greater than max_lora_rank 16."
        if own.kind == "vllm":
            error = {"message": told, "type": "BadRequestError", "code": 400}
            return JSONResponse({"error": error}, 400)
        return JSONResponse({"success": False, "error_message": told, "loaded_adapters": {}}, 400)

    own.fake.faults[LOAD[own.kind]] = refuse
    with pytest.raises(ApplyError, match="status 400: LoRA rank 64 is greater") as raised:
        await own.applier.apply(two, previous=one)
    assert raised.value.advice is not None
    assert "rank" in raised.value.advice
    assert await own.applier.current() == "airline@1"
    del own.fake.faults[LOAD[own.kind]]
    await own.applier.apply(two, previous=one)
    assert await own.applier.current() == "airline@2"


@pytest.mark.parametrize("at", ["/v1/models", "load", "probe"])
async def test_a_server_that_goes_in_the_middle_leaves_the_name_as_it_was(
    own: Own, at: str
) -> None:
    """Wherever that happens; once it is back, the same order succeeds."""
    one, two = own.published(1), own.published(2)
    await own.applier.apply(one, previous=None)
    path = {"load": LOAD[own.kind], "probe": PROBE[own.kind]}.get(at, at)
    own.fake.faults[path] = gone
    with pytest.raises(ApplyError, match="broke off") as raised:
        await own.applier.apply(two, previous=one)
    assert raised.value.advice
    own.fake.faults.clear()
    assert await own.applier.current() == "airline@1"
    await own.applier.apply(two, previous=one)
    assert await own.applier.current() == "airline@2"


async def test_a_server_that_is_not_there_is_said_so(own: Own) -> None:
    """By `current` too: that is what `honed status` shows."""
    nobody = Server("vLLM", "http://127.0.0.1:9", timeout=timedelta(seconds=60))
    applier = runtime_applier(own.fake, nobody, own.folder)
    with pytest.raises(ApplyError, match=r"nobody answers as vLLM at http://127\.0\.0\.1:9"):
        await applier.current()


@pytest.mark.parametrize("kind", ["vllm", "sglang"])
async def test_a_load_that_takes_too_long_is_given_up_and_found_done_later(
    tmp_path: Path, kind: str
) -> None:
    """Whether the server has loaded it is not known then; the next attempt looks."""
    async with owned(kind, tmp_path, load_timeout_s=0.2) as own:
        one = own.published(1)
        own.fake.faults[LOAD[kind]] = own.fake.hang
        with pytest.raises(ApplyError, match=r"gave no answer to POST .* within 0\.2 s"):
            await own.applier.apply(one, previous=None)
        assert not (tmp_path / "endpoint.json").exists()
        own.fake.adapters["airline@1"] = one.adapter_path  # it went on, and was done after all
        await own.applier.apply(one, previous=None)
        assert await own.applier.current() == "airline@1"


async def test_an_adapter_that_cannot_be_unloaded_does_not_undo_the_switch(own: Own) -> None:
    """It is logged, and tried again with the next one."""
    models = [own.published(number) for number in (1, 2, 3, 4)]
    await own.applier.apply(models[0], previous=None)
    await own.applier.apply(models[1], previous=models[0])
    own.fake.faults[UNLOAD[own.kind]] = gone
    with capture_logs() as logs:
        await own.applier.apply(models[2], previous=models[1])
    assert [(line["event"], line["model_id"]) for line in logs if "unloaded" in line["event"]] == [
        ("adapter.not_unloaded", "airline@1")
    ]
    assert await own.applier.current() == "airline@3"
    own.fake.faults.clear()
    await own.applier.apply(models[3], previous=models[2])
    assert sorted(own.fake.adapters) == ["airline@3", "airline@4"]


@pytest.mark.parametrize("as_number", [None, 1], ids=["base", "another"])
async def test_a_server_that_does_not_answer_as_the_adapter_is_found_out(
    own: Own, as_number: int | None
) -> None:
    """It lists the adapter and answers as something else: nothing is pointed at it, and it is unloaded."""
    one, two = own.published(1), own.published(2)
    await own.applier.apply(one, previous=None)
    own.fake.answers_as["airline@2"] = None if as_number is None else one.adapter_path
    with pytest.raises(ProbeFailedError, match="airline@2 and does not answer as it does"):
        await own.applier.apply(two, previous=one)
    assert own.endpoint()["model_id"] == "airline@1"
    assert list(own.fake.adapters) == ["airline@1"]


@pytest.mark.parametrize("kind", ["vllm", "sglang"])
async def test_a_key_is_sent_and_stands_in_no_message(tmp_path: Path, kind: str) -> None:
    """A wrong one is answered with where it belongs."""
    async with owned(kind, tmp_path) as own:
        server = own.fake.server(key="s3cret")
        applier = runtime_applier(own.fake, server, tmp_path)
        with capture_logs() as logs:
            await applier.apply(own.published(1), previous=None)
        assert set(own.fake.keys) == {"Bearer s3cret"}

        async def unknown(request: Request) -> Response:
            return JSONResponse({"error": "Incorrect API key: s3cret"}, 401)

        own.fake.faults["/v1/models"] = unknown
        with pytest.raises(ApplyError, match=r"status 401: Incorrect API key: \*\*\*") as raised:
            await applier.current()
        assert "HONED_SERVER_KEY" in (raised.value.advice or "")
        assert "s3cret" not in f"{raised.value} {raised.value.advice} {logs}"


@pytest.mark.parametrize("key", ["clé-s3cret", "s3cret\n2", "s3cret\x01"], ids=ascii)
def test_a_key_that_cannot_be_sent_is_an_error_of_the_config(key: str) -> None:
    """At the beginning, and without the key."""
    with pytest.raises(ConfigError, match="server-key has characters") as raised:
        Server("vLLM", "http://127.0.0.1:9", key=key, timeout=timedelta(seconds=60))
    assert "s3cret" not in f"{raised.value} {raised.value.advice}"


async def test_another_program_at_that_address_is_said_so(own: Own) -> None:
    """A page instead of JSON, or a list without a base model."""

    async def page(request: Request) -> Response:
        return PlainTextResponse("<html>It works!</html>")

    async def nothing(request: Request) -> Response:
        return JSONResponse({"object": "list", "data": []})

    own.fake.faults["/v1/models"] = page
    with pytest.raises(ApplyError, match="something else than its documentation says"):
        await own.applier.current()
    own.fake.faults["/v1/models"] = nothing
    with pytest.raises(ApplyError, match="lists no base model"):
        await own.applier.current()


async def test_a_name_that_cannot_be_written_down_is_no_switch(own: Own) -> None:
    """The disk is full, say: agents go on with what they read."""
    one = own.published(1)
    (own.folder / ".endpoint.json.new").mkdir()
    with pytest.raises(ApplyError, match=r"endpoint\.json cannot be written"):
        await own.applier.apply(one, previous=None)
    assert await own.applier.current() is None


async def test_what_was_written_down_for_another_server_does_not_count(own: Own) -> None:
    """`server.url` was changed: there the base serves, as far as anybody knows."""
    await own.applier.apply(own.published(1), previous=None)
    path = own.folder / "endpoint.json"
    path.write_bytes(json.dumps(own.endpoint() | {"url": "http://127.0.0.1:1"}).encode())
    assert await own.applier.current() is None
    path.write_bytes(b"{")
    assert await own.applier.current() is None


async def test_vllm_without_runtime_loading_is_told_how_to_start_it(tmp_path: Path) -> None:
    """The path does not exist there unless a variable is set."""
    fake = VllmServer(updating=False)
    async with fake.open() as server:
        with pytest.raises(ApplyError, match="status 404: Not Found") as raised:
            await runtime_applier(fake, server, tmp_path).apply(
                published(tmp_path / "adapters", 1), previous=None
            )
    assert "VLLM_ALLOW_RUNTIME_LORA_UPDATING" in (raised.value.advice or "")


async def test_vllm_is_never_given_a_name_twice_and_shares_no_states_with_the_probe(
    tmp_path: Path,
) -> None:
    """Its prefix cache goes by names: weights are never changed under one, and the probe's salt is the weights'."""
    fake = VllmServer()
    async with fake.open() as server:
        applier = runtime_applier(fake, server, tmp_path)
        one = published(tmp_path / "adapters", 1)
        await applier.apply(one, previous=None)
        await applier.apply(None, previous=one)
        await applier.apply(one, previous=None)
    assert fake.inplace == []
    assert set(fake.salts) == {f"honed:{BASE}", f"honed:{one.digest}"}


async def test_a_vllm_that_gives_no_log_probabilities_is_trusted_by_its_list(
    tmp_path: Path,
) -> None:
    """It lists the adapter with its path; the log says that no answer was compared."""
    fake = VllmServer(max_logprobs=5)
    async with fake.open() as server:
        applier = runtime_applier(fake, server, tmp_path)
        with capture_logs() as logs:
            await applier.apply(published(tmp_path / "adapters", 1), previous=None)
        assert await applier.current() == "airline@1"
    assert [line["event"] for line in logs] == ["probe.unsure"]


async def test_a_full_sglang_says_what_is_full(tmp_path: Path) -> None:
    """`max_loaded_loras` is the operator's."""
    fake = SglangServer(max_loaded=1)
    fake.adapters["sql"] = "/srv/sql"
    async with fake.open() as server:
        with pytest.raises(ApplyError, match="Maximum number of LoRA adapters"):
            await runtime_applier(fake, server, tmp_path).apply(
                published(tmp_path / "adapters", 1), previous=None
            )


async def test_a_server_on_a_unix_socket_is_spoken_to(tmp_path: Path) -> None:
    """No port has to be open for it."""
    fake = VllmServer()
    async with fake.open(tmp_path / "v.sock") as server:
        applier = runtime_applier(fake, server, tmp_path)
        await applier.apply(published(tmp_path / "adapters", 1), previous=None)
        assert await applier.current() == "airline@1"
    with pytest.raises(ApplyError, match="nobody answers"):
        await applier.current()
