"""What the gateway reads of a request before passing it on: body, `model`, `metadata`; and what it
takes out.
"""

import asyncio
from typing import Final, NamedTuple

import msgspec
from msgspec import Struct
from starlette.types import Receive, Scope

from honed.gateway.labels import NOTHING, PREFIX, Said, read_metadata
from honed.gateway.refusal import Refused, stopping
from honed.gateway.room import Share, no_room
from honed.gateway.upstream import Headers

BODY_TIMEOUT_S: Final = 60.0
"""How long a client may take to send its body."""

HOP_BY_HOP: Final = frozenset(
    (
        b"connection",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    )
)
# Accept-Encoding goes too: compressed events could be neither relayed one by one nor captured.
_REQUESTS_DROPPED: Final = HOP_BY_HOP | {b"host", b"expect", b"accept-encoding", b"content-length"}
_ANSWERS_DROPPED: Final = HOP_BY_HOP | {b"server", b"date"}


class ClientGoneError(Exception):
    """The client closed its connection; nobody is left to answer."""


# Told from every value that a client can send by identity; `Raw | None` would refuse arrays.
_ABSENT: Final = msgspec.Raw(b"absent")


class _Wants(Struct):
    """The only fields that are looked at; the rest is skipped unparsed, at a third of the cost."""

    model: str | None = None
    lora: msgspec.Raw = _ABSENT
    metadata: msgspec.Raw = _ABSENT


class Request(NamedTuple):
    """What a request's body says to the gateway, and the body."""

    model: str | None
    said: Said
    """Labels in its `metadata`."""
    onward: bytes
    """The body as it goes on."""


_decoder = msgspec.json.Decoder(_Wants)
_fields_decoder = msgspec.json.Decoder(dict[str, msgspec.Raw])


async def read_body(scope: Scope, receive: Receive, *, limit: int, share: Share) -> bytes:
    """The request's body, counted into `share` part by part.

    Raises:
        Refused: it is longer than `limit`, compressed, did not come in time, has no room, or comes to a gateway that
            ends.
        ClientGoneError: the connection was closed in the middle.
    """
    headers = dict(scope["headers"])
    if headers.get(b"content-encoding", b"identity").lower() != b"identity":
        raise Refused(
            415, "unsupported_encoding", "a compressed request body is not accepted", closes=True
        )
    if headers.get(b"content-type", b"").lower().startswith(b"multipart/"):
        raise Refused(415, "unsupported_media_type", "only JSON bodies are accepted", closes=True)
    declared = headers.get(b"content-length", b"0")
    if declared.isdigit() and int(declared) > limit:
        raise _too_long(limit)
    parts: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout(BODY_TIMEOUT_S) as time_limit:
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise ClientGoneError
                part = message.get("body", b"")
                size += len(part)
                has_more = message.get("more_body", False)
                if size > limit:
                    raise _too_long(limit, closes=has_more)
                share.take(len(part), until=time_limit if has_more else None)
                parts.append(part)
                if not has_more:
                    return parts[0] if len(parts) == 1 else b"".join(parts)
    except TimeoutError:
        if share.has_given_way:
            raise no_room() from None
        raise Refused(
            408,
            "request_timeout",
            f"the body did not come within {BODY_TIMEOUT_S:.0f} s",
            closes=True,
        ) from None
    except asyncio.CancelledError:  # the gateway's time is up
        raise stopping(closes=True) from None


def _too_long(limit: int, *, closes: bool = True) -> Refused:
    return Refused(413, "body_too_long", f"the body is longer than {limit} bytes", closes=closes)


def read_request(body: bytes) -> Request:
    """What the body says, and the body without a top-level `lora` (other values stay byte-equal).

    A client's own `lora` would switch adapters for one request and leave the prompt cache with
    wrong states.

    Raises:
        Refused: the body is not a JSON object, or a label in it has an impossible value.
    """
    if not body:
        return Request(None, NOTHING, body)
    try:
        wants = _decoder.decode(body)
        if wants.lora is not _ABSENT:
            fields = _fields_decoder.decode(body)
            fields.pop("lora", None)
            body = msgspec.json.encode(fields)
        metadata = None if wants.metadata is _ABSENT else msgspec.json.decode(wants.metadata)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Refused(400, "invalid_json", f"the body cannot be read: {error}") from None
    return Request(wants.model, NOTHING if metadata is None else read_metadata(metadata), body)


def request_headers(headers: Headers, *, without: frozenset[bytes] = frozenset()) -> Headers:
    """The headers that go on to llama-server; not those `without` which it goes."""
    dropped = _dropped(_REQUESTS_DROPPED, headers) | without
    return [
        (name, value)
        for name, value in headers
        if name not in dropped and not name.startswith(PREFIX)
    ]


def answer_headers(headers: Headers, *, to_page: bool) -> Headers:
    """The headers that go back to the client; permissions for web pages only to one that asked."""
    dropped = _dropped(_ANSWERS_DROPPED, headers)
    return [
        (name, value)
        for name, value in headers
        if name not in dropped
        and not name.startswith(PREFIX)
        and (to_page or not name.startswith(b"access-control-"))
    ]


def _dropped(always: frozenset[bytes], headers: Headers) -> frozenset[bytes]:
    """Names of headers that go no further, those that Connection names among them."""
    values = [value for name, value in headers if name == b"connection"]
    named = [token.strip().lower() for value in values for token in value.split(b",")]
    return always.union(named) if named else always
