"""A short question to another program: its answer, or why there is none, within a time."""

import contextlib
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Answer:
    """What a program said."""

    status: int | None
    """Exit status, negative for a signal; None when it was not started, or not done in time."""
    stdout: str = ""
    stderr: str = ""
    fault: str = ""
    """Why there is no status."""

    @property
    def last_words(self) -> str:
        """One line that says best why it failed."""
        lines = [line.strip() for line in (self.stderr or self.stdout).splitlines() if line.strip()]
        if self.fault or not lines:
            return self.fault or f"it ended with {self.status} and said nothing"
        return lines[-1][:200]


def ask(
    argv: Sequence[str], *, limit_s: float, environment: Mapping[str, str] | None = None
) -> Answer:
    """Run a program to its end; one that takes longer is ended with all that it started."""
    try:
        child = subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
            env=environment,
        )
    except OSError as error:
        return Answer(None, fault=error.strerror or str(error))
    with child:
        try:
            stdout, stderr = child.communicate(timeout=limit_s)
        except subprocess.TimeoutExpired:
            # the group, not the child: a wrapper's real program would hold the pipes open
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)
            return Answer(None, fault=f"no answer within {limit_s:g} s")
    return Answer(
        child.returncode, stdout.decode(errors="replace"), stderr.decode(errors="replace")
    )
