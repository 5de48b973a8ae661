"""`honed up`: daemon and gateway together, for people who want one command.

It opens the sockets of both and keeps them while one of the two is started again: what arrives
meanwhile waits in the kernel and is answered by the next. A child that is killed or crashes takes
the other one along no more than it takes the sockets.

What a killed `honed up` leaves ends by itself, but not at once: the gateway answers what it has begun. The
next `honed up` waits for that. Both children hold `up.children.lock` until they end, and the kernel
gives it back however they do.
"""

import argparse
import fcntl
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from socket import socket
from typing import IO, Final

from honed.activation import pass_sockets
from honed.config import Config, load_config
from honed.errors import ConfigError, HonedError, SourceError
from honed.lifeline import end_with_parent
from honed.listen import GATEWAY_RUNS, claim_unix_path, listen_on
from honed.process import EXIT_CONFIG, only_one, stop_limit_s

_GRACE_S: Final = 60.0
"""How long each may take to end after a signal; the daemon may be ending a worker, the gateway draining."""
_LIVED_S: Final = 10.0
"""A child that ends by itself sooner, and never lived that long, is wrong from the start."""
_FIRST_PAUSE_S: Final = 0.2
_LAST_PAUSE_S: Final = 10.0
_LOOK_EVERY_S: Final = 0.1
_FIRST_FREE: Final = 10
"""Descriptors from here on are not those of passed sockets."""


class _Signals:
    """SIGTERM and SIGINT, as a plain flag.

    A lock here (that of a `threading.Event`, say) could be taken by the handler while the code that it interrupted
    has it: the process would hang, and no signal would end it.
    """

    def __init__(self) -> None:
        self.have_come = False
        self.children: list[_Child] = []
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._pass_on)

    def _pass_on(self, number: int, frame: object) -> None:
        if self.have_come:  # who asks twice does not want to wait for requests or for the worker
            for child in self.children:
                child.send(number)
        self.have_come = True


class _Child:
    """One of the two processes, started again when it dies."""

    def __init__(
        self, verb: str, argv: list[str], sockets: Mapping[str, socket], lock: IO[str]
    ) -> None:
        self.verb = verb
        self.sockets = sockets
        self.process: subprocess.Popen[bytes] | None = None
        self._lock = lock
        self._command = [sys.executable, "-m", "honed", verb, *argv]
        self._has_lived = False
        self._pause_s = _FIRST_PAUSE_S
        self._due_s: float | None = None
        """When it is started again; None while it runs."""

    def start(self) -> None:
        """Fork and exec.

        Raises:
            SourceError: the kernel refuses, for want of memory, processes or descriptors.
        """
        become = partial(_become, self._command, self.sockets, self._lock.fileno(), os.getpid())
        try:
            # `_become` does the exec: the protocol wants the pid of the process in its environment
            self.process = subprocess.Popen(
                self._command, start_new_session=True, preexec_fn=become
            )
        except (OSError, subprocess.SubprocessError) as error:
            raise SourceError(f"`honed {self.verb}` cannot be started: {error}") from error
        self._started_s = time.monotonic()
        self._due_s = None

    @property
    def status(self) -> int | None:
        """Exit status as a shell says it, or None while it runs or before it was started."""
        status = self.process.poll() if self.process else None
        return 128 - status if status is not None and status < 0 else status

    @property
    def is_hopeless(self) -> bool:
        """Whether it would end again at once. One that was killed would not."""
        ended_itself = self.process is not None and (self.process.returncode or 0) >= 0
        is_young = time.monotonic() - self._started_s < _LIVED_S
        return self.status == EXIT_CONFIG or (ended_itself and is_young and not self._has_lived)

    def start_when_due(self) -> None:
        """Start it again after a pause that grows while it dies young, or cannot be started."""
        if self._due_s is None:
            if time.monotonic() - self._started_s >= _LIVED_S:
                self._has_lived, self._pause_s = True, _FIRST_PAUSE_S
            self._put_off(f"`honed {self.verb}` ended with {self.status}")
        elif time.monotonic() >= self._due_s:
            try:
                self.start()
            except SourceError as error:
                self._put_off(str(error))

    def _put_off(self, why: str) -> None:
        sys.stderr.write(f"honed up: {why}, again\n")
        self._due_s = time.monotonic() + self._pause_s
        self._pause_s = min(_LAST_PAUSE_S, self._pause_s * 2)

    def send(self, number: int) -> None:
        """Send it a signal, if it runs."""
        if self.process is not None:
            self.process.send_signal(number)

    def end(self) -> int:
        """Ask it to end and wait for it; kill it after the grace time."""
        if self.process is None:
            return 0
        self.process.terminate()
        try:
            self.process.wait(_GRACE_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        return self.status or 0


def _become(command: list[str], sockets: Mapping[str, socket], lock: int, parent: int) -> None:
    """What the forked child does: it ends with `parent`, keeps the lock for its whole life, and becomes `command`."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_DFL)  # until exec it has the parent's handlers
    end_with_parent(signal.SIGTERM, parent=parent)
    fcntl.fcntl(lock, fcntl.F_DUPFD, _FIRST_FREE)  # one that exec leaves open
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
    failed: _Child | None = None
    try:
        config = load_config(parser.parse_args(argv).config)
        signals = _Signals()
        with ExitStack() as held:
            held.enter_context(
                only_one(config.data_dir / "up.lock", key="data_dir", what="`honed up`")
            )
            lock = held.enter_context(_former_gone(config, signals))
            if lock is None:
                return 0
            gateway, daemon = held.enter_context(_sockets(config))
            children = [
                _Child("serve", argv, gateway, lock),
                _Child("run", argv, daemon, lock),
            ]
            signals.children = children
            try:
                for child in children:
                    child.start()
                host, port = gateway["http"].getsockname()[:2]
                sys.stderr.write(
                    f"honed up: {config.scenario} at http://{host}:{port}/v1, events at "
                    f"{config.feed_socket}; Ctrl-C stops\n"
                )
                failed = _watch(children, signals)
            finally:
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
def _former_gone(config: Config, signals: _Signals) -> Iterator[IO[str] | None]:
    """The children's lock, once those of a `honed up` that was killed have ended; None if a signal came first.

    Raises:
        SourceError: they take longer than an orderly stop may, or the lock cannot be opened.
    """
    path = config.data_dir / "up.children.lock"
    limit_s = stop_limit_s(config)
    deadline = time.monotonic() + limit_s
    has_said = False
    try:
        lock = path.open("a+")
    except OSError as error:
        raise SourceError(f"{path} cannot be opened: {error.strerror}") from error
    with lock:
        while not signals.have_come:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    # not 78: they may end yet, and whoever starts this shall try again
                    raise SourceError(
                        f"what a killed `honed up` left on {path.parent} has not ended in {limit_s:g} s",
                        advice=f"see who holds {path} (fuser), and end it",
                    ) from None
                if not has_said:
                    sys.stderr.write(
                        f"honed up: a killed `honed up` left processes on {path.parent} that are ending; "
                        f"waiting for them, {limit_s:g} s at most\n"
                    )
                    has_said = True
                time.sleep(_LOOK_EVERY_S)
            else:
                yield lock
                return
        yield None


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
        opened["serve"] = claim_unix_path(paths["serve"], advice=GATEWAY_RUNS)
        opened["http"] = listen_on(config.serve.host, config.serve.port)
        for name in ("feed", "control"):
            opened[name] = claim_unix_path(paths[name])
        yield (
            {name: opened[name] for name in ("http", "serve")},
            {name: opened[name] for name in ("feed", "control")},
        )
    finally:
        for name, each in opened.items():
            each.close()
            if name in paths:
                paths[name].unlink(missing_ok=True)


def _watch(children: list[_Child], signals: _Signals) -> _Child | None:
    """Start dead children again; returns the one that cannot run, None once a signal came."""
    while not signals.have_come:
        for child in children:
            if child.status is None:
                continue
            if child.is_hopeless:
                return child
            child.start_when_due()
        time.sleep(_LOOK_EVERY_S)
    return None
