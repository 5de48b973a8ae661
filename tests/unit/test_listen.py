"""How a server on a socket says goodbye."""

import asyncio

import pytest
from starlette.types import Receive, Scope, Send

from honed.listen import listen_on, serving, told_the_end

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


class Slow:
    """An application that does not come to an end."""

    def __init__(self, *, begins: bool) -> None:
        self.begins = begins
        self.is_asked = asyncio.Event()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self.begins:
            headers = [(b"content-length", b"9")]
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            await send({"type": "http.response.body", "body": b"half", "more_body": True})
        self.is_asked.set()
        await asyncio.sleep(600)


@pytest.mark.parametrize(
    ("begins", "status", "end"),
    [(False, b"503", b'"the process that was asked is being stopped"}'), (True, b"200", b"half")],
    ids=["before its answer", "within it"],
)
async def test_request_that_is_ended_is_told_so(
    begins: bool, status: bytes, end: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    """What has no answer yet gets one, half an answer is cut; neither is an error of the program's."""
    app = Slow(begins=begins)
    sock = listen_on("127.0.0.1", 0)
    async with serving(told_the_end(app), sock, drain_s=0.01):
        reader, writer = await asyncio.open_connection(*sock.getsockname())
        writer.write(REQUEST)
        await app.is_asked.wait()
    said = await reader.read()
    writer.close()
    assert said.split()[1] == status
    assert said.endswith(end)
    assert caplog.records == []


async def test_error_of_an_application_is_told_as_ever(caplog: pytest.LogCaptureFixture) -> None:
    """A fault leaves its trace in the log; only what is cut on purpose does not."""

    async def fails(scope: Scope, receive: Receive, send: Send) -> None:
        raise ZeroDivisionError

    sock = listen_on("127.0.0.1", 0)
    async with serving(told_the_end(fails), sock, drain_s=0.01):
        reader, writer = await asyncio.open_connection(*sock.getsockname())
        writer.write(REQUEST)
        head = await reader.readuntil(b"\r\n")
        writer.close()
    assert head.split()[1] == b"500"
    assert [record.message.strip() for record in caplog.records] == [
        "Exception in ASGI application"
    ]
