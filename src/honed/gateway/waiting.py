"""Requests that wait for a server to come up: counted, bounded in time, woken by news."""

from collections.abc import Callable

import anyio


class Waiting:
    """Who waits in one lane."""

    def __init__(self) -> None:
        self.num = 0
        """How many; the lane sees that they do not become too many."""
        self.has_ended = False
        """Whether nobody should wait any more, because the gateway stops."""
        self._news = anyio.Event()

    def end(self) -> None:
        """Have nobody wait any more."""
        self.has_ended = True
        self.tell()

    def tell(self) -> None:
        """Have everybody look again."""
        self._news.set()
        self._news = anyio.Event()

    async def until(self, is_over: Callable[[], bool], *, deadline_s: float) -> None:
        """Wait until it is over, until the deadline on anyio's clock, or the end; the caller sees which."""
        self.num += 1
        try:
            with anyio.CancelScope(deadline=deadline_s):
                while not (self.has_ended or is_over()):
                    await self._news.wait()
        finally:
            self.num -= 1
