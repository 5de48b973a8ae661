"""`honed up`: daemon and gateway together, for people who want one command.

It opens the sockets of both and keeps them while one of the two is started again: what arrives
meanwhile waits in the kernel and is answered by the next. A child that is killed or crashes takes
the other one along no more than it takes the sockets.
"""

import argparse
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from socket import socket
from typing import Final

from honed.activation import pass_sockets
from honed.config import Config, load_config
from honed.errors import ConfigError, HonedError
from honed.lifeline import end_with_parent
from honed.listen import claim_unix_path, listen_on
from honed.process import EXIT_CONFIG

_GRACE_S: Final = 60.0
"""How long each may take to end after a signal; the daemon may be ending a worker, the gateway draining."""
_LIVED_S: Final = 10.0
"""A child that ends by itself sooner, and never lived that long, is wrong from the start."""
_FIRST_PAUSE_S: Final = 0.2
_LAST_PAUSE_S: Final = 10.0
_LOOK_EVERY_S: Final = 0.1


class _Child:
    """One of the two processes, started again when it dies."""

    def __init__(self, verb: str, argv: list[str], sockets: Mapping[str, socket]) -> None:
        self.verb = verb
        self.sockets = sockets
        self._command = [sys.executable, "-m", "honed", verb, *argv]
        self._has_lived = False
        self._pause_s = _FIRST_PAUSE_S
        self._due_s: float | None = None
        """When it is started again; None while it runs."""
        self.start()

    def start(self) -> None:
        self.process = subprocess.Popen(
            self._command,
            start_new_session=True,
            # `pass_sockets` does the exec: the protocol wants the pid of the process in its environment
            preexec_fn=partial(_become, self._command, self.sockets),
        )
        self._started_s = time.monotonic()
        self._due_s = None

    @property
    def status(self) -> int | None:
        """Exit status as a shell says it, or None while it runs."""
        status = self.process.poll()
        return 128 - status if status is not None and status < 0 else status

    @property
    def is_hopeless(self) -> bool:
        """Whether it would end again at once. One that was killed would not."""
        ended_itself = self.process.returncode is not None and self.process.returncode >= 0
        is_young = time.monotonic() - self._started_s < _LIVED_S
        return self.status == EXIT_CONFIG or (ended_itself and is_young and not self._has_lived)

    def start_when_due(self) -> None:
        """Start it again after a pause that grows while it dies young."""
        if self._due_s is None:
            if time.monotonic() - self._started_s >= _LIVED_S:
                self._has_lived, self._pause_s = True, _FIRST_PAUSE_S
            sys.stderr.write(f"honed up: `honed {self.verb}` ended with {self.status}, again\n")
            self._due_s = time.monotonic() + self._pause_s
            self._pause_s = min(_LAST_PAUSE_S, self._pause_s * 2)
        elif time.monotonic() >= self._due_s:
            self.start()

    def end(self) -> int:
        """Ask it to end and wait for it; kill it after the grace time."""
        if self.process.poll() is None:
            self.process.terminate()
        try:
            self.process.wait(_GRACE_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        return self.status or 0


def _become(command: list[str], sockets: Mapping[str, socket]) -> None:
    end_with_parent(signal.SIGTERM)
    pass_sockets(sockets, command)


def main(argv: list[str]) -> int:
    """Run `honed serve` and `honed run` with the same arguments until a signal.

    Returns:
        0 when both ended cleanly after a signal, else the status of the one that could not run.
    """
    parser = argparse.ArgumentParser(
        prog="honed up", description="Run daemon and gateway together."
    )
    parser.add_argument("--config", type=Path, help="TOML file (default: the usual places)")
    asked = threading.Event()
    children: list[_Child] = []

    def pass_on(number: int, frame: object) -> None:
        if asked.is_set():  # who asks twice does not want to wait for requests or for the worker
            for child in children:
                if child.status is None:
                    child.process.send_signal(number)
        asked.set()

    try:
        config = load_config(parser.parse_args(argv).config)
        with _sockets(config) as (gateway, daemon):
            for number in (signal.SIGTERM, signal.SIGINT):
                signal.signal(number, pass_on)
            children += (_Child("serve", argv, gateway), _Child("run", argv, daemon))
            failed = _watch(children, asked)
            gateway["http"].close()  # from now on requests are refused instead of kept waiting
            # The gateway first: what it has captured can still be told to the daemon.
            statuses = [child.end() for child in children]
    except HonedError as error:
        sys.stderr.write(f"honed up: {error}{f' ({error.advice})' if error.advice else ''}\n")
        return EXIT_CONFIG if isinstance(error, ConfigError) else 1
    if failed is not None:
        sys.stderr.write(f"honed up: `honed {failed.verb}` ended with {failed.status}\n")
    return max(statuses) if failed is None else failed.status or 1


@contextmanager
def _sockets(config: Config) -> Iterator[tuple[dict[str, socket], dict[str, socket]]]:
    """The sockets of gateway and daemon; they are here for as long as either is started again."""
    paths = {
        "serve": config.serve_socket,
        "feed": config.feed_socket,
        "control": config.control_socket,
    }
    opened: dict[str, socket] = {}
    try:
        opened["http"] = listen_on(config.serve.host, config.serve.port)
        for name, path in paths.items():
            opened[name] = claim_unix_path(path)
        yield (
            {name: opened[name] for name in ("http", "serve")},
            {name: opened[name] for name in ("feed", "control")},
        )
    finally:
        for name, each in opened.items():
            each.close()
            if name in paths:
                paths[name].unlink(missing_ok=True)


def _watch(children: list[_Child], asked: threading.Event) -> _Child | None:
    """Start dead children again; returns the one that cannot run, None once a signal came."""
    while not asked.wait(_LOOK_EVERY_S):
        for child in children:
            if child.status is None:
                continue
            if child.is_hopeless:
                return child
            child.start_when_due()
    return None
