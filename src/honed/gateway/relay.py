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
from urllib.parse import quote, unquote

from starlette.types import Receive, Scope, Send

from honed.gateway import listing, shadow
from honed.gateway.answer import Answer, StoppingError, TimedOutError
from honed.gateway.backend import Backend
from honed.gateway.browser import BrowserGuard, preflight, readable
from honed.gateway.capture import Tape
from honed.gateway.keys import CARRIERS, ApiKeys
from honed.gateway.labels import LABELLED, NOTHING, Labels, Said, read_labels, read_path
from honed.gateway.lane import Lane
from honed.gateway.merge import is_kept
from honed.gateway.refusal import Refused, send_empty, send_json, send_refusal, stopping, too_many
from honed.gateway.request import ClientGoneError, read_body, read_request, request_headers
from honed.gateway.room import Room, Share
from honed.gateway.upstream import (
    Exchange,
    Head,
    Headers,
    UnreachableError,
    UpstreamError,
    request_bytes,
)
from honed.gateway.wanted import Wanted, scenario_in, version_in

_HELD_MAX: Final = 16
"""Times `max_body`: bytes of request bodies that may be in memory at a time."""
_FORBIDDEN: Final = frozenset(
    ("POST", path)
    for path in (
        "/lora-adapters",
        "/lora-adapters/load",
        "/lora-adapters/unload",
        "/load_lora_adapter",
        "/load_lora_adapter_from_tensors",
        "/unload_lora_adapter",
        "/update_weights_from_disk",
        "/update_weights_from_distributed",
        "/update_weights_from_tensor",
        "/collective_rpc",
        "/update_weights",
        "/update_weights_from_ipc",
        "/v1/load_lora_adapter",
        "/v1/unload_lora_adapter",
        "/models/load",
        "/models/unload",
        "/props",
    )
)
"""They change what the server answers, past every proof."""
_CONVERSATION: Final = b"x-conversation-id"
"""llama-server ends an answer that another of the same conversation follows, also one of another scenario."""
_UNQUOTED: Final = "/:@!$&'()*+,;="
"""What stands in a path as it is (RFC 3986), besides letters and digits."""


class Limits(NamedTuple):
    """What requests may take at most."""

    max_requests: int = 4096
    """Open at a time."""
    request_s: float | None = None
    """Until the answer's end; None sets no limit."""
    first_byte_s: float | None = None
    """Until the answer begins, from when a server has the request; None sets no limit."""


NO_LIMITS: Final = Limits()
"""No limits of time, and the usual number."""


class Relay:
    """Model traffic of all lanes."""

    def __init__(
        self,
        lanes: Mapping[str, Lane],
        *,
        max_body: int,
        limits: Limits = NO_LIMITS,
        keys: ApiKeys | None = None,
        host: str | None = None,
        default: str | None = None,
        captures: bool = True,
        gateway_id: str | None = None,
    ) -> None:
        """
        Args:
            lanes: by scenario; may change while requests come.
            max_body: bytes of one request's body.
            limits: what requests may take.
            keys: who may ask; None: everybody, and headers that carry keys go on to the server.
            host: where the gateway listens.
            default: the scenario that answers requests whose `model` names none.
            captures: whether calls become events.
            gateway_id: told with the health.
        """
        self._lanes = lanes
        self._identity = {"gateway": gateway_id} if gateway_id else {}
        self._default = default
        self._guard = BrowserGuard(host)
        self._max_body = max_body
        self._limits = limits
        self._keys = keys
        self._captures = captures
        self._room = Room(max_body * _HELD_MAX)
        self._open = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            return
        try:
            said = NOTHING
            if scope["raw_path"].startswith(LABELLED):
                scope, said = _beyond_labels(scope)
            await self._answer(scope, receive, send, said)
        except Refused as refusal:
            await send_refusal(refusal, scope, receive, send, beside=readable(scope["headers"]))
        except ClientGoneError:
            return

    async def _answer(self, scope: Scope, receive: Receive, send: Send, in_path: Said) -> None:
        method, path = scope["method"], scope["path"]
        self._guard.check(scope["headers"], over=scope.get("server"))
        if method == "OPTIONS" and (permission := preflight(method, scope["headers"])) is not None:
            await send_empty(send, permission)
            return
        is_question = method in ("GET", "HEAD")
        if is_question and path in ("/health", "/v1/health"):
            await send_json(send, self._health(), beside=readable(scope["headers"]))
            return
        if self._keys is not None:
            self._keys.check(scope["headers"])
        if is_question and (told := self._listed(path)) is not None:
            await send_json(send, told, beside=readable(scope["headers"]))
            return
        if (method, path.rstrip("/")) in _FORBIDDEN:
            raise Refused(403, "forbidden", f"{method} {path} is the gateway's own business")
        if self._open >= self._limits.max_requests:
            raise too_many(f"{self._open} are open")
        self._open += 1
        try:
            with Share(self._room) as share:
                body = await read_body(scope, receive, limit=self._max_body, share=share)
                request = read_request(body)
                labels = read_labels(scope["headers"], in_path, request.said)
                lane = self._route(labels.scenario, request.model)
                named = labels.scenario or request.model
                wanted = Wanted.by(labels, version=version_in(named, lane.scenario))
                await self._relay(scope, receive, send, lane, labels, wanted, request.onward)
        finally:
            self._open -= 1

    def _listed(self, path: str) -> dict[str, object] | None:
        """What is told of models at a path of theirs; None for a path that is none."""
        if not path.startswith(listing.PATHS):
            return None
        names = listing.names(self._lanes)
        if path in listing.PATHS:
            return listing.listing(names)
        if name := listing.asked_for(path):
            return listing.card(name if name in names else self._named(name).scenario)
        return None

    def _route(self, scenario: str | None, model: str | None) -> Lane:
        if scenario is not None:
            return self._named(scenario_in(scenario))
        if model is not None and (lane := self._lanes.get(scenario_in(model))):
            return lane
        # Clients that name a model of their own must not notice that a second scenario has registered.
        if self._default is not None and (lane := self._lanes.get(self._default)):
            return lane
        if len(self._lanes) == 1:
            return next(iter(self._lanes.values()))
        if model is None and self._lanes:
            raise Refused(400, "model_required", f"the body names no model; {self._there_are}")
        return self._named(model or "")

    def _named(self, name: str) -> Lane:
        if lane := self._lanes.get(name):
            return lane
        if not self._lanes:
            raise Refused(503, "not_serving", "no scenario is registered yet", retry_after_s=1)
        raise Refused(404, "model_not_found", f"there is no model {name!r}; {self._there_are}")

    @property
    def _there_are(self) -> str:
        return f"there are: {', '.join(sorted(self._lanes))}"

    async def _relay(
        self,
        scope: Scope,
        receive: Receive,
        send: Send,
        lane: Lane,
        labels: Labels,
        wanted: Wanted,
        body: bytes,
    ) -> None:
        method, path = scope["method"], scope["path"]
        target = _target(scope)
        headers = request_headers(scope["headers"], without=CARRIERS if self._keys else frozenset())
        onward = _Onward(method, path, target, headers, body)
        exchange = Exchange(method)
        answer = Answer(scope, send)
        limits = self._limits
        backend: Backend | None = None
        # Not in a task group: that costs more than the rest of this function. It has nothing to
        # clean up, and is cancelled here and nowhere else.
        watcher = asyncio.ensure_future(_abort_when_gone(receive, exchange))
        try:
            async with asyncio.timeout(limits.request_s):
                backend = await _admitted(lane, wanted, exchange, onward, watcher)
                tape = Tape(
                    lane.captured, labels, endpoint=path, request=body, adapter_id=backend.model_id
                )
                if lane.arms.candidate is not None and self._captures and is_kept(path):
                    shadow.copy(
                        lane,
                        wanted,
                        labels,
                        receipt_id=tape.receipt_id,
                        endpoint=path,
                        body=body,
                        to=onward.to,
                    )
                head = await _head(exchange, limits.first_byte_s)
                await answer.start(head, tape, backend)
                await answer.pass_on(exchange, tape, backend)
                if head.status >= 500:
                    lane.failed_at(backend)
        except (UpstreamError, TimeoutError, asyncio.CancelledError) as error:
            if watcher.done():  # the client went first; that is what broke it
                return
            lane.failed_at(backend)
            exchange.abort()  # before the client is told, which may take its time to hear
            if isinstance(error, TimeoutError):
                error = TimedOutError(f"no whole answer within {limits.request_s:g} s")
            elif isinstance(error, asyncio.CancelledError):  # nobody else ends this task
                error = StoppingError(str(stopping()))
            await answer.break_off(error, backend)
        finally:
            watcher.cancel()
            exchange.abort()
            if backend is not None:
                lane.leave(backend)
        if self._captures and method == "POST" and is_kept(path) and answer.is_good:
            tape.finish(is_stream=answer.is_stream)

    def _health(self) -> dict[str, object]:
        return {
            "status": "ok",
            **self._identity,
            "scenarios": {
                name: "parked" if lane.is_parked else lane.state
                for name, lane in self._lanes.items()
            },
        }


def _target(scope: Scope) -> bytes:
    """What the server is asked for: the path by which the request was judged, whatever else the server would read
    in the same bytes (llama-server takes `%u006c` for an `l`, we do not).
    """
    path: bytes = scope["raw_path"]
    if b"%" in path:
        path = quote(scope["path"], safe=_UNQUOTED).encode()
    return path + (b"?" + scope["query_string"] if scope["query_string"] else b"")


def _beyond_labels(scope: Scope) -> tuple[Scope, Said]:
    """The request as it is behind the labels in its path, and what these say."""
    try:
        rest, said = read_path(scope["raw_path"])
    except Refused as refusal:
        refusal.closes = True  # its body has not been read
        path = scope["path"]
        scope["path"] = path[path.find("/v1/") :]  # for the dialect that its caller reads
        raise
    return {**scope, "raw_path": rest, "path": unquote(rest.decode("ascii"))}, said


class _Onward(NamedTuple):
    """A request on its way to whichever server takes it."""

    method: str
    path: str
    target: bytes
    headers: Headers
    body: bytes

    def to(self, backend: Backend) -> bytes:
        """As bytes for this server; raises Refused when it cannot be asked like this."""
        body, headers = self.body, self.headers
        if backend.dress is not None:
            body = backend.dress(self.path, body)
            headers = [header for header in headers if header[0] != _CONVERSATION]
        if keys := backend.address.keys:  # a client's own key is none of that server
            headers = keys + [header for header in headers if header[0] not in CARRIERS]
        return request_bytes(self.method, self.target, headers, body)


async def _head(exchange: Exchange, limit_s: float | None) -> Head:
    """The answer's head; raises TimedOutError when it does not come in time."""
    if limit_s is None:
        return await exchange.head()
    try:
        async with asyncio.timeout(limit_s):
            return await exchange.head()
    except TimeoutError:
        raise TimedOutError(f"the answer has not begun within {limit_s:g} s") from None


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
