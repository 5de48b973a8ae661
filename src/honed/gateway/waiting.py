"""Requests that wait for a server to come up: bounded in number and time, woken by news."""

from collections.abc import Callable
from typing import Final

import anyio

MAX_WAITING: Final = 1024
"""Requests of one scenario that may wait; their bodies are counted by the relay."""


class Waiting:
    """Who waits in one lane."""

    def __init__(self) -> None:
        self.num = 0
        self._news = anyio.Event()

    @property
    def is_full(self) -> bool:
        """Whether no more may wait."""
        return self.num >= MAX_WAITING

    def tell(self) -> None:
        """Have everybody look again."""
        self._news.set()
        self._news = anyio.Event()

    async def until(self, is_over: Callable[[], bool], *, deadline_s: float) -> None:
        """Wait until it is over, or until the deadline on anyio's clock; the caller sees which."""
        self.num += 1
        try:
            with anyio.CancelScope(deadline=deadline_s):
                while not is_over():
                    await self._news.wait()
        finally:
            self.num -= 1
