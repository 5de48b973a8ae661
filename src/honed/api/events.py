"""The daemon's event stream: what happened, for whoever listens; a slow listener loses the oldest, counted."""

from collections import Counter, deque
from collections.abc import AsyncIterator
from typing import Any, Final

import anyio

from honed.domain.times import now_ms

_WAITING_MAX: Final = 1_000
"""Events kept for one listener that does not read."""


class EventStream:
    """Publishes events to any number of listeners without ever waiting for one."""

    def __init__(self) -> None:
        self._listeners: set[_Listener] = set()
        self.counts: Counter[str] = Counter()
        """How many of each type were published."""

    def publish(self, type: str, details: dict[str, Any]) -> None:
        """Hand an event to every listener; without listeners this is nothing."""
        self.counts[type] += 1
        event = {"type": type, "at_ms": now_ms()} | details
        for listener in self._listeners:
            listener.put(event)

    async def listen(self) -> AsyncIterator[dict[str, Any]]:
        """Events from now on; `lagged` in an event counts those lost before it."""
        listener = _Listener()
        self._listeners.add(listener)
        try:
            while True:
                yield await listener.get()
        finally:
            self._listeners.discard(listener)


class _Listener:
    def __init__(self) -> None:
        self._events: deque[dict[str, Any]] = deque(maxlen=_WAITING_MAX)
        self._lagged = 0
        self._more = anyio.Event()

    def put(self, event: dict[str, Any]) -> None:
        self._lagged += len(self._events) == _WAITING_MAX
        self._events.append(event)
        self._more.set()

    async def get(self) -> dict[str, Any]:
        while not self._events:
            self._more = anyio.Event()
            await self._more.wait()
        event = self._events.popleft()
        if self._lagged:
            event = event | {"lagged": self._lagged}
            self._lagged = 0
        return event
