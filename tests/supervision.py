"""What systemd does for a service, done by a test: a notify socket, passed descriptors, the watchdog's variables.

As a program it is what a service manager does between fork and exec: it puts the descriptors of `--fds` at 3 and up,
says so in `LISTEN_*` with its own process id, and becomes the command. With `--hang PART` the process runs `honed` in
itself, with a part that hangs for ever once SIGUSR1 has come: `loop` (the event loop), `trigger` (the trigger loop
alone), `writer` (the store's thread) or `accept` (the gateway's answers).
"""

import argparse
import contextlib
import fcntl
import os
import select
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

ROOT = Path(__file__).parent.parent


class NotifySocket:
    """A supervisor's end: collects what is told.

    Args:
        folder: of the socket; None for one in the abstract namespace.
    """

    def __init__(self, folder: Path | None) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        if folder is None:
            self._socket.bind("")  # the kernel picks a name in the abstract namespace
            self.address = "@" + self._socket.getsockname()[1:].decode()
        else:
            self.address = str(folder / "notify.sock")
            self._socket.bind(self.address)
        self.told: list[tuple[float, str]] = []
        """When (monotonic) and what, one entry for each assignment."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._socket.close()

    def listen(self, seconds: float) -> list[str]:
        """What comes within the time."""
        before = len(self.told)
        deadline = time.monotonic() + seconds
        while self._receive(deadline - time.monotonic()):
            pass
        return [what for _, what in self.told[before:]]

    def until(self, start: str, *, limit_s: float = 30) -> str:
        """Wait for an assignment that begins so, from now on; returns it."""
        deadline = time.monotonic() + limit_s
        while (left := deadline - time.monotonic()) > 0:
            for what in self._receive(left):
                if what.startswith(start):
                    return what
        raise AssertionError(f"waited {limit_s} s in vain for {start}; told: {self.told}")

    def _receive(self, timeout_s: float) -> list[str]:
        if timeout_s <= 0 or not select.select([self._socket], [], [], timeout_s)[0]:
            return []
        found = self._socket.recv(4096).decode().split("\n")
        self.told += [(time.monotonic(), what) for what in found]
        return found


def given(sockets: Mapping[str, socket.socket]) -> tuple[list[str], tuple[int, ...]]:
    """Arguments before the command, and `pass_fds`, of a process that is given the sockets."""
    fds = [str(each.fileno()) for each in sockets.values()]
    shim = [sys.executable, "-m", "tests.supervision"]
    arguments = [*shim, "--fds", ",".join(fds), "--names", ":".join(sockets), "--"]
    return arguments, tuple(map(int, fds))


@contextlib.contextmanager
def listening_unix(path: Path) -> Iterator[socket.socket]:
    """A listening unix socket, as a socket unit makes it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as made:
        made.bind(str(path))
        made.listen(64)
        yield made


def _exec_with(fds: list[int], names: str, command: list[str]) -> None:
    aside = [
        fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 100) for fd in fds
    ]  # out of the way of 3 and up
    for fd in fds:
        os.set_inheritable(fd, False)
    for target, fd in enumerate(aside, 3):
        os.dup2(fd, target, inheritable=True)
    os.environ |= {
        "LISTEN_FDS": str(len(fds)),
        "LISTEN_FDNAMES": names,
        "LISTEN_PID": str(os.getpid()),
    }
    os.execv(command[0], command)


def _hang(part: str) -> None:
    """Replace a part by one that hangs once SIGUSR1 has come."""
    asked = threading.Event()
    signal.signal(signal.SIGUSR1, lambda *_: asked.set())
    match part:
        case "loop":
            from honed.sink import Sink

            Sink.ingest = _blocking(Sink.ingest, asked)  # type: ignore[method-assign]
        case "writer":
            from honed.stores import batch

            batch.write_batch = _blocking(batch.write_batch, asked)
        case "trigger":
            import anyio

            from honed.loop import TriggerLoop

            look = TriggerLoop._next_order

            async def hangs(self: Any) -> Any:
                if asked.is_set():
                    await anyio.sleep_forever()
                return await look(self)

            TriggerLoop._next_order = hangs  # type: ignore[method-assign]
        case "accept":
            import anyio

            from honed.gateway.relay import Relay

            answer = Relay._answer

            async def silent(self: Any, *call: Any) -> None:
                if asked.is_set():
                    await anyio.sleep_forever()
                await answer(self, *call)

            Relay._answer = silent  # type: ignore[method-assign]


def _blocking(call: Callable[..., Any], asked: threading.Event) -> Callable[..., Any]:
    def hangs(*arguments: Any, **named: Any) -> Any:
        while asked.is_set():
            time.sleep(3600)
        return call(*arguments, **named)

    return hangs


def main() -> None:
    """Become the command, with what was asked for."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--fds", default="")
    parser.add_argument("--names", default="")
    parser.add_argument("--hang")
    parser.add_argument("command", nargs="+")
    arguments = parser.parse_args()
    if arguments.hang:
        _hang(arguments.hang)
        sys.argv = ["honed", *arguments.command]
        from honed.cli import main as honed

        honed()
    _exec_with([int(fd) for fd in arguments.fds.split(",")], arguments.names, arguments.command)


if __name__ == "__main__":
    main()
