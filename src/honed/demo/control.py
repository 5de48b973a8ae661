"""What the demo asks of the running daemon and gateway: JSON over their sockets, and the event stream."""

import contextlib
import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, Final

import anyio
import httpx

from honed.errors import ControlError
from honed.listen import is_listening

Event = dict[str, Any]

_TIMEOUT_S: Final = 30.0
_POLL_S: Final = 0.05


class ControlSocket:
    """One of the two control APIs."""

    def __init__(self, path: Path) -> None:
        self._path = path

    @contextlib.asynccontextmanager
    async def _http(self) -> AsyncIterator[httpx.AsyncClient]:
        transport = httpx.AsyncHTTPTransport(uds=str(self._path))
        async with httpx.AsyncClient(
            transport=transport, base_url="http://honed", timeout=_TIMEOUT_S, trust_env=False
        ) as http:
            yield http

    async def get(self, path: str) -> Any:
        """The answer to a GET; raises ControlError."""
        return await self._ask("GET", path, None)

    async def post(self, path: str, body: dict[str, Any]) -> Any:
        """The answer to a POST; raises ControlError."""
        return await self._ask("POST", path, body)

    async def _ask(self, method: str, path: str, body: dict[str, Any] | None) -> Any:
        try:
            async with self._http() as http:
                response = await http.request(method, path, json=body)
            answer = response.json()
        except (httpx.HTTPError, ValueError) as error:
            raise ControlError(f"{method} {path} on {self._path}: {error!r}") from error
        if response.is_error:
            raise ControlError(f"{method} {path}: {answer['message']}", advice=answer.get("advice"))
        return answer

    async def when(
        self, path: str, is_so: Callable[[Any], bool], *, limit_s: float, check: Callable[[], None]
    ) -> Any:
        """Ask until `is_so` holds of the answer, and return it.

        Args:
            path: asked with GET; as long as nobody listens, it is not so.
            is_so: told each answer.
            limit_s: how long to ask.
            check: called before each question; raises when there is nobody left to answer.

        Raises:
            ControlError: it did not become so in time.
        """
        answer: Any = None
        with anyio.move_on_after(limit_s):
            while True:
                check()
                if is_listening(self._path) and is_so(answer := await self.get(path)):
                    return answer
                await anyio.sleep(_POLL_S)
        raise ControlError(f"{path} on {self._path} did not come true in {limit_s:g} s: {answer}")

    async def stream(self, path: str) -> AsyncIterator[Event]:
        """The server-sent events of a stream, until it ends."""
        async with self._http() as http, http.stream("GET", path, timeout=None) as response:
            async for line in response.aiter_lines():
                if line.startswith("data: "):
                    yield json.loads(line.removeprefix("data: "))


class EventLog:
    """The daemon's events since `follow` began, in order; others wait for the next one of a kind."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self._changed = anyio.Event()

    async def follow(self, daemon: ControlSocket) -> None:
        """Take in events until cancelled, or until the daemon closes the stream."""
        with contextlib.suppress(httpx.HTTPError):
            async for event in daemon.stream("/v1/events"):
                self.events.append(event)
                self._changed.set()
                self._changed = anyio.Event()

    async def first(
        self,
        is_it: Callable[[Event], bool],
        *,
        since: int,
        limit_s: float,
        check: Callable[[], None],
        on_event: Callable[[Event], None] = lambda event: None,
    ) -> Event:
        """Wait for an event.

        Args:
            is_it: whether this is the one.
            since: position in `events` to begin at.
            limit_s: how long to wait.
            check: called about once a second; raises when nobody is left to say anything.
            on_event: told every event on the way.

        Raises:
            ControlError: it did not come in time.
        """
        position = since
        with anyio.move_on_after(limit_s):
            while True:
                changed = self._changed
                for event in self.events[position:]:
                    position += 1
                    on_event(event)
                    if is_it(event):
                        return event
                check()
                with anyio.move_on_after(1):
                    await changed.wait()
        seen = ", ".join(sorted({event["type"] for event in self.events[since:]})) or "nothing"
        raise ControlError(
            f"the daemon did not say what was waited for in {limit_s:g} s; it said: {seen}"
        )
