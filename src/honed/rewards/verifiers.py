"""Verifiers in processes of their own: a command for each episode, or a Python function that stays loaded.

Each runs behind a keeper (`keeper`), and is ended with all that it has started: when it has answered, at the time
limit, when it writes too much, when the daemon stops or dies. It gets no secret of honed's environment, and no shell is
between: the episode is data on its stdin.
"""

import contextlib
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Final

import anyio
import msgspec
from anyio.abc import Process

from honed.domain.composition import VERIFIER
from honed.domain.episode import Episode
from honed.errors import RewardError, UnreachableError
from honed.ports import Answer
from honed.rewards.answers import verifier_answer
from honed.rewards.kept import Kept, kept

OUTPUT_MAX: Final = 64 << 10
"""Bytes of one answer; a verifier that writes more is ended."""
_STDERR_MAX: Final = 2_000
_FUNCTION: Final = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*|[A-Za-z_][\w.-]*")
_CALLING: Final = Path(__file__).with_name("calling.py")


def verifier_of(
    name: str, version: str | None, command: str, *, timeout: timedelta
) -> "CommandVerifier | FunctionVerifier":
    """The verifier of a config's entry: a function where one word names it and no program is called so."""
    words = shlex.split(command)
    is_module = ":" in command and "/" not in command
    if len(words) == 1 and _FUNCTION.fullmatch(command) and (is_module or not _is_program(command)):
        return FunctionVerifier(name, version, command, timeout=timeout)
    return CommandVerifier(name, version, words, timeout=timeout)


def _is_program(word: str) -> bool:
    folders = os.environ.get("PATH", os.defpath).split(os.pathsep)
    return any(os.access(Path(folder) / word, os.X_OK) for folder in folders)


class CommandVerifier:
    """A program that reads an episode as JSON on stdin and writes its answer on stdout.

    A status other than 0 is a failure of the verifier, not a verdict.
    """

    def __init__(
        self, name: str, version: str | None, command: Sequence[str], *, timeout: timedelta
    ) -> None:
        self.source = f"{VERIFIER}{name}"
        self.version = version
        self._command = list(command)
        self._limit_s = timeout.total_seconds()

    async def verify(self, episode: Episode) -> Answer | None:
        """Run the command once; see `ports.Verifier`."""
        async with kept(self._command, self.source, subprocess.PIPE) as command:
            with anyio.move_on_after(self._limit_s):
                told = msgspec.json.encode(episode)
                written, complaint = await self._exchange(command.process, told)
                status = await command.status()
                if status != 0:
                    last = complaint.decode(errors="replace").strip().rpartition("\n")[2]
                    raise RewardError(f"{self.source} ended with status {status}: {last[:200]}")
                return verifier_answer(written)
        raise RewardError(f"{self.source} took longer than {self._limit_s:g} s and was ended")

    async def _exchange(self, process: Process, episode: bytes) -> tuple[bytes, bytes]:
        found: dict[str, bytes] = {}

        async def listen(name: str, limit: int) -> None:
            stream = getattr(process, name)
            assert stream is not None
            read = b""
            with contextlib.suppress(anyio.EndOfStream):
                while True:
                    read += await stream.receive()
                    if len(read) > limit:
                        if name == "stdout":
                            raise RewardError(f"{self.source} wrote more than {limit} bytes")
                        read = read[-limit:]
            found[name] = read

        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(listen, "stdout", OUTPUT_MAX)
                tasks.start_soon(listen, "stderr", _STDERR_MAX)
                assert process.stdin is not None
                # a program that answers without reading is no fault
                with contextlib.suppress(anyio.BrokenResourceError, anyio.ClosedResourceError):
                    await process.stdin.send(episode)
                with contextlib.suppress(anyio.BrokenResourceError, anyio.ClosedResourceError):
                    await process.stdin.aclose()
        except* RewardError as group:
            raise group.exceptions[0] from None
        return found["stdout"], found["stderr"]


class FunctionVerifier:
    """A Python function, `package.module:function` or an entry point of `honed.verifiers`, in one process.

    It is asked one episode after the other; a process that fails or takes too long is ended, and the next episode
    gets a new one. Use it as a context: leaving it ends the process.
    """

    def __init__(
        self, name: str, version: str | None, function: str, *, timeout: timedelta
    ) -> None:
        self.source = f"{VERIFIER}{name}"
        self.version = version
        self._function = function
        self._limit_s = timeout.total_seconds()
        self._turn = anyio.Lock()
        self._rooms = contextlib.AsyncExitStack()
        self._kept: Kept | None = None
        self._waiting = b""

    async def verify(self, episode: Episode) -> Answer | None:
        """Ask the function; see `ports.Verifier`."""
        async with self._turn:
            is_done = False
            try:
                with anyio.move_on_after(self._limit_s):
                    told = await self._ask(msgspec.json.encode(episode) + b"\n")
                    is_done = True
                    return self._answer(told)
                raise RewardError(
                    f"{self.source} took longer than {self._limit_s:g} s and was ended"
                )
            finally:
                if not is_done:
                    await self.aclose()

    async def aclose(self) -> None:
        """End the process; the next question starts another."""
        with anyio.CancelScope(shield=True):
            await self._rooms.aclose()
        self._kept, self._waiting = None, b""

    def _answer(self, told: Mapping[str, msgspec.Raw]) -> Answer | None:
        if (failed := told.get("failed")) is not None:
            raise RewardError(f"{self.source}: {msgspec.json.decode(failed)}")
        return verifier_answer(bytes(told.get("answer", b"null")))

    async def _ask(self, line: bytes) -> Mapping[str, msgspec.Raw]:
        if self._kept is None or self._kept.process.returncode is not None:
            await self._start()
        assert self._kept is not None
        assert self._kept.process.stdin is not None
        try:
            await self._kept.process.stdin.send(line)
            return await self._told()
        except (anyio.EndOfStream, anyio.BrokenResourceError):
            status = await self._kept.status()
            raise RewardError(f"{self.source} ended with status {status}") from None

    async def _start(self) -> None:
        await self.aclose()
        command = [sys.executable, "-P", str(_CALLING), self._function]
        self._kept = await self._rooms.enter_async_context(
            kept(command, self.source, subprocess.DEVNULL)
        )
        try:
            told = await self._told()
        except anyio.EndOfStream:
            raise UnreachableError(f"{self.source} ended before it was ready") from None
        if (broken := told.get("broken")) is not None:
            await self.aclose()
            raise UnreachableError(
                f"{self.source} cannot be loaded: {msgspec.json.decode(broken)}",
                advice=f"is {self._function} importable by {sys.executable}?",
            )

    async def _told(self) -> Mapping[str, msgspec.Raw]:
        """The next line of the process."""
        assert self._kept is not None
        assert self._kept.process.stdout is not None
        while b"\n" not in self._waiting:
            self._waiting += await self._kept.process.stdout.receive()
            if len(self._waiting) > OUTPUT_MAX:
                raise RewardError(f"{self.source} wrote more than {OUTPUT_MAX} bytes")
        line, _, self._waiting = self._waiting.partition(b"\n")
        try:
            return msgspec.json.decode(line, type=dict[str, msgspec.Raw])
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise RewardError(f"{self.source} wrote no answer: {error}") from None
