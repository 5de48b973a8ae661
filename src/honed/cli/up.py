"""`honed up`: daemon and gateway together, for people who want one command.

A child that is killed or crashes is started again, so that neither takes the other along.
"""

import signal
import subprocess
import sys
import threading
import time
from functools import partial
from typing import Final

from honed.lifeline import end_with_parent
from honed.process import EXIT_CONFIG

_GRACE_S: Final = 60.0
"""How long both may take to end after a signal; the daemon may be ending a worker, the gateway draining."""
_LIVED_S: Final = 10.0
"""A child that ends sooner is wrong from the start: it is not started again."""
_PAUSE_S: Final = 1.0


class _Child:
    """One of the two processes, started again when it dies."""

    def __init__(self, verb: str, argv: list[str]) -> None:
        self.verb = verb
        self._argv = argv
        self.start()

    def start(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "honed", self.verb, *self._argv],
            start_new_session=True,
            preexec_fn=partial(end_with_parent, signal.SIGTERM),
        )
        self._started = time.monotonic()

    @property
    def status(self) -> int | None:
        """Exit status as a shell says it, or None while it runs."""
        status = self.process.poll()
        return 128 - status if status is not None and status < 0 else status

    @property
    def is_hopeless(self) -> bool:
        """Whether it would end again at once."""
        return self.status == EXIT_CONFIG or time.monotonic() - self._started < _LIVED_S

    def end(self) -> int:
        """Wait for a child that was asked to end; kill it after the grace time."""
        try:
            self.process.wait(_GRACE_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        return self.status or 0


def main(argv: list[str]) -> int:
    """Run `honed serve` and `honed run` with the same arguments until a signal.

    Returns:
        0 when both ended cleanly after a signal, else the status of the one that could not run.
    """
    if {"-h", "--help"} & set(argv):
        sys.stdout.write("usage: honed up [--config FILE]\n\nRun daemon and gateway together.\n")
        return 0
    asked = threading.Event()
    children = [_Child("serve", argv), _Child("run", argv)]

    def pass_on(number: int, frame: object) -> None:
        asked.set()
        for child in children:
            if child.status is None:
                child.process.send_signal(number)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, pass_on)
    failed = _watch(children, asked)
    if failed is not None:
        sys.stderr.write(f"honed up: `honed {failed.verb}` ended with {failed.status}\n")
        for child in children:
            child.process.terminate()
    statuses = [child.end() for child in children]
    return max(statuses) if failed is None else failed.status or 1


def _watch(children: list[_Child], asked: threading.Event) -> _Child | None:
    """Start dead children again; returns the one that cannot run, None once a signal came."""
    while not asked.wait(0.2):
        for child in children:
            if child.status is None or asked.is_set():
                continue
            if child.is_hopeless:
                return child
            sys.stderr.write(f"honed up: `honed {child.verb}` ended with {child.status}, again\n")
            if asked.wait(_PAUSE_S):
                break
            child.start()
            if asked.is_set():  # the signal came while it was started
                child.process.terminate()
    return None
