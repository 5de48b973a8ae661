"""Answers that the gateway gives itself, errors in OpenAI's form."""

from typing import Any, Final

import msgspec
from starlette.types import Send

JSON: Final = (b"content-type", b"application/json")

CLIENT_ERROR: Final = "invalid_request_error"
SERVER_ERROR: Final = "server_error"


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
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.retry_after_s = retry_after_s
        self.closes = closes
        """Whether the rest of the request is left unread, so that the connection cannot be used
        again.
        """

    def body(self) -> bytes:
        """The answer's body."""
        return error_body(self.status, self.code, str(self))

    def headers(self) -> list[tuple[bytes, bytes]]:
        """The answer's headers besides its length."""
        headers = [JSON]
        if self.retry_after_s is not None:
            headers.append((b"retry-after", b"%d" % self.retry_after_s))
        if self.closes:
            headers.append((b"connection", b"close"))
        return headers


def error_body(status: int, code: str, message: str) -> bytes:
    """An error as OpenAI's clients read it."""
    kind = CLIENT_ERROR if status < 500 else SERVER_ERROR
    return msgspec.json.encode(
        {"error": {"message": message, "type": kind, "param": None, "code": code}}
    )


async def send_whole(
    send: Send, status: int, headers: list[tuple[bytes, bytes]], body: bytes
) -> None:
    """Send a whole answer with its length."""
    headers = [*headers, (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def send_json(send: Send, value: Any) -> None:
    """Send `value` as JSON with status 200."""
    await send_whole(send, 200, [JSON], msgspec.json.encode(value))
