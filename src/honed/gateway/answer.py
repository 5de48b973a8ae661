"""The answer to one client, as far as it has been sent: passed on as it comes, or broken off as
clearly as is still possible.
"""

from typing import Final

from starlette.types import Scope, Send

from honed.gateway import beginning
from honed.gateway.backend import Backend
from honed.gateway.browser import readable, readable_too
from honed.gateway.capture import Tape
from honed.gateway.receipt import Stamp
from honed.gateway.refusal import Refused, error_event, send_whole, stopping
from honed.gateway.request import answer_headers
from honed.gateway.upstream import Exchange, Head, Headers, UpstreamError

_COLLECT_MAX: Final = 16 << 20
"""Bytes of an answer that is put together for an HTTP/1.0 client."""


class TimedOutError(UpstreamError):
    """The answer has not come in the time that the operator gives it."""


class StoppingError(UpstreamError):
    """The answer is broken off because the gateway's time is up."""


class Answer:
    """What goes back to the client of one request."""

    def __init__(self, scope: Scope, send: Send) -> None:
        self._path = scope["path"]
        self._collects = scope["http_version"] == "1.0"
        self._asked_with: Headers = scope["headers"]
        self._is_to_page = any(name == b"origin" for name, _ in self._asked_with)
        self._send = send
        self._head: Head | None = None
        self._headers: Headers = []
        self._ends_between_events = True
        self._is_unread = False
        """Whether the client does not take what is being sent."""
        self._has_length = False
        self.is_stream = False
        """Whether it is server-sent events."""
        self.is_good = False
        """Whether it is whole, with status 200."""

    async def start(self, head: Head, tape: Tape, backend: Backend) -> None:
        """Send the head, unless the client is so old that the length must be known first."""
        ours = _ours(tape, backend)
        self._headers = answer_headers(head.headers, to_page=self._is_to_page) + ours
        if self._is_to_page:
            self._headers = readable_too(self._headers, self._asked_with)
        for name, value in self._headers:
            if name == b"content-type":
                self.is_stream = value.lower().startswith(b"text/event-stream")
            elif name == b"content-length":
                self._has_length = True
        self._collects = self._collects and not self._has_length
        self._head = head
        if not self._collects:
            await self._send(
                {"type": "http.response.start", "status": head.status, "headers": self._headers}
            )

    async def pass_on(self, exchange: Exchange, tape: Tape, backend: Backend) -> None:
        """Send the body as it comes; waiting for the client makes llama-server wait."""
        assert self._head is not None
        stamp = self._stamp(tape, backend)
        may_be_unopened = stamp is not None and self._path == beginning.PATH
        collected = bytearray()
        while True:
            chunk = await exchange.read()
            backend.is_heard = True
            is_last = exchange.is_complete  # now: while the client is waited for, more may arrive
            tape.add(chunk)
            if may_be_unopened:
                chunk = beginning.opened(chunk, answer_id=tape.receipt_id, model=_model(backend))
                may_be_unopened = False
            if stamp is not None:
                chunk = stamp.feed(chunk, is_last)
            if self._collects:
                collected += chunk
                if len(collected) > _COLLECT_MAX:
                    raise UpstreamError("the answer is too long for an HTTP/1.0 client")
            elif chunk or is_last:
                self._ends_between_events = chunk.endswith(b"\n\n")
                more = not is_last
                self._is_unread = True
                await self._send({"type": "http.response.body", "body": chunk, "more_body": more})
                self._is_unread = False
            if is_last:
                break
        if self._collects:
            self._collects = False
            await send_whole(self._send, self._head.status, self._headers, bytes(collected))
        self.is_good = self._head.status == 200

    def _stamp(self, tape: Tape, backend: Backend) -> Stamp | None:
        assert self._head is not None
        if not self.is_stream or self._has_length or self._head.status != 200:
            return None
        return Stamp(self._path, tape.receipt_id, _model(backend))

    async def break_off(self, error: UpstreamError, backend: Backend | None) -> None:
        """No more will come from `backend`: say so as clearly as is still possible."""
        refusal = _refusal(error)
        if self._head is None or self._collects:
            body = refusal.body(self._path)
            headers = [*refusal.headers(), *readable(self._asked_with)]
            headers += _version(backend) if backend else []
            await send_whole(self._send, refusal.status, headers, body)
        elif self.is_stream and self._ends_between_events and not self._is_unread:
            event = error_event(self._path, refusal.status, refusal.code, str(error))
            await self._send({"type": "http.response.body", "body": event})
        # else: returning without an end makes uvicorn cut the connection, and the client sees that
        # it is half


def _refusal(error: UpstreamError) -> Refused:
    if isinstance(error, TimedOutError):
        return Refused(504, "timeout", str(error), is_final=True)
    if isinstance(error, StoppingError):
        return stopping()
    return Refused(503, "upstream_gone", str(error), retry_after_s=1)


def _model(backend: Backend) -> str:
    return backend.model_id or "base"


def _ours(tape: Tape, backend: Backend) -> Headers:
    return [(b"x-honed-receipt", tape.receipt_id.encode()), *_version(backend)]


def _version(backend: Backend) -> Headers:
    return [(b"x-honed-model", _model(backend).encode())]
