"""Adapters in Ollama: a model for each version, the scenario's name as a copy; and what goes wrong there."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from structlog.testing import capture_logs

from honed.adapter_files import ADAPTER_GGUF, file_digest
from honed.appliers import EndpointFile, OllamaApplier, Server
from honed.appliers.ollama_templates import stop_tokens
from honed.domain.trained_model import TrainedModel
from honed.errors import ApplyError, ProbeFailedError
from tests.own_servers import SCENARIO, OllamaServer, gone, published

pytestmark = pytest.mark.anyio


def applier(
    server: Server, folder: Path, *, from_model: str = OllamaServer.base, load_timeout_s: float = 60
) -> OllamaApplier:
    return OllamaApplier(
        server,
        scenario=SCENARIO,
        from_model=from_model,
        endpoint=EndpointFile(folder / "endpoint.json"),
        load_timeout=timedelta(seconds=load_timeout_s),
    )


@asynccontextmanager
async def serving_one(
    fake: OllamaServer, folder: Path
) -> AsyncIterator[tuple[OllamaApplier, TrainedModel, TrainedModel]]:
    """Ollama with `airline@1` in service, and a second adapter."""
    async with fake.open() as server:
        one, two = published(folder / "adapters", 1), published(folder / "adapters", 2)
        applied = applier(server, folder)
        await applied.apply(one, previous=None)
        yield applied, one, two


def blob(model: TrainedModel) -> str:
    return f"sha256:{file_digest(Path(model.adapter_path) / ADAPTER_GGUF)}"


async def test_agents_ask_for_the_scenario_and_a_version_is_a_tag(tmp_path: Path) -> None:
    """The name does not change with the version; the adapter behind it does."""
    fake = OllamaServer()
    async with serving_one(fake, tmp_path) as (applied, one, two):
        assert fake.adapter_of("airline") == fake.adapter_of("airline:1") == blob(one)
        await applied.apply(two, previous=one)
        assert fake.adapter_of("airline") == blob(two)
        told = json.loads((tmp_path / "endpoint.json").read_bytes())
        assert (told["model"], told["model_id"], told["former_id"]) == (
            "airline",
            "airline@2",
            "airline@1",
        )
        await applied.apply(None, previous=two)
        assert fake.adapter_of("airline") is None


async def test_the_version_before_stays_and_older_ones_are_deleted(tmp_path: Path) -> None:
    """Models of other names are not ours, whatever they begin with."""
    fake = OllamaServer()
    for name in ("airline:mine", "airline2:1", "other:latest"):
        fake.models[name] = fake.models[fake.base]
    async with serving_one(fake, tmp_path) as (applied, one, two):
        three = published(tmp_path / "adapters", 3)
        await applied.apply(two, previous=one)
        await applied.apply(three, previous=two)
    assert sorted(set(fake.models) - {fake.base}) == [
        "airline2:1",
        "airline:2",
        "airline:3",
        "airline:latest",
        "airline:mine",
        "other:latest",
    ]


async def test_what_is_made_already_is_neither_sent_nor_made_again(tmp_path: Path) -> None:
    """Everything that can be done twice is safe to do twice."""
    fake = OllamaServer()
    async with serving_one(fake, tmp_path) as (applied, one, _):
        await applied.apply(one, previous=None)
    assert fake.asked.count("POST /api/create") == 1
    assert sum(line.startswith("POST /api/blobs/") for line in fake.asked) == 1


async def test_a_model_that_somebody_else_put_there_is_not_ours(tmp_path: Path) -> None:
    """`current` goes by what the name leads to, not by what was written down."""
    fake = OllamaServer()
    async with serving_one(fake, tmp_path) as (applied, _, _):
        fake.models["airline:latest"] = dict(fake.models[fake.base], adapter="sha256:other")
        assert await applied.current() is None


async def test_a_model_of_that_name_is_not_overwritten(tmp_path: Path) -> None:
    """It was there before honed: it may be somebody's work."""
    fake = OllamaServer()
    fake.models["airline:latest"] = mine = dict(fake.models[fake.base], template="mine")
    async with fake.open() as server:
        with pytest.raises(ApplyError, match="has a model airline that honed has not made"):
            await applier(server, tmp_path).apply(
                published(tmp_path / "adapters", 1), previous=None
            )
    assert fake.models["airline:latest"] is mine


async def test_a_candidate_that_does_not_load_is_not_put_into_service(tmp_path: Path) -> None:
    """An adapter of another base is found out before the name moves."""
    fake = OllamaServer()
    async with serving_one(fake, tmp_path) as (applied, one, two):
        fake.fits = False
        with pytest.raises(
            ApplyError, match="loading airline:2 with status 500: llama runner"
        ) as at:
            await applied.apply(two, previous=one)
        assert "from_model" in (at.value.advice or "")
        assert await applied.current() == "airline@1"
        fake.fits = True
        await applied.apply(two, previous=one)
        assert fake.loaded == ["airline:1", "airline:2"]


async def test_an_ollama_that_leaves_the_adapter_out_is_found_out(tmp_path: Path) -> None:
    """It says success and shows no ADAPTER: the model is deleted again."""
    fake = OllamaServer()
    async with serving_one(fake, tmp_path) as (applied, one, two):
        fake.drops_adapters = True
        with pytest.raises(ProbeFailedError, match="made airline:2 and does not show its adapter"):
            await applied.apply(two, previous=one)
        assert "airline:2" not in fake.models
        assert await applied.current() == "airline@1"


async def test_a_name_that_leads_elsewhere_after_the_copy_is_found_out(tmp_path: Path) -> None:
    """Somebody else's model has come in between."""
    fake = OllamaServer()
    async with serving_one(fake, tmp_path) as (applied, one, two):

        async def pretend(request: Request) -> Response:
            return Response()

        fake.faults["/api/copy"] = pretend
        with pytest.raises(ProbeFailedError, match="airline should be airline:2 now"):
            await applied.apply(two, previous=one)
        assert await applied.current() == "airline@1"


@pytest.mark.parametrize(
    "path", ["/api/show", "/api/create", "/api/generate", "/api/copy", "/api/tags", "blob"]
)
async def test_an_ollama_that_goes_in_the_middle_leaves_the_name_as_it_was(
    tmp_path: Path, path: str
) -> None:
    """Wherever that happens; once it is back, the same order succeeds."""
    fake = OllamaServer()
    async with serving_one(fake, tmp_path) as (applied, one, two):

        async def gone_while_sent(request: Request) -> Response:
            return await gone(request) if request.method == "POST" else Response(status_code=404)

        if path == "blob":
            fake.faults[f"/api/blobs/{blob(two)}"] = gone_while_sent
        else:
            fake.faults[path] = gone
        with pytest.raises(ApplyError, match="broke off"):
            await applied.apply(two, previous=one)
        fake.faults.clear()
        assert await applied.current() == "airline@1"
        await applied.apply(two, previous=one)
        assert await applied.current() == "airline@2"


@pytest.mark.parametrize("was", [None, 1], ids=["nothing", "adapter"])
async def test_a_copy_that_cannot_be_looked_at_is_taken_back(
    tmp_path: Path, was: int | None
) -> None:
    """Nobody knows then whether it is the right one; what served before does again."""
    fake = OllamaServer()
    async with fake.open() as server:
        applied = applier(server, tmp_path)
        one, two = published(tmp_path / "adapters", 1), published(tmp_path / "adapters", 2)
        if was:
            await applied.apply(one, previous=None)

        async def gone_once_copied(request: Request) -> Response:
            if fake.models.get("airline:latest", 1) == fake.models.get("airline:2", 2):
                await gone(request)
            return await fake._tags(request)

        fake.faults["/api/tags"] = gone_once_copied
        with pytest.raises(ApplyError, match="broke off"):
            await applied.apply(two, previous=None)
        assert await applied.current() == ("airline@1" if was else None)
        assert ("airline:latest" in fake.models) is bool(was)


async def test_a_load_that_takes_too_long_is_given_up(tmp_path: Path) -> None:
    """The error says how long was waited; what served before still does."""
    fake = OllamaServer()
    async with serving_one(fake, tmp_path) as (applied, one, two):
        await applied.apply(two, previous=one)
        fake.faults["/api/generate"] = fake.hang
        hasty = applier(fake.server(), tmp_path, load_timeout_s=0.2)  # `airline:1` is made already
        with pytest.raises(ApplyError, match=r"no answer to POST /api/generate within 0\.2 s"):
            await hasty.apply(one, previous=two)
        assert await hasty.current() == "airline@2"


async def test_an_old_version_that_cannot_be_deleted_does_not_undo_the_switch(
    tmp_path: Path,
) -> None:
    """It is logged, and tried again with the next one."""
    fake = OllamaServer()
    async with serving_one(fake, tmp_path) as (applied, one, two):
        await applied.apply(two, previous=one)

        async def refuse(request: Request) -> Response:
            return JSONResponse({"error": "in use"}, 500)

        fake.faults["/api/delete"] = refuse
        with capture_logs() as logs:
            await applied.apply(published(tmp_path / "adapters", 3), previous=two)
        assert [line["event"] for line in logs] == ["adapter.not_unloaded"]
        assert await applied.current() == "airline@3"


async def test_a_base_that_is_not_there_is_named(tmp_path: Path) -> None:
    """By the switch to an adapter, and by the one to the base alone; nothing is pulled."""
    fake = OllamaServer()
    async with fake.open() as server:
        applied = applier(server, tmp_path, from_model="qwen3:8b")
        with pytest.raises(ApplyError, match="has no model qwen3:8b") as raised:
            await applied.apply(None, previous=None)
        assert "ollama pull qwen3:8b" in (raised.value.advice or "")
        with pytest.raises(ApplyError, match="POST /api/show with status 404: model 'qwen3:8b'"):
            await applied.apply(published(tmp_path / "adapters", 1), previous=None)


@pytest.mark.parametrize(
    ("architecture", "template", "own_stops", "expected"),
    [
        ("qwen3", "", "", ["<|im_start|>", "<|im_end|>"]),
        ("qwen3", "", 'stop                           "<|mine|>"', ["<|mine|>"]),
        ("llama", "<|start_header_id|>", "", ["<|eot_id|>"]),
        ("llama", "[INST] {{ .Prompt }} [/INST]", "", ["</s>"]),
        ("starcoder", "", "", []),
    ],
    ids=["by architecture", "its own", "llama", "mistral", "unknown"],
)
async def test_stop_tokens_are_the_bases_own_or_those_of_its_architecture(
    tmp_path: Path, architecture: str, template: str, own_stops: str, expected: list[str]
) -> None:
    """The template is always the base's own."""
    fake = OllamaServer(architecture=architecture, template=template, stops=own_stops)
    async with serving_one(fake, tmp_path):
        made: dict[str, Any] = fake.models["airline:1"]
    stops = [json.loads(line.split(maxsplit=1)[1]) for line in made["parameters"].splitlines()]
    assert (made["template"], stops) == (template, expected)


@pytest.mark.parametrize(
    ("architecture", "expected"),
    [("qwen2", "<|im_end|>"), ("gemma2", "<end_of_turn>"), ("phi3", "<|end|>")],
)
def test_an_architecture_ends_its_turns_with_its_own_token(
    architecture: str, expected: str
) -> None:
    """As GGUF calls it."""
    assert stop_tokens(architecture, "")[-1] == expected
