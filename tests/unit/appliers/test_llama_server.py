"""The applier and the gateway's control API over a real socket: registering, errors, versions."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest

from honed.appliers import LlamaServerApplier
from honed.config import ServeSection
from honed.domain.serving import AdapterRef
from honed.domain.trained_model import TrainedModel
from honed.errors import AdapterNotFoundError, ApplyError, ServerStartError
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
