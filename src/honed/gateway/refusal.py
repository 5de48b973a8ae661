"""Answers that the gateway gives itself; errors in the dialect that the caller's path speaks.

OpenAI's everywhere but under `/v1/messages`, which is Anthropic's.
"""

import asyncio
from contextlib import suppress
from typing import Any, Final

import msgspec
from starlette.types import Receive, Scope, Send

from honed.gateway.upstream import Headers

JSON: Final = (b"content-type", b"application/json")

CLIENT_ERROR: Final = "invalid_request_error"
SERVER_ERROR: Final = "server_error"
_TOLD_MAX: Final = 1000
"""Characters of a message: what it quotes may be as long as a client likes."""
_DRAIN_S: Final = 2.0
_DRAIN_MAX_BYTES: Final = 64 << 20
_ANTHROPIC: Final = "/v1/messages"
_RESPONSES: Final = "/v1/responses"
_ANTHROPIC_TYPES: Final = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
}
"""Anthropic's names; what is none of these is `invalid_request_error` or `api_error`."""


class Refused(Exception):
    """The request gets this answer instead of the model's."""

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        *,
        retry_after_s: int | None = None,
        closes: bool = False,
        is_final: bool = False,
    ) -> None:
        super().__init__(message if len(message) <= _TOLD_MAX else f"{message[:_TOLD_MAX]}...")
        self.status = status
        self.code = code
        self.retry_after_s = retry_after_s
        self.closes = closes
        """Whether the rest of the request is unwanted, so that the connection cannot be used again."""
        self.is_final = is_final
        """Whether asking again would be in vain; the clients of both dialects then leave it."""

    def body(self, path: str) -> bytes:
        """The answer's body, as a caller of `path` reads it."""
        return error_body(path, self.status, self.code, str(self))

    def headers(self) -> Headers:
        """The answer's headers besides its length."""
        headers = [JSON]
        if self.retry_after_s is not None:
            headers.append((b"retry-after", b"%d" % self.retry_after_s))
        if self.closes:
            headers.append((b"connection", b"close"))
        if self.is_final:
            headers.append((b"x-should-retry", b"false"))
        return headers


def too_many(what: str) -> Refused:
    """What a request is told that finds too many others."""
    return Refused(429, "rate_limit_exceeded", f"too many requests: {what}", retry_after_s=1)


def stopping(*, closes: bool = False) -> Refused:
    """What a request is told that this gateway will not answer any more."""
    message = "the gateway is being stopped; ask again, another one may take its place"
    return Refused(503, "stopping", message, retry_after_s=1, closes=closes)


def error_body(path: str, status: int, code: str, message: str) -> bytes:
    """An error as the clients of `path` read it."""
    return msgspec.json.encode(_error(path, status, code, message))


def error_event(path: str, status: int, code: str, message: str) -> bytes:
    """The same as one server-sent event, for a stream that breaks."""
    error = _error(path, status, code, message)
    if path.startswith(_RESPONSES):
        # Typed as this API's own error events; official clients raise at `error`.
        error |= {"type": "error", "code": code, "message": message, "param": None}
    name = b"event: error\n" if path.startswith((_RESPONSES, _ANTHROPIC)) else b""
    return name + b"data: " + msgspec.json.encode(error) + b"\n\n"


def _error(path: str, status: int, code: str, message: str) -> dict[str, Any]:
    kind = CLIENT_ERROR if status < 500 else SERVER_ERROR
    if path.startswith(_ANTHROPIC):
        fallback = CLIENT_ERROR if status < 500 else "api_error"
        kind = _ANTHROPIC_TYPES.get(status, fallback)
        return {"type": "error", "error": {"type": kind, "message": message}}
    return {"error": {"message": message, "type": kind, "param": None, "code": code}}


async def send_whole(send: Send, status: int, headers: Headers, body: bytes) -> None:
    """Send a whole answer with its length."""
    headers = [*headers, (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def send_empty(send: Send, headers: Headers) -> None:
    """Send an answer that is done with its headers (204), which have no length."""
    await send({"type": "http.response.start", "status": 204, "headers": headers})
    await send({"type": "http.response.body", "body": b""})


async def send_refusal(
    refusal: Refused, scope: Scope, receive: Receive, send: Send, *, beside: Headers
) -> None:
    """Send a refusal, with headers `beside` its own, and see that it is read: a connection that is closed while the
    client still sends is reset, and what was said to it is lost on the way.
    """
    body = refusal.body(scope["path"])
    headers = [*refusal.headers(), *beside, (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": refusal.status, "headers": headers})
    await send({"type": "http.response.body", "body": body, "more_body": refusal.closes})
    if not refusal.closes:
        return
    if all(name != b"expect" for name, _ in scope["headers"]):  # that client has not begun to send
        with suppress(TimeoutError, asyncio.CancelledError):  # that of the gateway's end
            async with asyncio.timeout(_DRAIN_S):
                await _read_away(receive)
    await send({"type": "http.response.body", "body": b""})


async def _read_away(receive: Receive) -> None:
    """Take what still comes of a request, up to its end or to a bound."""
    size = 0
    while size < _DRAIN_MAX_BYTES:
        message = await receive()
        size += len(message.get("body", b""))
        if not message.get("more_body", False):
            return


async def send_json(send: Send, value: Any, *, beside: Headers) -> None:
    """Send `value` as JSON with status 200, and headers beside its own."""
    await send_whole(send, 200, [JSON, *beside], msgspec.json.encode(value))
