"""Sockets that honed listens on: a claimed unix path, and an ASGI application served inside our own task group."""

import asyncio
import contextlib
import errno
import logging
import os
import resource
import socket
from collections.abc import AsyncIterator, Awaitable, Generator
from pathlib import Path
from typing import Final

import anyio
import uvicorn
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from honed.errors import ConfigError, SourceError

GATEWAY_RUNS: Final = (
    "a gateway runs already and serves many scenarios: `honed run` adds one to it; or stop it"
)
"""What to do where serve.sock is taken."""
UNIX_PATH_MAX: Final = 107
"""Bytes that Linux allows for the path of a unix socket (`sun_path`, 108 with the closing zero)."""
_BACKLOG: Final = 2048
_NO_NEWS: Final = (
    "ASGI callable returned without completing response",
    "Cancel %s running task(s)",
)
_STOPPING: Final = b'{"code": "STOPPING", "message": "the process that was asked is being stopped"}'
"""As a refusal of the control APIs."""
_LAST_WORDS_S: Final = 2
"""From when what is still open is ended, until it has been told so."""


def check_unix_path(path: Path) -> None:
    """See that a socket can have this path; raises ConfigError where it is too long."""
    if (length := len(os.fsencode(path))) > UNIX_PATH_MAX:
        raise ConfigError(
            f"socket path {path} has {length} bytes; Linux allows {UNIX_PATH_MAX}",
            advice="choose a shorter data_dir, or set runtime_dir",
        )


def claim_unix_path(
    path: Path, *, backlog: int = 1024, advice: str = "stop it first", mode: int = 0o600
) -> socket.socket:
    """Bind and listen on `path`; only the owner may connect, unless the socket's `mode` says otherwise.

    A socket file that nobody listens on (left by a kill) is replaced. A folder is made with mode 0700, or 0711 where
    others may connect.

    Raises:
        ConfigError: another process listens on it, or the path is too long.
        SourceError: the folder cannot be written.
    """
    check_unix_path(path)
    try:
        path.parent.mkdir(mode=0o711 if mode & 0o066 else 0o700, parents=True, exist_ok=True)
        if is_listening(path):
            raise ConfigError(f"another process listens on {path}", advice=advice)
        if path.exists() and not path.is_socket():
            raise SourceError(
                f"{path} is in the way: expected a socket or nothing, found a file or a folder",
                advice="move it away, or choose another data_dir",
            )
        path.unlink(missing_ok=True)
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        # The mode must hold from the first moment: a chmod after bind would leave a window.
        before = os.umask(~mode & 0o777)
        try:
            sock.bind(str(path))
        finally:
            os.umask(before)
        sock.listen(backlog)
    except OSError as error:
        raise SourceError(f"cannot listen on {path}: {error.strerror}") from error
    sock.setblocking(False)
    return sock


def listen_on(host: str, port: int) -> socket.socket:
    """A listening TCP socket; port 0 takes a free one.

    Raises:
        ConfigError: another process listens there.
        SourceError: the address cannot be used, or is not one of this machine (yet).
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, _, _, _, address = found[0]
        listener = socket.create_server(address[:2], family=family, backlog=_BACKLOG)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise ConfigError(
                f"another process listens on {host}:{port}",
                advice="stop it, or choose another serve.port; 0 takes a free one",
            ) from error
        raise SourceError(f"cannot listen on {host}:{port}: {error.strerror}") from error
    listener.setblocking(False)
    return listener


def allow_files(wanted: int) -> int:
    """How many files this process may have open: `wanted`, or what the hard limit leaves of it.

    The soft limit, 1024 in most shells, is raised where it is short of that.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    allowed = wanted if hard == resource.RLIM_INFINITY else min(hard, wanted)
    if soft != resource.RLIM_INFINITY and soft < allowed:
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
    return allowed


def is_listening(path: Path) -> bool:
    """Whether a process accepts connections on the unix socket `path`."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1)
        try:
            probe.connect(str(path))
        except (ConnectionRefusedError, FileNotFoundError):
            return False
        except (BlockingIOError, TimeoutError):
            return True  # somebody listens, but is too busy to accept: the backlog is full
        return True


class _Server(uvicorn.Server):
    """uvicorn without its signal handlers: signals belong to the process, not to one of its servers."""

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        yield


def told_the_end(app: ASGIApp) -> ASGIApp:
    """The application, with a 503 for requests that are ended with it before they have an answer."""

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        has_begun = False

        async def send_seen(message: Message) -> None:
            nonlocal has_begun
            has_begun = True
            await send(message)

        try:
            await app(scope, receive, send_seen)
        except asyncio.CancelledError:
            if not has_begun:
                headers = [
                    (b"content-type", b"application/json"),
                    (b"content-length", b"%d" % len(_STOPPING)),
                    (b"connection", b"close"),
                ]
                await send({"type": "http.response.start", "status": 503, "headers": headers})
                await send({"type": "http.response.body", "body": _STOPPING})

    return answer


class _Farewell:
    """The application; once `has_begun` is set, every answer ends its connection."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self.has_begun = False

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        if not self.has_begun:
            return self._app(scope, receive, send)

        async def send_last(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = [*message.get("headers", ()), (b"connection", b"close")]
                message = {**message, "headers": headers}
            await send(message)

        return self._app(scope, receive, send_last)


@contextlib.asynccontextmanager
async def serving(
    app: ASGIApp,
    *sockets: socket.socket,
    drain_s: float,
    keep_alive_s: int = 5,
    farewell_s: float = 0.0,
) -> AsyncIterator[None]:
    """Serve `app` on listening sockets while the context is open; closing waits `drain_s` for requests, then cancels
    them. The application tells its clients what it still can; what it leaves half is cut.

    Args:
        app: the ASGI application; lifespan events are not sent.
        sockets: listening; closed afterwards.
        drain_s: how long requests may take to end once the context is left.
        keep_alive_s: how long an idle connection stays open. A client that reuses it at that very moment loses its
            request, so it should be longer than clients keep theirs (httpx and OpenAI's client: 5 s).
        farewell_s: how long, once the context is left, requests are still taken, each answer with `connection: close`.
            uvicorn closes idle connections at once, and a request that is on its way on one of them is lost
            (measured under load: 0 to 2 of 1,300 at each stop).
    """
    farewell = _Farewell(app)
    config = uvicorn.Config(
        farewell,
        interface="asgi3",
        http="httptools",
        lifespan="off",
        log_config=None,
        log_level="error",  # below it are lines about what peers do wrong, in plain text, as many as they please
        access_log=False,
        server_header=False,
        proxy_headers=False,  # nobody asks who the client is; one layer less for each request
        ws="none",
        timeout_keep_alive=keep_alive_s,
        timeout_graceful_shutdown=round(drain_s) + _LAST_WORDS_S,
    )
    for sock in sockets:
        if sock.family != socket.AF_UNIX:
            # asyncio turns Nagle off only where the socket's protocol number says TCP, which create_server leaves at
            # 0; a chunked answer then waits 40 ms for the peer's delayed ack (measured; uvloop does it always).
            # Inherited.
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    server = _Server(config)
    logging.getLogger("uvicorn.error").addFilter(_is_news)
    has_ended = anyio.Event()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(_run_to_its_end, server, list(sockets), has_ended)
        try:
            with anyio.fail_after(10):
                while not server.started:  # noqa: ASYNC110 - uvicorn has no event to wait for
                    await anyio.sleep(0.005)
            yield
        except BaseException:
            server.force_exit = True  # nobody waits for requests when something is wrong
            raise
        else:
            farewell.has_begun = True
            await anyio.sleep(farewell_s)
        finally:
            server.should_exit = True
            tasks.start_soon(_end_what_is_left, server, has_ended, drain_s)
    for sock in sockets:
        sock.close()


def _is_news(record: logging.LogRecord) -> bool:
    """Whether a line of uvicorn's says what is not meant: an answer that is half is cut on purpose."""
    return not str(record.msg).startswith(_NO_NEWS)


async def _end_what_is_left(server: _Server, has_ended: anyio.Event, after_s: float) -> None:
    """Cancel the requests that are open after so long."""
    with anyio.move_on_after(after_s):
        await has_ended.wait()
    for task in list(server.server_state.tasks):
        task.cancel()


async def _run_to_its_end(
    server: _Server, sockets: list[socket.socket], has_ended: anyio.Event
) -> None:
    # Cancelled in the middle, uvicorn leaves its listeners and connections open, and closing uvloop
    # then hangs (seen with 0.23: an error elsewhere left a process that never ended).
    with anyio.CancelScope(shield=True):
        await server.serve(sockets)
    has_ended.set()
