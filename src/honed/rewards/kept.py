"""A verifier's process behind its keeper: started, asked how it ended, and ended with all that it has started."""

import contextlib
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

import anyio
from anyio.abc import Process

from honed.errors import RewardError, UnreachableError

_KEEPER: Final = Path(__file__).with_name("keeper.py")
_END_S: Final = 5.0
"""How long a keeper may take to kill what it keeps; a crowd that grows faster than it can be killed takes longer."""


class Kept:
    """A process behind its keeper; its streams are the keeper's."""

    def __init__(self, process: Process, told: int, command: list[str], source: str) -> None:
        self.process = process
        self._told = told
        self._command = command
        self._source = source

    async def status(self) -> int:
        """Wait until it has ended: its exit status, negative for a signal.

        Raises:
            UnreachableError: it could not be started.
            RewardError: something has killed its keeper, and with it the process.
        """
        ended = await self.process.wait()
        word = os.read(self._told, 64).decode().partition(" ")[0]
        if word.startswith("E"):
            raise UnreachableError(
                f"{self._source} cannot be started: {self._command[0]}: {os.strerror(int(word[1:]))}",
                advice="correct it under rewards.verifiers",
            )
        if not word:
            raise RewardError(f"{self._source}: the process that keeps it ended with {ended}")
        return int(word)


@contextlib.asynccontextmanager
async def kept(command: list[str], source: str, stderr: int) -> AsyncIterator[Kept]:
    """A process behind a keeper; all that it has started is killed, and the keeper reaped, when the body is left."""
    told, tell = os.pipe()
    try:
        try:
            process = await anyio.open_process(
                [sys.executable, "-I", "-S", str(_KEEPER), str(os.getpid()), str(tell), *command],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                start_new_session=True,
                pass_fds=[tell],
                env={name: value for name, value in os.environ.items() if not _is_ours(name)},
            )
        except OSError as error:
            raise UnreachableError(
                f"{source} cannot be started: {sys.executable}: {error.strerror}",
                advice="is the machine out of processes or memory?",
            ) from error
        finally:
            os.close(tell)
        try:
            yield Kept(process, told, command, source)
        finally:
            with anyio.CancelScope(shield=True):
                await _end(process)
    finally:
        os.close(told)


async def _end(process: Process) -> None:
    with contextlib.suppress(ProcessLookupError):
        process.terminate()
    with anyio.move_on_after(_END_S):
        await process.wait()
    with contextlib.suppress(ProcessLookupError):
        process.kill()  # the kernel ends the command with it
    await process.wait()
    await process.aclose()


def _is_ours(name: str) -> bool:
    """Whether a variable may hold a secret of honed's."""
    return name.upper().startswith("HONED_") or name in {"CREDENTIALS_DIRECTORY", "PGPASSWORD"}
