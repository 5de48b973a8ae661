"""`honed up`: daemon and gateway together, for people who want one command."""

import os
import signal
import subprocess
import sys
import time
from functools import partial
from typing import Final

from honed.lifeline import end_with_parent

_GRACE_S: Final = 60.0
"""How long both may take to end after a signal; the daemon may be ending a worker, the gateway draining."""


def main(argv: list[str]) -> int:
    """Start `honed run` and `honed serve` with the same arguments; end both when one ends or a signal comes.

    Returns:
        0 when both ended cleanly after a signal, else the status of the one that ended first.
    """
    if {"-h", "--help"} & set(argv):
        sys.stdout.write("usage: honed up [--config FILE]\n\nRun daemon and gateway together.\n")
        return 0
    children = [
        subprocess.Popen(
            [sys.executable, "-m", "honed", verb, *argv],
            start_new_session=True,
            preexec_fn=partial(end_with_parent, signal.SIGTERM),
        )
        for verb in ("serve", "run")
    ]
    asked = False

    def pass_on(number: int, frame: object) -> None:
        nonlocal asked
        asked = True
        for child in children:
            if child.poll() is None:
                os.kill(child.pid, number)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, pass_on)
    first = _first_to_end(children)
    for child in children:
        if child.poll() is None and not asked:  # a second signal would cut its ending short
            child.terminate()
    statuses = [_ended(child) for child in children]
    if asked:
        return max(statuses)
    sys.stderr.write(f"honed up: `honed {('serve', 'run')[first]}` ended with {statuses[first]}\n")
    return statuses[first] or 1


def _first_to_end(children: list[subprocess.Popen[bytes]]) -> int:
    """Wait until a child ends; returns its index."""
    while True:
        for i, child in enumerate(children):
            if child.poll() is not None:
                return i
        time.sleep(0.2)


def _ended(child: subprocess.Popen[bytes]) -> int:
    """Wait for a child that was asked to end; kill it after the grace time."""
    try:
        status = child.wait(_GRACE_S)
    except subprocess.TimeoutExpired:
        child.kill()
        status = child.wait()
    return 128 - status if status < 0 else status
