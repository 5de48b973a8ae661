"""What the gateway reads of a request before passing it on: body, `model`, labels; and what it
takes out.
"""

import asyncio
from typing import Any, Final, Literal

import msgspec
from msgspec import Struct
from starlette.types import Receive, Scope

from honed.gateway.refusal import Refused
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
_OURS: Final = frozenset((b"host", b"expect", b"accept-encoding", b"content-length"))
_ANSWERS_OURS: Final = frozenset((b"server", b"date"))
_PREFIX: Final = b"x-honed-"


class ClientGoneError(Exception):
    """The client closed its connection; nobody is left to answer."""


class Labels(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a client says about a call in `x-honed-*` headers, under the names of the event's
    envelope.
    """

    task_id: str | None = None
    group_id: str | None = None
    session_id: str | None = None
    agent: str | None = None
    role: str | None = None
    user: str | None = None
    worker_id: int | None = None
    purpose: Literal["work", "evaluation", "probe"] = "work"
    train: bool = True


_LABELS: Final = {
    b"task": "task_id",
    b"group": "group_id",
    b"session": "session_id",
    b"agent": "agent",
    b"role": "role",
    b"user": "user",
    b"worker": "worker_id",
    b"purpose": "purpose",
    b"train": "train",
}
_EXPECTED: Final = {
    b"worker": "a number from 0 to 65535",
    b"purpose": "work, evaluation or probe",
    b"train": "true or false",
}
_PURPOSES: Final = ("work", "evaluation", "probe")
_TRUTHS: Final = {"true": True, "false": False}


# Told from every value that a client can send by identity; `Raw | None` would refuse arrays.
_NO_LORA: Final = msgspec.Raw(b"absent")


class _Wants(Struct):
    """The only fields that are looked at; the rest is skipped unparsed, at a third of the cost."""

    model: str | None = None
    lora: msgspec.Raw = _NO_LORA


_decoder = msgspec.json.Decoder(_Wants)
_fields_decoder = msgspec.json.Decoder(dict[str, msgspec.Raw])


async def read_body(scope: Scope, receive: Receive, *, limit: int, share: Share) -> bytes:
    """The request's body, counted into `share` part by part.

    Raises:
        Refused: it is longer than `limit`, compressed, did not come in time, or has no room.
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
                if size > limit:
                    raise _too_long(limit)
                has_more = message.get("more_body", False)
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


def _too_long(limit: int) -> Refused:
    return Refused(413, "body_too_long", f"the body is longer than {limit} bytes", closes=True)


def read_model(body: bytes) -> tuple[str | None, bytes]:
    """The model that the body names, and the body without a top-level `lora` (other values stay
    byte-equal).

    A client's own `lora` would switch adapters for one request and leave the prompt cache with
    wrong states.

    Raises:
        Refused: the body is not a JSON object.
    """
    if not body:
        return None, body
    try:
        wants = _decoder.decode(body)
        if wants.lora is not _NO_LORA:
            fields = _fields_decoder.decode(body)
            fields.pop("lora", None)
            body = msgspec.json.encode(fields)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Refused(400, "invalid_json", f"the body cannot be read: {error}") from None
    return wants.model, body


def request_headers(headers: Headers) -> Headers:
    """The headers that go on to llama-server."""
    dropped = HOP_BY_HOP | _OURS | _named_in_connection(headers)
    return [
        (name, value)
        for name, value in headers
        if name not in dropped and not name.startswith(_PREFIX)
    ]


def answer_headers(headers: Headers, *, to_page: bool) -> Headers:
    """The headers that go back to the client; permissions for web pages only to one that asked."""
    dropped = HOP_BY_HOP | _ANSWERS_OURS | _named_in_connection(headers)
    return [
        (name, value)
        for name, value in headers
        if name not in dropped
        and not name.startswith(_PREFIX)
        and (to_page or not name.startswith(b"access-control-"))
    ]


def _named_in_connection(headers: Headers) -> frozenset[bytes]:
    values = [value for name, value in headers if name == b"connection"]
    return frozenset(token.strip().lower() for value in values for token in value.split(b","))


def read_labels(headers: Headers) -> Labels:
    """The call's labels.

    Raises:
        Refused: a label has an impossible value. Dropped in silence, evaluation traffic with a
            typing error in its purpose would be learned from. Unknown labels are ignored: the
            client may be newer than we are.
    """
    found: dict[str, Any] = {}
    for name, value in headers:
        if name.startswith(_PREFIX):
            label = name[len(_PREFIX) :]
            if label in _LABELS:
                found[_LABELS[label]] = _read_label(label, value.decode("latin-1").strip())
    return Labels(**found) if found else _NO_LABELS


_NO_LABELS: Final = Labels()


def _read_label(label: bytes, text: str) -> Any:
    match label:
        case b"worker" if text.isdecimal() and int(text) <= 0xFFFF:
            return int(text)
        case b"purpose" if text in _PURPOSES:
            return text
        case b"train" if text.lower() in _TRUTHS:
            return _TRUTHS[text.lower()]
        case b"worker" | b"purpose" | b"train":
            raise Refused(
                400,
                "invalid_label",
                f"header x-honed-{label.decode()} is {text!r}; expected {_EXPECTED[label]}",
            )
        case _:
            return text
