"""An endpoint with OpenAI's chat completions: one question, one answer, tried again while that may help.

Source: OpenAI API reference, "Create chat completion" and "Error codes": 429 and 5xx may be tried again, after
`Retry-After` if the answer has it; other 4xx are the request's own fault.
"""

import random
from collections.abc import Sequence
from datetime import timedelta
from typing import Final

import anyio
import msgspec
from msgspec import Struct

from honed.errors import RewardError, UnreachableError
from honed.lean import without_colour

with without_colour():
    import httpx

ANSWER_MAX: Final = 1 << 20
"""Bytes of an answer; a longer one is not read to its end."""
BACKOFF_FIRST_S: Final = 0.5
BACKOFF_MAX_S: Final = 30.0
"""Also of a `Retry-After`: an episode waits for a verdict, and others behind it."""
_MAY_PASS: Final = frozenset({408, 409, 429, 500, 502, 503, 504, 529})
_REFUSED: Final = frozenset({401, 403, 404})
"""Key, rights or place are wrong, so every request would fail like this one; but providers answer 403 as well to what
their filter does not let pass. Who asks tells the two apart."""


class _Message(Struct):
    content: str | None = None


class _Choice(Struct):
    message: _Message


class _Completion(Struct):
    choices: list[_Choice]


class EndpointCounts(Struct):
    """What became of requests since the process started."""

    requests: int = 0
    retries: int = 0
    timeouts: int = 0


class Endpoint:
    """Where a model answers.

    Args:
        url: up to `/v1`.
        model: its name there.
        key: sent as a bearer token; never logged.
        timeout: of one try.
        attempts: tries of one question.
        max_concurrent: requests at a time.
    """

    def __init__(
        self,
        url: str,
        *,
        model: str,
        key: str | None,
        timeout: timedelta,
        attempts: int,
        max_concurrent: int,
        backoff_first_s: float = BACKOFF_FIRST_S,
    ) -> None:
        self._url = f"{url.rstrip('/')}/chat/completions"
        self._model = model
        self._key = key
        self._timeout_s = timeout.total_seconds()
        self._attempts = attempts
        self._turns = anyio.Semaphore(max_concurrent)
        self._backoff_first_s = backoff_first_s
        # read once: the certificates of the system take 10 ms, and plain HTTP needs none
        self._verify = httpx.create_ssl_context() if url.startswith("https:") else False
        self.counts = EndpointCounts()

    async def ask(
        self,
        messages: Sequence[dict[str, str]],
        *,
        temperature: float,
        attempts: int | None = None,
    ) -> str:
        """The text of the answer; `attempts` says otherwise how often it is tried.

        Raises:
            UnreachableError: nobody answers there, not in time, or not us; also after all tries. That may still be
                this question's fault: see `asking`.
            RewardError: this question was not answered; another one may be.
        """
        body = msgspec.json.encode(
            {
                "model": self._model,
                "messages": list(messages),
                "temperature": temperature,
                "response_format": {"type": "json_object"},
            }
        )
        attempts = attempts or self._attempts
        for tried in range(1, attempts + 1):
            last = tried == attempts
            try:
                async with self._turns:
                    self.counts.requests += 1
                    status, wait_s, content = await self._post(body)
            except _PassingError as error:
                if last:
                    raise UnreachableError(f"the judge {error}") from None
                wait_s = None
            else:
                if status == 200:
                    return _text(content)
                if status not in _MAY_PASS or last:
                    cls = UnreachableError if status in _MAY_PASS | _REFUSED else RewardError
                    raise cls(f"the judge answered with status {status}", advice=_advice(status))
            self.counts.retries += 1
            await anyio.sleep(self._pause(tried) if wait_s is None else min(wait_s, BACKOFF_MAX_S))
        raise AssertionError("the last try returns or raises")

    async def _post(self, body: bytes) -> tuple[int, float | None, bytes]:
        """Status, the seconds that `Retry-After` asks for, and the body of an answer."""
        headers = {"content-type": "application/json"}
        if self._key is not None:
            headers["authorization"] = f"Bearer {self._key}"
        content = b""
        try:
            # the whole answer, not only each piece of it, has a time; no proxy of the environment is asked
            with anyio.fail_after(self._timeout_s):
                client = httpx.AsyncClient(
                    timeout=self._timeout_s, trust_env=False, verify=self._verify
                )
                async with (
                    client,
                    client.stream("POST", self._url, content=body, headers=headers) as response,
                ):
                    async for piece in response.aiter_bytes():
                        content += piece
                        if len(content) > ANSWER_MAX:
                            raise RewardError(f"the judge answered more than {ANSWER_MAX} bytes")
                    return response.status_code, _seconds(response.headers), content
        except (TimeoutError, httpx.TimeoutException):
            self.counts.timeouts += 1
            raise _PassingError(f"gave no answer within {self._timeout_s:g} s") from None
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise _PassingError(f"cannot be asked: {type(error).__name__}: {error}") from None

    def _pause(self, tried: int) -> float:
        """Seconds before the next try: twice as many each time, and not the same for all that wait."""
        return random.uniform(0.5, 1.0) * min(
            BACKOFF_MAX_S, self._backoff_first_s * 2.0 ** (tried - 1)
        )


class _PassingError(Exception):
    """A fault that may be gone at the next try."""


def _text(content: bytes) -> str:
    try:
        choices = msgspec.json.decode(content, type=_Completion).choices
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise RewardError(f"the judge's answer is no chat completion: {error}") from None
    if not choices or choices[0].message.content is None:
        raise RewardError("the judge's answer has no text")
    return choices[0].message.content


def _seconds(headers: httpx.Headers) -> float | None:
    told = headers.get("retry-after", "")
    return float(told) if told.isdecimal() and len(told) < 9 else None


def _advice(status: int) -> str | None:
    if status in {401, 403}:
        return "is HONED_JUDGE_KEY, or the credential judge-key, the right key?"
    if status == 404:
        return "are judge.url (up to /v1) and judge.model right?"
    return None
