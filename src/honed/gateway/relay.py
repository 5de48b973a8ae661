"""The hot path: a bare ASGI callable that relays model traffic to llama-server and passes bytes on
as they come.

Every request has one backend from the moment it is counted in until it is counted out, so a switch
can neither cut nor mix an answer. One that finds no server waits for the next. What fails before
the answer's head is a 503 with Retry-After; what fails in the middle of a stream is an error event;
what fails in the middle of anything else cuts the connection, so that nobody takes half for whole.
"""

import asyncio
from collections.abc import Coroutine, Mapping
from typing import Final, NamedTuple

from starlette.types import Receive, Scope, Send

from honed.gateway.backend import Backend
from honed.gateway.browser import BrowserGuard
from honed.gateway.capture import CHAT_PATHS, Tape
from honed.gateway.lane import Lane
from honed.gateway.refusal import Refused, error_event, send_json, send_whole
from honed.gateway.request import (
    ClientGoneError,
    answer_headers,
    read_body,
    read_labels,
    read_model,
    request_headers,
)
from honed.gateway.room import Room, Share
from honed.gateway.upstream import (
    Exchange,
    Head,
    Headers,
    UnreachableError,
    UpstreamError,
    request_bytes,
)
from honed.gateway.wanted import Wanted

_HELD_MAX: Final = 16
"""Times `max_body`: bytes of request bodies that may be in memory at a time."""
_COLLECT_MAX: Final = 16 << 20
"""Bytes of an answer that is put together for an HTTP/1.0 client."""
_FORBIDDEN: Final = frozenset((("POST", "/lora-adapters"), ("POST", "/props")))
"""They change what the server answers, past every proof."""


class Relay:
    """Model traffic of all lanes."""

    def __init__(
        self,
        lanes: Mapping[str, Lane],
        *,
        max_body: int,
        host: str | None = None,
        default: str | None = None,
        captures: bool = True,
        gateway_id: str | None = None,
    ) -> None:
        """`default` names the scenario that answers requests whose `model` names none; `gateway_id` is told with
        the health.
        """
        self._lanes = lanes
        self._identity = {"gateway": gateway_id} if gateway_id else {}
        self._default = default
        self._guard = BrowserGuard(host)
        self._max_body = max_body
        self._captures = captures
        self._room = Room(max_body * _HELD_MAX)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            return
        try:
            await self._answer(scope, receive, send)
        except Refused as refusal:
            body = refusal.body(scope["path"])
            await send_whole(send, refusal.status, refusal.headers(), body)
        except ClientGoneError:
            return

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        method, path = scope["method"], scope["path"]
        self._guard.check(scope["headers"])
        if method in ("GET", "HEAD"):
            if path in ("/health", "/v1/health"):
                await send_json(send, self._health())
                return
            if path in ("/v1/models", "/models"):
                await send_json(send, self._models())
                return
        if (method, path.rstrip("/")) in _FORBIDDEN:
            raise Refused(403, "forbidden", f"{method} {path} is the gateway's own business")
        with Share(self._room) as share:
            body = await read_body(scope, receive, limit=self._max_body, share=share)
            model, onward = read_model(body)
            await self._relay(scope, receive, send, self._route(model), onward)

    def _route(self, model: str | None) -> Lane:
        if model is not None and (lane := self._lanes.get(model)):
            return lane
        # Clients that name a model of their own must not notice that a second scenario has registered.
        if self._default is not None and (lane := self._lanes.get(self._default)):
            return lane
        if len(self._lanes) == 1:
            return next(iter(self._lanes.values()))
        if not self._lanes:
            raise Refused(503, "not_serving", "no scenario is registered yet", retry_after_s=1)
        known = ", ".join(sorted(self._lanes))
        if model is None:
            raise Refused(400, "model_required", f"the body names no model; there are: {known}")
        raise Refused(404, "model_not_found", f"there is no model {model!r}; there are: {known}")

    async def _relay(
        self, scope: Scope, receive: Receive, send: Send, lane: Lane, body: bytes
    ) -> None:
        method, path = scope["method"], scope["path"]
        labels = read_labels(scope["headers"])
        target = scope["raw_path"] + (
            b"?" + scope["query_string"] if scope["query_string"] else b""
        )
        onward = _Onward(method, target, request_headers(scope["headers"]), body)
        exchange = Exchange(method)
        answer = _Answer(scope, send)
        backend: Backend | None = None
        # Not in a task group: that costs more than the rest of this function. It has nothing to
        # clean up, and is cancelled here and nowhere else.
        watcher = asyncio.ensure_future(_abort_when_gone(receive, exchange))
        try:
            backend = await _admitted(lane, Wanted(labels.task_id), exchange, onward, watcher)
            tape = Tape(
                lane.captured, labels, endpoint=path, request=body, adapter_id=backend.model_id
            )
            await answer.start(await exchange.head(), _ours(tape, backend))
            await answer.pass_on(exchange, tape, backend)
        except UpstreamError as error:
            if watcher.done():  # the client went first; that is what broke it
                return
            lane.failed += 1
            await answer.break_off(error)
        finally:
            watcher.cancel()
            exchange.abort()
            if backend is not None:
                lane.leave(backend)
        if self._captures and method == "POST" and path in CHAT_PATHS and answer.is_good:
            tape.finish(is_stream=answer.is_stream)

    def _health(self) -> dict[str, object]:
        return {
            "status": "ok",
            **self._identity,
            "scenarios": {name: lane.state for name, lane in self._lanes.items()},
        }

    def _models(self) -> dict[str, object]:
        data = [
            {"id": name, "object": "model", "created": 0, "owned_by": "honed"}
            for name in self._lanes
        ]
        return {"object": "list", "data": data}


class _Answer:
    """The answer to one client, as far as it has been sent."""

    def __init__(self, scope: Scope, send: Send) -> None:
        self._path = scope["path"]
        self._collects = scope["http_version"] == "1.0"
        self._is_to_page = any(name == b"origin" for name, _ in scope["headers"])
        self._send = send
        self._head: Head | None = None
        self._headers: Headers = []
        self._ends_between_events = True
        self.is_good = False
        """Whether it is whole, with status 200."""

    @property
    def is_stream(self) -> bool:
        """Whether it is server-sent events."""
        kinds = [value for name, value in self._headers if name == b"content-type"]
        return any(kind.lower().startswith(b"text/event-stream") for kind in kinds)

    async def start(self, head: Head, ours: Headers) -> None:
        """Send the head, unless the client is so old that the length must be known first."""
        self._headers = answer_headers(head.headers, to_page=self._is_to_page) + ours
        self._collects = self._collects and all(
            name != b"content-length" for name, _ in self._headers
        )
        self._head = head
        if not self._collects:
            await self._send(
                {"type": "http.response.start", "status": head.status, "headers": self._headers}
            )

    async def pass_on(self, exchange: Exchange, tape: Tape, backend: Backend) -> None:
        """Send the body as it comes; waiting for the client makes llama-server wait."""
        assert self._head is not None
        collected = bytearray()
        while True:
            chunk = await exchange.read()
            backend.is_heard = True
            is_last = exchange.is_complete  # now: while the client is waited for, more may arrive
            tape.add(chunk)
            if self._collects:
                collected += chunk
                if len(collected) > _COLLECT_MAX:
                    raise UpstreamError("the answer is too long for an HTTP/1.0 client")
            elif chunk or is_last:
                self._ends_between_events = chunk.endswith(b"\n\n")
                more = not is_last
                await self._send({"type": "http.response.body", "body": chunk, "more_body": more})
            if is_last:
                break
        if self._collects:
            self._collects = False
            await send_whole(self._send, self._head.status, self._headers, bytes(collected))
        self.is_good = self._head.status == 200

    async def break_off(self, error: UpstreamError) -> None:
        """llama-server is gone: say so as clearly as is still possible."""
        if self._head is None or self._collects:
            refusal = Refused(503, "upstream_gone", str(error), retry_after_s=1)
            body = refusal.body(self._path)
            await send_whole(self._send, refusal.status, refusal.headers(), body)
        elif self.is_stream and self._ends_between_events:
            event = error_event(self._path, 503, "upstream_gone", str(error))
            await self._send({"type": "http.response.body", "body": event})
        # else: returning without an end makes uvicorn cut the connection, and the client sees that
        # it is half


def _ours(tape: Tape, backend: Backend) -> Headers:
    model = backend.model_id or "base"
    return [(b"x-honed-receipt", tape.receipt_id.encode()), (b"x-honed-model", model.encode())]


class _Onward(NamedTuple):
    """A request on its way to whichever server takes it."""

    method: str
    target: bytes
    headers: Headers
    body: bytes

    def to(self, backend: Backend) -> bytes:
        """As bytes for this server."""
        return request_bytes(self.method, self.target, self.headers, self.body)


async def _admitted(
    lane: Lane,
    wanted: Wanted,
    exchange: Exchange,
    onward: _Onward,
    watcher: asyncio.Future[None],
) -> Backend:
    """Count the request in and send it; one that nobody takes now is held for the next server.

    Raises:
        Refused: no server came in time.
        ClientGoneError: the client has left while it waited.
        UpstreamError: the server that had the request is gone.
    """
    until: float | None = None
    gone: Backend | None = None
    while True:
        while (backend := lane.pick(wanted)) is None or backend is gone:
            until = until or lane.held_until()
            await _unless_gone(watcher, lane.hold(wanted, gone, until=until))
        lane.enter(backend)
        try:
            await exchange.open(backend.address, onward.to(backend))
        except UnreachableError:  # it has just died: the lane will notice in a moment
            lane.leave(backend)
            gone = backend
        except BaseException:
            lane.leave(backend)
            raise
        else:
            return backend


async def _unless_gone(
    watcher: asyncio.Future[None], waiting: Coroutine[object, object, None]
) -> None:
    """Wait, unless the client leaves meanwhile."""
    task = asyncio.ensure_future(waiting)
    try:
        await asyncio.wait((task, watcher), return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientGoneError
        task.result()
    finally:
        task.cancel()


async def _abort_when_gone(receive: Receive, exchange: Exchange) -> None:
    """Abort the exchange when the client goes; llama-server then stops generating."""
    while (await receive())["type"] != "http.disconnect":
        pass
    exchange.abort()
