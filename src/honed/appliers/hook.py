"""The operator's own command, run when an adapter has been put into its place."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import IO, Final

import anyio
from anyio.abc import Process

from honed.errors import ApplyError

_GRACE_S: Final = 2.0
_TOLD_MAX: Final = 500
"""Characters of what the command has written that go into a message."""
_PREFIX: Final = "HONED_"
_SECRETS: Final = ("CREDENTIALS_DIRECTORY", "PGPASSWORD")


async def run_hook(
    command: Sequence[str], variables: Mapping[str, str], *, within: timedelta
) -> None:
    """Run the command to its end, with these variables in its environment, without those that may hold secrets.

    It ends with this process, also by kill -9. What it leaves running after it has ended well is its own affair; when
    it fails or takes too long, its whole process group is ended.

    Raises:
        ApplyError: it is not there, failed, or took too long; the end of what it has written is told.
    """
    if shutil.which(command[0]) is None:
        raise ApplyError(
            f"the hook {command[0]} is not there, or may not be run",
            advice="server.hook is a command and its arguments; name it by its path",
        )
    # a file and no pipe: what the command leaves running may keep its output open
    with tempfile.TemporaryFile() as output:
        process = await _start(command, variables, output)
        try:
            with anyio.move_on_after(within.total_seconds()):
                await process.wait()
        finally:
            status = process.returncode
            await _end(process, is_well=status == 0)
        if status != 0:
            limit = f"took longer than {within.total_seconds():g} s"
            how = limit if status is None else _how(status)
            raise ApplyError(
                f"the hook {' '.join(command)} {how}: {_told(output)}",
                advice="what was in service before is in its place again; correct the hook, and apply once more",
            )


async def _start(
    command: Sequence[str], variables: Mapping[str, str], output: IO[bytes]
) -> Process:
    ours = {
        name: value
        for name, value in os.environ.items()
        if not name.upper().startswith(_PREFIX) and name not in _SECRETS
    }
    try:
        return await anyio.open_process(
            [sys.executable, "-m", "honed.lifeline", str(os.getpid()), *command],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
            env={**ours, **variables},
        )
    except OSError as error:
        raise ApplyError(
            f"the hook cannot be started: {error.strerror}",
            advice="is the machine out of processes or memory?",
        ) from error


async def _end(process: Process, *, is_well: bool) -> None:
    """Reap it; unless it has ended well, with all of its group."""
    with anyio.CancelScope(shield=True):
        if not is_well:
            _signal_group(process, signal.SIGTERM)
            with anyio.move_on_after(_GRACE_S):
                await process.wait()
            _signal_group(process, signal.SIGKILL)
        await process.wait()
        await process.aclose()


def _signal_group(process: Process, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, number)


def _how(status: int) -> str:
    return f"was ended by signal {-status}" if status < 0 else f"ended with status {status}"


def _told(output: IO[bytes]) -> str:
    size = output.seek(0, os.SEEK_END)
    output.seek(max(0, size - 4 * _TOLD_MAX))
    text = " ".join(output.read().decode(errors="replace").split())
    return text[-_TOLD_MAX:] or "it wrote nothing"
