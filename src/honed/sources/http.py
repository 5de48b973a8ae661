"""Events over HTTP: `POST /events`, gzip or not, a JSON array or one object (`application/json`), or
lines (`application/x-ndjson`).

    200 {"accepted": 2, "duplicates": 0, "rejected": [{"index", "code", "path", "message"}]}

comes after the commit: what was accepted is on disk. Good events are kept beside bad ones; 422 only
when none is good. Every error body is `{"code", "message", "advice"}`.

`POST /v1/traces` takes OpenTelemetry's traces (OTLP/HTTP, protobuf or JSON), where it is switched on:
GenAI spans become events (`otlp.mapping`), all others are counted and passed over.

A browser on this machine reaches every local port for any page that asks. So the content type must
be one that a page cannot send unasked, and the Host must be a name of this machine.
"""

import hmac
import ipaddress
import socket
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final

import anyio
import msgspec
from anyio import to_thread
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from honed import log
from honed.errors import ConfigError, HonedError, StoreError, ValidationError
from honed.listen import serving, told_the_end
from honed.ports import DataSink
from honed.sources import otlp

EVENTS_MAX: Final = 10_000
"""Events in one request."""
BODY_MAX: Final = 8 << 20
"""Bytes of one request, unpacked."""
AT_A_TIME: Final = 8
"""Requests that may wait for their commit; one more is told to come back."""
BODY_TIMEOUT_S: Final = 30.0
"""A request whose body has not come by then makes room for others."""
_RETRY_AFTER_S: Final = 1
_SLICE: Final = 1_000
_DRAIN_S: Final = 5.0
_JSON: Final = "application/json"
_PROTOBUF: Final = "application/x-protobuf"
_EVENT_TYPES: Final = (_JSON, "application/x-ndjson", "application/jsonl")
_TRACE_TYPES: Final = (_PROTOBUF, _JSON)
_TOKEN_ADVICE: Final = "send the token that the daemon has in HONED_HTTP_TOKEN or its credential"
_GZIP_ADVICE: Final = "pack the whole body with gzip, or leave the header content-encoding out"
_LOCAL_NAMES: Final = ("localhost", "127.0.0.1", "::1")

_array = msgspec.json.Decoder(list[msgspec.Raw])
_any = msgspec.json.Decoder(msgspec.Raw)


class _RefusedError(HonedError):
    """A request that is answered with an error."""

    def __init__(self, status: int, code: str, message: str, *, advice: str | None) -> None:
        super().__init__(message, advice=advice)
        self.status = status
        self.code = code


def without_token(host: str) -> ConfigError:
    """What is said of an address that other machines reach, and a token that is not there."""
    return ConfigError(
        f"events.http listens on {host}, which other machines reach, without a token",
        advice="set HONED_HTTP_TOKEN (or the credential http-token), or listen on 127.0.0.1",
    )


class HttpSource:
    """`ports.EventSource` over HTTP.

    Args:
        listener: a listening TCP socket; it belongs to the source from now on.
        sink: where the events go.
        line_max: bytes of one event at most.
        token: what requests must carry as `Authorization: Bearer TOKEN`; None asks for none.
        takes_traces: whether OpenTelemetry's traces are taken as well.

    Raises:
        ConfigError: the listener is reachable from other machines and there is no token.
    """

    name = "http"

    def __init__(
        self,
        listener: socket.socket,
        sink: DataSink,
        *,
        line_max: int,
        token: str | None = None,
        takes_traces: bool = False,
    ) -> None:
        host = listener.getsockname()[0]
        self._is_local = ipaddress.ip_address(host).is_loopback
        if not self._is_local and not token:
            raise without_token(host)
        self._listener = listener
        self._sink = sink
        self._line_max = line_max
        self._token = token.encode() if token else None
        self._takes_traces = takes_traces
        self._num_waiting = 0
        self.num_turned_away = 0
        """Requests that were one too many, since the process started."""
        self.num_without_content = 0
        """Spans of model calls that came without their messages."""
        self.num_unreadable = 0
        """Spans that could not be mapped, or whose events were refused."""

    @property
    def address(self) -> str:
        """Where it listens, `host:port`."""
        return "{}:{}".format(*self._listener.getsockname()[:2])

    def status(self) -> dict[str, Any]:
        """For `honed status`: where, and counts of what could not be used."""
        return {
            "address": self.address,
            "turned_away": self.num_turned_away,
            "without_content": self.num_without_content,
            "unreadable": self.num_unreadable,
        }

    @asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        """Accept events while the context is open; closing waits for the requests in progress."""
        routes = [Route("/events", self._guarded(self._events), methods=["POST"])]
        if self._takes_traces:
            routes.append(Route("/v1/traces", self._guarded(self._traces), methods=["POST"]))
        app = Starlette(routes=routes)
        address = self.address
        async with serving(told_the_end(app), self._listener, drain_s=_DRAIN_S):
            log.get().info(log.SOURCE_OPENED, address=address)
            yield
        log.get().info(log.SOURCE_CLOSED, address=address)

    def _guarded(
        self, answer: Callable[[Request], Awaitable[Response]]
    ) -> Callable[[Request], Awaitable[Response]]:
        """The endpoint with its bound on waiting requests, refusals in one form."""

        async def endpoint(request: Request) -> Response:
            try:
                self._check_sender(request)
                if self._num_waiting >= AT_A_TIME:
                    self.num_turned_away += 1
                    message = f"{AT_A_TIME} requests wait for their commit"
                    advice = f"send it again after {_RETRY_AFTER_S} s"
                    raise _RefusedError(429, "QUEUE_FULL", message, advice=advice)
                self._num_waiting += 1
                try:
                    return await answer(request)
                finally:
                    self._num_waiting -= 1
            except _RefusedError as error:
                said = {"code": error.code, "message": str(error), "advice": error.advice}
                headers = {"retry-after": str(_RETRY_AFTER_S)}
                return _response(error.status, said, headers if error.status in (429, 503) else {})
            except ClientDisconnect:
                return Response(status_code=400)  # nobody reads it

        return endpoint

    async def _events(self, request: Request) -> Response:
        kind = _kind(request, _EVENT_TYPES)
        return await self._ingest(split_events(await _body(request), kind))

    async def _traces(self, request: Request) -> Response:
        kind = _kind(request, _TRACE_TYPES)
        body = await _body(request)
        read = otlp.read_protobuf if kind == _PROTOBUF else otlp.read_json
        try:
            # An export may hold thousands of spans, and the daemon's loop has events to commit.
            mapped = await to_thread.run_sync(lambda: otlp.events_of(read(body)))
        except ValidationError as error:
            advice = (
                f"send what an OTLP/HTTP exporter sends, an ExportTraceServiceRequest as {kind}"
            )
            message = self._sink.clean(str(error))
            raise _RefusedError(400, "INVALID_INPUT", message, advice=advice) from error
        self.num_without_content += mapped.num_without_content
        refused = [self._sink.clean(fault) for fault in mapped.faults]
        for start in range(0, len(mapped.lines), _SLICE):
            try:
                done = await self._sink.ingest(mapped.lines[start : start + _SLICE])
            except StoreError as error:
                raise _RefusedError(503, "STORE", str(error), advice=error.advice) from error
            refused += [rejected.message for rejected in done.rejected]
        if refused:
            self.num_unreadable += len(refused)
            log.get().warning(log.LINE_REJECTED, count=len(refused), first=refused[0])
        return _exported(kind, len(refused), refused[0] if refused else "")

    async def _ingest(self, events: list[bytes]) -> Response:
        accepted = duplicates = 0
        rejected: list[dict[str, Any]] = []
        # An index of the request for each event that the sink sees: long ones it never sees.
        shown = [i for i, event in enumerate(events) if len(event) <= self._line_max]
        for i, event in enumerate(events):
            if len(event) > self._line_max:
                message = f"the event has {len(event)} bytes: events.line_max is {self._line_max}"
                rejected.append(_rejection(i, "too_long", message, "$"))
        self._sink.reject(len(rejected))
        for start in range(0, len(shown), _SLICE):
            part = shown[start : start + _SLICE]
            try:
                done = await self._sink.ingest([events[i] for i in part])
            except StoreError as error:
                log.get().error(log.BATCH_FAILED, num_lines=len(part), error=str(error))
                message = f"{error}; {accepted + duplicates} of {len(events)} events are on disk"
                raise _RefusedError(503, "STORE", message, advice=error.advice) from error
            accepted += done.stored
            duplicates += done.duplicates
            rejected += [
                _rejection(part[r.position], r.code, r.message, r.path) for r in done.rejected
            ]
        rejected.sort(key=lambda each: each["index"])
        said = {"accepted": accepted, "duplicates": duplicates, "rejected": rejected}
        if events and len(rejected) == len(events):
            first = f"no event was good; the first: {rejected[0]['message']}"
            advice = "mend the events as `rejected` says of each, and send them again"
            return _response(
                422, {"code": "INVALID_INPUT", "message": first, "advice": advice} | said
            )
        return _response(200, said)

    def _check_sender(self, request: Request) -> None:
        if self._is_local and request.url.hostname not in _LOCAL_NAMES:
            raise _RefusedError(
                403,
                "FORBIDDEN",
                f"host {request.url.hostname} is not this machine",
                advice=f"send to one of {', '.join(_LOCAL_NAMES)}",
            )
        if self._token is not None:
            scheme, _, told = request.headers.get("authorization", "").partition(" ")
            if scheme.lower() != "bearer":
                message = "expected Authorization: Bearer TOKEN"
                raise _RefusedError(401, "UNAUTHORIZED", message, advice=_TOKEN_ADVICE)
            if not hmac.compare_digest(told.strip().encode(), self._token):
                message = "the token is another one"
                raise _RefusedError(403, "FORBIDDEN", message, advice=_TOKEN_ADVICE)


def _kind(request: Request, expected: Sequence[str]) -> str:
    """The content type, which must be one of those expected."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind not in expected:
        message = f"content type {kind or 'none'}: expected one of {', '.join(expected)}"
        advice = "name the form of the body in the header content-type"
        raise _RefusedError(415, "INVALID_INPUT", message, advice=advice)
    return kind


async def _body(request: Request) -> bytes:
    """The body, unpacked; bounded while it comes in, so that a bomb is never held."""
    encoding = request.headers.get("content-encoding", "identity").strip().lower()
    if encoding not in ("identity", "gzip"):
        message = f"content encoding {encoding}: expected gzip"
        advice = "send the body packed with gzip, or as it is and without content-encoding"
        raise _RefusedError(415, "INVALID_INPUT", message, advice=advice)
    unpacker = zlib.decompressobj(zlib.MAX_WBITS | 16) if encoding == "gzip" else None
    body = bytearray()
    try:
        with anyio.fail_after(BODY_TIMEOUT_S):
            async for chunk in request.stream():
                room = BODY_MAX + 1 - len(body)
                body += unpacker.decompress(chunk, room) if unpacker else chunk
                if len(body) > BODY_MAX:
                    message = f"the body has more than {BODY_MAX} bytes"
                    raise _RefusedError(413, "INVALID_INPUT", message, advice="send less")
    except TimeoutError:
        message = f"the body did not come within {BODY_TIMEOUT_S:g} s"
        raise _RefusedError(408, "TIMEOUT", message, advice="send it in smaller parts") from None
    except zlib.error as error:
        message = f"the body is not gzip: {error}"
        raise _RefusedError(422, "INVALID_INPUT", message, advice=_GZIP_ADVICE) from error
    if unpacker is not None and not unpacker.eof:
        message = "the gzip body ends before its end"
        raise _RefusedError(422, "INVALID_INPUT", message, advice=_GZIP_ADVICE)
    if unpacker is not None and unpacker.unused_data:
        message = "the gzip body has more than one member: expected one"
        raise _RefusedError(422, "INVALID_INPUT", message, advice="compress it as a whole")
    return bytes(body)


def split_events(body: bytes, kind: str) -> list[bytes]:
    """The events of a body of that content type, each as its own bytes; a bad line is one of them."""
    if kind != _JSON:
        events = [line for line in body.split(b"\n") if line and not line.isspace()]
    else:
        try:
            many = bytes(_any.decode(body)).lstrip().startswith(b"[")
            events = [bytes(raw) for raw in _array.decode(body)] if many else [body]
        except (msgspec.DecodeError, RecursionError) as error:
            what = "it nests too deep" if isinstance(error, RecursionError) else error
            message = f"the body is not one JSON text: {what}"
            advice = "send several objects as an array, or as lines of application/x-ndjson"
            raise _RefusedError(422, "INVALID_INPUT", message, advice=advice) from error
    if len(events) > EVENTS_MAX:
        message = f"{len(events)} events in one request: {EVENTS_MAX} are allowed"
        raise _RefusedError(413, "INVALID_INPUT", message, advice="send several requests")
    return events


def _rejection(index: int, code: str, message: str, path: str) -> dict[str, Any]:
    return {"index": index, "code": code, "path": path, "message": message}


def _exported(kind: str, num_rejected: int, message: str) -> Response:
    """OTLP's answer: what it could not use it says, and is not sent again."""
    if kind == _JSON:
        partial = {"rejectedSpans": str(num_rejected), "errorMessage": message}
        return _response(200, {"partialSuccess": partial} if num_rejected else {})
    return Response(otlp.partial_success(num_rejected, message), 200, media_type=_PROTOBUF)


def _response(status: int, said: Any, headers: dict[str, str] | None = None) -> Response:
    return Response(msgspec.json.encode(said), status, headers, "application/json")
