"""A server that the operator runs: one question, one answer, over HTTP on TCP or a unix socket."""

from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any, Final, NamedTuple, TypeVar

import anyio
import msgspec

from honed.config import check_key
from honed.errors import ApplyError
from honed.lean import without_colour

with without_colour():
    import httpx

T = TypeVar("T")

ANSWER_MAX: Final = 16 << 20
"""Bytes of an answer; a longer one is not read to its end."""
_UNIX: Final = "unix:"
_TOLD_MAX: Final = 500
"""Characters of what a server says that go into a message."""


class UnansweredError(ApplyError):
    """Nobody answers there, or not in time; whether the server has done what was asked is not known."""


class NobodyThereError(UnansweredError):
    """Nobody listens there: whatever was asked has not been done."""


class KeyRefusedError(ApplyError):
    """The server wants a key that it is not shown."""


class Answer(NamedTuple):
    """What a server has said."""

    status: int
    content: bytes

    @property
    def is_good(self) -> bool:
        """Whether it did what was asked."""
        return 200 <= self.status < 300

    def read(self, type: type[T]) -> T:
        """The body as JSON of this type; raises msgspec.DecodeError."""
        return msgspec.json.decode(self.content, type=type)

    def told(self) -> str:
        """What it says for people: the message of an error in any of the usual forms, else the body's beginning."""
        try:
            found: Any = msgspec.json.decode(self.content)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            found = self.content.decode(errors="replace").strip()
        while isinstance(found, dict):
            known = (found.get(key) for key in ("error", "error_message", "message", "detail"))
            found = next((value for value in known if value), str(found))
        text = " ".join(str(found).split())
        return text[:_TOLD_MAX] or "nothing"


class Server:
    """Where a server answers.

    Args:
        what: its kind, for messages: `vLLM`.
        url: `http://host:port`, `https://host` or `unix:/path`.
        key: sent as a bearer token; never logged.
        timeout: of one answer, the whole of it.

    Raises:
        ConfigError: no header can have the key.
    """

    def __init__(self, what: str, url: str, *, key: str | None = None, timeout: timedelta) -> None:
        self.what = what
        self.url = url.rstrip("/")
        self._uds = url.removeprefix(_UNIX) if url.startswith(_UNIX) else None
        self._base = "http://localhost" if self._uds else self.url
        self._key = check_key(key, "server-key")
        self._headers = {} if key is None else {"authorization": f"Bearer {key}"}
        self._timeout_s = timeout.total_seconds()
        # read once: the certificates of the system take 10 ms, and plain HTTP needs none
        self._verify = httpx.create_ssl_context() if url.startswith("https:") else False

    def __str__(self) -> str:
        return f"{self.what} at {self.url}"

    async def ask(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        content: AsyncIterator[bytes] | None = None,
        within: timedelta | None = None,
    ) -> Answer:
        """One request; `body` goes as JSON, `content` as it is; `within` is longer than other answers may take.

        Raises:
            UnansweredError: nobody answers, not in time, or not with HTTP.
        """
        headers = dict(self._headers)
        sent: AsyncIterator[bytes] | bytes | None = content
        if body is not None:
            headers["content-type"] = "application/json"
            sent = msgspec.json.encode(body)
        limit_s = self._timeout_s if within is None else within.total_seconds()
        transport = httpx.AsyncHTTPTransport(verify=self._verify, uds=self._uds)
        try:
            # the whole answer, not only each piece of it, has a time; no proxy of the environment is asked
            with anyio.fail_after(limit_s):
                async with (
                    httpx.AsyncClient(
                        transport=transport, timeout=limit_s, trust_env=False
                    ) as client,
                    client.stream(
                        method, f"{self._base}{path}", content=sent, headers=headers
                    ) as response,
                ):
                    return self._answer(response.status_code, await _read(response))
        except (TimeoutError, httpx.TimeoutException):
            raise UnansweredError(
                f"{self} gave no answer to {method} {path} within {limit_s:g} s",
                advice="see its log; server.timeout and server.load_timeout say how long is waited",
            ) from None
        except httpx.ConnectError as error:
            raise NobodyThereError(
                f"nobody answers as {self}: {error}", advice="start it, or correct server.url"
            ) from error
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise UnansweredError(
                f"{self} broke off {method} {path}: {type(error).__name__}: {error}",
                advice="see its log",
            ) from error

    async def must(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        type: type[T],
        within: timedelta | None = None,
    ) -> T:
        """The body of an answer that must be a good one, as JSON of this type.

        Raises:
            ApplyError: it is none.
        """
        answer = await self.ask(method, path, body, within=within)
        if not answer.is_good:
            raise self.refusal(answer, f"{method} {path}")
        return self.decoded(answer, type, f"{method} {path}")

    def decoded(self, answer: Answer, type: type[T], asked: str) -> T:
        """The answer's body as JSON of this type.

        Raises:
            ApplyError: it is something else.
        """
        try:
            return answer.read(type)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise ApplyError(
                f"{self} answered {asked} with something else than its documentation says: {error}",
                advice=f"is it {self.what}? its address and its kind must fit",
            ) from error

    def refusal(self, answer: Answer, asked: str, *, advice: str | None = None) -> ApplyError:
        """The error that stands for an answer which is not a good one."""
        told = f"{self} refused {asked} with status {answer.status}: {answer.told()}"
        if answer.status in (401, 403):
            key = "put its key into HONED_SERVER_KEY (or the credential server-key)"
            return KeyRefusedError(told, advice=key)
        return ApplyError(told, advice=advice or "see its log")

    def _answer(self, status: int, content: bytes) -> Answer:
        """What was said; a refusal may repeat the key that was shown, and goes into messages and logs."""
        if self._key and status >= 400:
            content = content.replace(self._key.encode(), b"***")
        return Answer(status, content)


async def _read(response: httpx.Response) -> bytes:
    content = bytearray()
    async for piece in response.aiter_bytes():
        content += piece
        if len(content) > ANSWER_MAX:
            raise httpx.DecodingError(f"it is longer than {ANSWER_MAX} bytes")
    return bytes(content)
