"""What a gateway captured and nobody has taken in is in the store before it is searched."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from starlette.applications import Starlette
from starlette.responses import JSONResponse
from starlette.routing import Route

from honed.client.spool import Spool
from honed.config import Config
from honed.keeping import WaitingCalls
from honed.listen import claim_unix_path, serving
from tests.feed_parts import Intake, call, line, open_feed

pytestmark = pytest.mark.anyio

SPOOL = "llama/spool/tiny"


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def waiting_calls(folder: Path, intake: Intake) -> WaitingCalls:
    settings = {"socket": folder / "serve.sock"}
    config = Config(scenario="tiny", data_dir=folder, serve=settings)
    return WaitingCalls(config, intake.sink.ingest)


def left_behind(folder: Path, *lines: bytes) -> Spool:
    """The spool of a gateway that has these lines and still holds it."""
    spool = Spool(folder / SPOOL, max_bytes=1 << 20)
    spool.append([each + b"\n" for each in lines])
    return spool


async def test_what_a_gateway_that_is_gone_left_behind_is_taken_in(tmp_path: Path) -> None:
    """Once, and its files go; what is no event is set aside, as the gateway does."""
    known = line(call(task_id="t0"))
    left_behind(tmp_path, known, line(call(task_id="t1")), b'{"half": 1}', known).close()
    async with open_feed(tmp_path) as intake:
        waiting = waiting_calls(tmp_path, intake)
        assert await waiting.take_in() is None
        assert (await intake.store.stats()).num_records == 2
        [broken] = (tmp_path / SPOOL).iterdir()
        assert broken.read_bytes() == b'{"half": 1}\n'
        assert await waiting.take_in() is None
        assert (await intake.store.stats()).num_records == 2


@asynccontextmanager
async def former_gateway(folder: Path) -> AsyncIterator[None]:
    """One that does not know the order."""

    async def told(request: object) -> JSONResponse:
        return JSONResponse({"protocol": 1, "address": None, "scenarios": {}})

    app = Starlette(routes=[Route("/v1/serving", told)])
    async with serving(app, claim_unix_path(folder / "serve.sock"), drain_s=1):
        yield


async def test_a_gateway_from_before_is_told_of(tmp_path: Path) -> None:
    """What it holds is its own; where it holds nothing, nothing is amiss."""
    async with open_feed(tmp_path) as intake, former_gateway(tmp_path):
        waiting = waiting_calls(tmp_path, intake)
        assert await waiting.take_in() is None
        held = left_behind(tmp_path, line(call(task_id="t1")))
        told = await waiting.take_in()
        held.close()
        assert told is not None
        assert "bytes of captured calls are with a gateway that cannot be asked" in told
        assert (await intake.store.stats()).num_records == 0


async def test_nobody_and_nothing_is_there(tmp_path: Path) -> None:
    """The usual case of a scenario without a gateway."""
    async with open_feed(tmp_path) as intake:
        waiting = waiting_calls(tmp_path, intake)
        assert await waiting.take_in() is None
        assert not (tmp_path / SPOOL).exists()
