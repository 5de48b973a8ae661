"""How a server on a socket says goodbye."""

import asyncio

import pytest
from starlette.types import Receive, Scope, Send

from honed.listen import listen_on, serving

pytestmark = pytest.mark.anyio

REQUEST = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


async def answer(scope: Scope, receive: Receive, send: Send) -> None:
    headers = [(b"content-length", b"2")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": b"ok"})


async def test_kept_connection_is_told_before_it_is_closed() -> None:
    """A request that is on its way on an idle connection is answered, and that was the last one."""
    sock = listen_on("127.0.0.1", 0)
    leave, left = asyncio.Event(), asyncio.Event()

    async def serve() -> None:
        async with serving(answer, sock, drain_s=1, farewell_s=0.5):
            await leave.wait()
            left.set()

    task = asyncio.create_task(serve())
    reader, writer = await asyncio.open_connection(*sock.getsockname())
    heads = []
    for _ in range(2):
        writer.write(REQUEST)
        heads.append(await reader.readuntil(b"\r\n\r\n"))
        await reader.readexactly(2)
        leave.set()
        await left.wait()
    assert b"connection: close" not in heads[0]
    assert b"connection: close" in heads[1]
    assert await reader.read() == b""
    writer.close()
    await task
