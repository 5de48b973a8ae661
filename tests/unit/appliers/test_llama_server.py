"""The applier and the gateway's control API over a real socket: registering, errors, versions."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from honed.appliers import LlamaServerApplier
from honed.config import ServeSection
from honed.domain.serving import AdapterRef
from honed.domain.trained_model import TrainedModel
from honed.errors import (
    AdapterNotFoundError,
    ApplyError,
    BaseMismatchError,
    ParityError,
    ServerStartError,
)
from honed.gateway.control import control_app
from honed.gateway.gateway import Gateway
from honed.listen import claim_unix_path, serving

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def model(folder: Path) -> TrainedModel:
    """A model whose adapter should be in `folder`."""
    return TrainedModel(
        id="tiny@1",
        scenario="tiny",
        run_id="r",
        base_model="b",
        learn_model="chat",
        method="sft",
        adapter_path=str(folder),
        gguf_path=None,
        digest="",
        data_digest="",
        episode_ids=(),
        sample_count=0,
        created_at_ms=0,
    )


@asynccontextmanager
async def controlled(folder: Path) -> AsyncIterator[tuple[Gateway, Path]]:
    """A gateway without servers, controlled over its socket."""
    gateway = Gateway(ServeSection(), folder / "llama")
    path = folder / "serve.sock"
    async with gateway.open(), serving(control_app(gateway), claim_unix_path(path), drain_s=1):
        yield gateway, path


def applier(path: Path, *, base_gguf: Path | None = None) -> LlamaServerApplier:
    async def make_base() -> tuple[Path, Path | None]:
        assert base_gguf is not None
        return base_gguf, None

    return LlamaServerApplier(
        path,
        scenario="tiny",
        feed_socket=Path("/run/feed.sock"),
        make_base=make_base if base_gguf else None,
    )


async def test_gateway_that_does_not_run_is_an_apply_error(tmp_path: Path) -> None:
    """The loop tries again later; nothing was changed."""
    with pytest.raises(ApplyError, match="no gateway listens"):
        await applier(tmp_path / "serve.sock").current()


async def test_scenario_registers_itself_and_twice_changes_nothing(tmp_path: Path) -> None:
    """The gateway knows where captured calls go as soon as it is asked anything."""
    async with controlled(tmp_path) as (gateway, path):
        for _ in range(2):
            with pytest.raises(ApplyError, match="nothing is served yet"):
                await applier(path).current()
        assert list(gateway.lanes) == ["tiny"]
        assert gateway.lanes["tiny"].feed_socket == Path("/run/feed.sock")
        assert (await applier(path).serving()).scenarios["tiny"].state == "down"


async def test_model_without_its_folder_is_not_asked_for(tmp_path: Path) -> None:
    """The mistake is found before the gateway hears of it."""
    with pytest.raises(AdapterNotFoundError, match="does not exist"):
        await applier(tmp_path / "serve.sock").apply(model(tmp_path / "no"), previous=None)


async def test_what_is_not_tried_is_neither_promoted_nor_withdrawn(tmp_path: Path) -> None:
    """The gateway's refusal arrives as one; a withdrawal of what is not there is none."""
    async with controlled(tmp_path) as (_, path):
        asked, tried = applier(path), model(tmp_path)
        with pytest.raises(AdapterNotFoundError, match="does not exist"):
            await asked.canary(model(tmp_path / "no"), share=0.1, is_shadow=False)
        with pytest.raises(ApplyError):
            await asked.canary(tried, share=0.1, is_shadow=False)
        with pytest.raises(ApplyError, match="tiny@1 is no candidate"):
            await asked.promote(tried)
        await asked.withdraw(tried)
        assert (await asked.lane()).candidate is None


async def test_folder_without_adapter_is_refused_by_the_gateway(tmp_path: Path) -> None:
    """Errors keep their class over the socket."""
    async with controlled(tmp_path) as (_, path):
        with pytest.raises(AdapterNotFoundError, match=r"adapter\.gguf"):
            await applier(path).apply(model(tmp_path), previous=None)


async def test_server_that_does_not_start_is_its_own_error(tmp_path: Path) -> None:
    """ServerStartError arrives as such, and the lane, which tries again, says why nothing serves."""
    (tmp_path / "base.gguf").write_bytes(b"no model")
    async with controlled(tmp_path) as (gateway, path):
        asked = applier(path, base_gguf=tmp_path / "base.gguf")
        with pytest.raises(ApplyError, match="nothing is served yet"):
            await asked.current()
        lane = gateway.lanes["tiny"]
        lane.adapter = AdapterRef("tiny@1", "/nowhere")
        with pytest.raises(ServerStartError, match="ended with status"):
            await asked.apply(None, previous=None)
        assert lane.backend is None
        assert lane.error is not None


async def test_base_that_differs_is_a_conflict(tmp_path: Path) -> None:
    """Two daemons of one scenario with different base models cannot both be served."""
    for name in ("a.gguf", "b.gguf"):
        (tmp_path / name).write_bytes(b"no model")
    async with controlled(tmp_path) as (_, path):
        with pytest.raises(ApplyError, match="nothing is served yet"):
            await applier(path, base_gguf=tmp_path / "a.gguf").current()
        with pytest.raises(ApplyError, match="is served from"):
            await applier(path, base_gguf=tmp_path / "b.gguf").current()


async def test_base_that_failed_its_comparison_is_not_registered(tmp_path: Path) -> None:
    """The loop hears that it is the base model, and that from the worker's own words."""

    async def make_base() -> tuple[Path, Path | None]:
        raise ParityError("own.gguf is not the model in base: token 3", advice="serve the other")

    async with controlled(tmp_path) as (gateway, path):
        asked = LlamaServerApplier(
            path, scenario="tiny", feed_socket=Path("/run/feed.sock"), make_base=make_base
        )
        with pytest.raises(BaseMismatchError, match=r"own\.gguf is not the model") as raised:
            await asked.current()
        assert raised.value.advice == "serve the other"
        assert not gateway.lanes


async def test_lane_without_a_servable_base_is_a_mismatch(tmp_path: Path) -> None:
    """What the gateway found out of a server reaches the daemon as what it is."""
    async with controlled(tmp_path) as (gateway, path):
        await gateway.refuse_base("tiny", "the server tokenises 'a' otherwise")
        with pytest.raises(BaseMismatchError, match="nothing is served: the server tokenises 'a'"):
            await applier(path).current()


async def test_gateway_from_before_facts_is_registered_with_without_them(tmp_path: Path) -> None:
    """It refuses the field, and serves as it did."""
    received: list[dict[str, Any]] = []

    async def register(request: Request) -> Response:
        body = json.loads(await request.body())
        received.append(body)
        if "base_facts" in body:
            refusal = "Object contains unknown field `base_facts`"
            return JSONResponse({"code": "INVALID_INPUT", "message": refusal}, 422)
        lane = {"state": "active", "model_id": None, "is_serving": True, "address": None}
        counts = {"in_flight": 0, "requests": 0, "failed": 0, "captured": {}}
        return JSONResponse(lane | counts)

    former = Starlette(routes=[Route("/v1/scenarios/{scenario}", register, methods=["PUT"])])
    (tmp_path / "base.gguf").write_bytes(b"")

    async def make_base() -> tuple[Path, Path | None]:
        return tmp_path / "base.gguf", tmp_path / "base.facts.json"

    path = tmp_path / "serve.sock"
    async with serving(former, claim_unix_path(path), drain_s=1):
        asked = LlamaServerApplier(
            path, scenario="tiny", feed_socket=Path("/run/feed.sock"), make_base=make_base
        )
        assert await asked.current() is None
        assert await asked.current() is None
    assert ["base_facts" in body for body in received] == [True, False, False]


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "code"),
    [
        ("PUT", "/v1/scenarios/Bad%20Name", {}, 422, "INVALID_INPUT"),
        ("PUT", "/v1/scenarios/tiny", {"feed": "x"}, 422, "INVALID_INPUT"),
        ("PUT", "/v1/scenarios/tiny", {"base_gguf": "/no"}, 422, "INVALID_INPUT"),
        ("POST", "/v1/scenarios/nobody/switch", {"model_id": None}, 404, "UNKNOWN_SCENARIO"),
        ("POST", "/v1/scenarios/nobody/switch", {}, 422, "INVALID_INPUT"),
    ],
)
async def test_refusals_have_one_form(
    tmp_path: Path, method: str, path: str, body: object, status: int, code: str
) -> None:
    """Code, message and advice, whatever was wrong."""
    async with controlled(tmp_path) as (_, socket):
        transport = httpx.AsyncHTTPTransport(uds=str(socket))
        async with httpx.AsyncClient(transport=transport, base_url="http://honed") as client:
            answer = await client.request(method, path, json=body)
        assert (answer.status_code, answer.json()["code"]) == (status, code)
        assert answer.json()["message"]
