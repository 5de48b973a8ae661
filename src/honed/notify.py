"""What is said to the supervisor that started this process (sd_notify), and the watchdog.

Without `NOTIFY_SOCKET` nobody listens and nothing is sent. A supervisor that is busy or gone never hurts the process:
what cannot be sent at once is dropped. The protocol is systemd's (sd_notify(3)); no library is needed for it.
"""

import math
import os
import socket
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Final, Self

import anyio

from honed import log
from honed.errors import HonedError

EXTENSION_S: Final = 30.0
"""Time that is asked for at once while the process starts or stops; asked again long before it is over."""
_ASK_EVERY_S: Final = 10.0
_VARIABLES: Final = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID")

Check = Callable[[], Awaitable[object]]
"""Comes back when a part of the process is alive; never, or with a HonedError, when it is not."""


class Supervisor:
    """Whoever started this process and wants to know how it is; by default nobody."""

    def __init__(self, address: str | None = None, *, watchdog_s: float | None = None) -> None:
        """`watchdog_s` is the silence after which the supervisor kills; None: it never does."""
        self._address = "\0" + address[1:] if address and address[0] == "@" else address
        self._watchdog_s = watchdog_s
        self._status = ""
        self._is_ready = anyio.Event()

    @classmethod
    def from_environment(cls, environment: MutableMapping[str, str] = os.environ) -> Self:
        """The supervisor that the variables name; they are removed, so that no child speaks in our name."""
        address, usec, pid = (environment.pop(name, "") for name in _VARIABLES)
        is_ours = not pid or pid == str(os.getpid())
        watchdog_s = int(usec) / 1e6 if usec.isdecimal() and int(usec) and is_ours else None
        if address[:1] not in (
            "/",
            "@",
        ):  # vsock and the like: not from a service manager of this host
            return cls()
        return cls(address, watchdog_s=watchdog_s)

    @property
    def listens(self) -> bool:
        """Whether anybody is told anything."""
        return self._address is not None

    def ready(self) -> None:
        """The process does what it is for from now on."""
        self._is_ready.set()
        self.tell("READY=1", timeout_s=1.0)

    def status(self, text: str) -> None:
        """Say in one line what the process does; repeating it sends nothing."""
        if text != self._status:
            self._status = text
            self.tell(f"STATUS={' '.join(text.split())}")

    def tell(self, *assignments: str, timeout_s: float = 0.0) -> None:
        """Send assignments as one message; `timeout_s` is how long a full queue of the supervisor is waited for."""
        if self._address is None:
            return
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
                sender.settimeout(timeout_s)
                sender.sendto("\n".join(assignments).encode(), self._address)
        except OSError as error:
            log.get().debug(log.SUPERVISOR_LOST, error=str(error), what=assignments[0])

    async def lengthen_start(self, limit_s: float) -> None:
        """Ask for more time until the process is ready, `limit_s` at most.

        Asked by the event loop itself: a start that hangs it runs into the supervisor's own timeout.
        """
        with anyio.move_on_after(limit_s):
            while not self._is_ready.is_set():
                self._ask_for_time()
                with anyio.move_on_after(_ASK_EVERY_S):
                    await self._is_ready.wait()

    async def lengthen_stop(self, stop: anyio.Event, limit_s: float) -> None:
        """Say that the process stops once it does, and ask for more time until cancelled, `limit_s` at most."""
        await stop.wait()
        self.tell("STOPPING=1", timeout_s=1.0)
        every_s = min(_ASK_EVERY_S, (self._watchdog_s or math.inf) / 4)
        with anyio.move_on_after(limit_s):
            while True:
                self._ask_for_time()
                await anyio.sleep(every_s)

    async def watch(self, checks: Mapping[str, Check]) -> None:
        """Feed the watchdog while this event loop turns and every check comes back, until cancelled.

        A check that is silent for half of the watchdog's time is logged and still awaited, and the watchdog fed as
        soon as it is back: the checks run side by side and begin a quarter of that time after the last feeding, so a
        stall of less than three quarters of it ends nothing, whenever it begins. One that fails is asked again.
        """
        if self._address is None or self._watchdog_s is None:
            return
        while True:
            if await _all_alive(checks, log_after_s=self._watchdog_s / 2):
                self.tell("WATCHDOG=1")
            await anyio.sleep(self._watchdog_s / 4)

    def _ask_for_time(self) -> None:
        told = [f"EXTEND_TIMEOUT_USEC={round(EXTENSION_S * 1e6)}"]
        if self._watchdog_s is not None:
            told.append("WATCHDOG=1")
        self.tell(*told)


async def _all_alive(checks: Mapping[str, Check], *, log_after_s: float) -> bool:
    """Whether every check came back well, once all are back."""
    failed: list[str] = []

    async def await_one(part: str, check: Check) -> None:
        try:
            await check()
        except HonedError as failure:
            failed.append(part)
            log.get().error(log.WATCHDOG_UNFED, part=part, error=str(failure))
        waiting.discard(part)
        if not waiting:
            tasks.cancel_scope.cancel()

    waiting = set(checks)
    if not waiting:
        return True
    async with anyio.create_task_group() as tasks:
        for part, check in checks.items():
            tasks.start_soon(await_one, part, check)
        await anyio.sleep(log_after_s)
        for part in sorted(waiting):
            error = f"no answer within {log_after_s:g} s"
            log.get().error(log.WATCHDOG_UNFED, part=part, error=error)
    return not failed
