"""The control API answers over a real unix socket; an error has one form."""

from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import httpx
import pytest

from honed.api import EventStream, control_app
from honed.domain.trained_model import Selection
from honed.errors import BusyError, ConfigError, NoPreviousModelError, NotFoundError
from honed.keeping import Cleaned
from honed.listen import claim_unix_path, serving
from honed.ports import Whose

pytestmark = pytest.mark.anyio


class Daemon:
    """Just enough of a daemon to be asked."""

    def __init__(self) -> None:
        self.orders: list[tuple[str, bool]] = []

    async def status(self) -> dict[str, Any]:
        return {"scenario": "airline"}

    async def runs(self) -> list[Any]:
        return []

    async def models(self) -> list[Any]:
        return []

    def train_now(
        self, *, selection: Selection, against_base: bool, learn_model: str | None = None
    ) -> str:
        if self.orders:
            raise BusyError("run r1 is in progress")
        self.orders.append((selection, against_base))
        return "r1"

    def suspicions(self) -> list[str]:
        return ["shorter answers"]

    def cancel(self) -> str | None:
        return None

    async def reload(self) -> dict[str, Any]:
        raise ConfigError("trigger: cuont is no condition", advice="write count")

    async def apply(self, model_id: str, *, force: bool) -> dict[str, Any]:
        raise NotFoundError(f"no model {model_id}", advice="see `honed adapters`")

    async def rollback(self) -> str | None:
        raise NoPreviousModelError("nothing to go back to")


class Keeper:
    """Just enough of a keeper to be asked."""

    async def forget(self, whose: Whose, *, dry: bool) -> Whose:
        return whose

    async def cleanup(self, *, dry: bool) -> Cleaned:
        return Cleaned(done=not dry, records=0, episodes=0, runs=(), adapters=())


async def beat() -> None:
    """A part that answers."""


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
async def asked(tmp_path: Path) -> Any:
    """A client of a served control API."""
    path = tmp_path / "control.sock"
    events = EventStream()
    transport = httpx.AsyncHTTPTransport(uds=str(path))
    async with (
        serving(
            control_app(Daemon(), events, Keeper(), {"writer": beat}),
            claim_unix_path(path),
            drain_s=1,
        ),
        httpx.AsyncClient(transport=transport, base_url="http://honed") as client,
    ):
        client.events = events  # type: ignore[attr-defined]
        yield client


async def test_status_carries_the_protocol_version(asked: httpx.AsyncClient) -> None:
    """Both neighbours of a version can talk."""
    assert (await asked.get("/v1/status")).json() == {"protocol": 1, "scenario": "airline"}


async def test_health_names_the_parts_that_have_answered(asked: httpx.AsyncClient) -> None:
    """A part that hangs leaves the probe without an answer; what is suspicious is told, and no fault."""
    assert (await asked.get("/v1/health")).json() == {
        "protocol": 1,
        "alive": ["writer"],
        "suspicions": ["shorter answers"],
    }


async def test_one_training_at_a_time(asked: httpx.AsyncClient) -> None:
    """The second order is a conflict that names the run."""
    order = {"selection": "blind", "against": "base"}
    assert (await asked.post("/v1/train-now", json=order)).json() == {"run_id": "r1"}
    second = await asked.post("/v1/train-now", json={})
    assert (second.status_code, second.json()["code"]) == (409, "BUSY")


async def test_an_unknown_key_in_a_request_is_refused(asked: httpx.AsyncClient) -> None:
    """A misspelt option never runs with its default."""
    answer = await asked.post("/v1/train-now", json={"slection": "blind"})
    assert answer.status_code == 422
    assert "slection" in answer.json()["message"]


async def test_errors_say_what_to_do(asked: httpx.AsyncClient) -> None:
    """Code, message and advice, whatever went wrong."""
    missing = await asked.post("/v1/apply", json={"model_id": "airline@9"})
    assert missing.status_code == 404
    assert missing.json() == {
        "code": "NOT_FOUND",
        "message": "no model airline@9",
        "advice": "see `honed adapters`",
    }
    assert (await asked.post("/v1/rollback")).status_code == 409
    refused = await asked.post("/v1/reload")
    assert (refused.status_code, refused.json()["code"]) == (422, "INVALID_CONFIG")


async def test_the_event_stream_tells_what_happens_from_now_on(asked: httpx.AsyncClient) -> None:
    """A listener gets events as server-sent events."""
    async with asked.stream("GET", "/v1/events") as answer:
        lines = answer.aiter_lines()
        with anyio.fail_after(60):
            while not asked.events._listeners:  # type: ignore[attr-defined]
                await anyio.sleep(0.01)
            asked.events.publish("episode.created", {"episode_id": "e"})  # type: ignore[attr-defined]
            first = await anext(lines)
    assert first.startswith('data: {"type":"episode.created"')


async def test_a_listener_that_does_not_read_loses_the_oldest_and_is_told() -> None:
    """Publishing never blocks and never grows without bound."""
    stream = EventStream()
    listening = stream.listen()
    async with anyio.create_task_group() as tasks:
        got: list[dict[str, Any]] = []

        async def read_one() -> None:
            got.append(await anext(listening))

        tasks.start_soon(read_one)
        while not stream._listeners:
            await anyio.lowlevel.checkpoint()
        for i in range(1_500):
            stream.publish("tick", {"i": i})
    assert (got[0]["i"], got[0]["lagged"]) == (500, 500)
    await listening.aclose()  # type: ignore[attr-defined]


def test_a_second_listener_on_one_path_is_refused(tmp_path: Path) -> None:
    """A stale socket file is replaced; a live one is not."""

    path = tmp_path / "a.sock"
    first = claim_unix_path(path)
    assert path.stat().st_mode & 0o777 == 0o600
    with pytest.raises(ConfigError, match="another process listens"):
        claim_unix_path(path)
    first.close()
    claim_unix_path(path).close()


def test_a_path_that_is_too_long_for_a_socket_is_refused(tmp_path: Path) -> None:
    """Linux allows 107 bytes; the message says so."""
    with pytest.raises(ConfigError, match="107"):
        claim_unix_path(tmp_path / ("x" * 120) / "a.sock")
