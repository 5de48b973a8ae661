"""How a server is doing, asked when somebody wants to know."""

import asyncio
from pathlib import Path

import msgspec
import pytest

from honed.config import ServeSection
from honed.domain.serving import ServerVitals
from honed.gateway.external import ExternalServer
from honed.gateway.llama_server import ServerPlan
from honed.gateway.vitals import vitals
from tests.served import CHAT, QUESTION, Served, serving
from tests.unit.gateway.stub import Request, backend_at, upstream

pytestmark = pytest.mark.anyio


async def told(served: Served) -> ServerVitals:
    async with served.control() as client:
        answer = await client.get("/v1/scenarios/tiny/server")
    assert answer.status_code == 200, answer.text
    return msgspec.json.decode(answer.content, type=ServerVitals)


async def test_server_tells_slots_tokens_and_memory(tmp_path: Path, tiny_gguf: Path) -> None:
    """While a request is answered its slot is busy; tokens are counted."""
    async with serving(tmp_path, tiny_gguf, parallel=2, ctx_size=1024) as served:
        before = await told(served)
        body = QUESTION | {"max_tokens": 900, "stream": True}
        async with served.client() as client, client.stream("POST", CHAT, json=body) as answer:
            await anext(answer.aiter_lines())
            during = await told(served)
        async with served.control() as client:
            unknown = await client.get("/v1/scenarios/other/server")
    assert (before.slots, before.busy_slots, before.ctx_size) == (2, 0, 1024)
    assert before.is_healthy
    assert before.deferred == 0
    assert before.private_bytes > 1 << 20
    assert Path(before.log).name == "tiny-blue.log"
    assert during.pid == before.pid
    assert during.prompt_tokens is not None
    assert before.prompt_tokens is not None
    assert during.busy_slots == 1 or during.prompt_tokens > before.prompt_tokens
    assert unknown.status_code == 404


async def test_server_that_says_nothing_useful_is_told_as_it_is(tmp_path: Path) -> None:
    """Answers that cannot be read, and routes that are not there, are unknown, not an error."""

    async def script(request: Request, writer: asyncio.StreamWriter) -> None:
        route = request.line.split()[1]
        status = b"404 Not Found" if route == "/metrics" else b"200 OK"
        writer.write(b"HTTP/1.1 " + status + b"\r\ncontent-length: 2\r\n\r\n{}")

    async with upstream(script) as seen:
        backend = backend_at(seen.address)
        plan = ServerPlan(
            name="tiny-blue",
            alias="tiny",
            base_gguf=Path(),
            adapter_gguf=None,
            section=ServeSection(),
            folder=tmp_path,
        )
        backend.server = ExternalServer(plan, seen.address)
        found = await vitals(backend)
    assert found.is_healthy
    assert (found.pid, found.private_bytes, found.log) == (None, None, None)
    assert (found.slots, found.deferred, found.generated_per_s) == (None, None, None)


async def test_nothing_is_told_of_what_does_not_serve(tmp_path: Path, tiny_gguf: Path) -> None:
    """The lane's state is the answer."""
    async with serving(tmp_path, tiny_gguf) as served, served.control() as client:
        await client.put("/v1/scenarios/other", json={})
        answer = await client.get("/v1/scenarios/other/server")
    assert answer.status_code == 409
    assert answer.json()["message"] == "other: nothing is served now, the lane is down"
