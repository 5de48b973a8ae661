"""The process that keeps a verifier: runs one command, and leaves nothing of it behind.

Run by its path (`python -I -S keeper.py PARENT_PID STATUS_FD PROGRAM [ARGUMENT...]`). What the command starts, in
whatever group or session, falls to the keeper when its own parent ends, so that all of it can be found and killed: when
the command has ended, at SIGTERM, and when the daemon dies, also by kill -9. The command has pipes of the keeper's,
never the daemon's: what it leaves open keeps nobody waiting, and its last words are passed on once it has ended.

Beyond reach: what runs as another user (sudo), what another service runs on its behalf (docker, systemd-run, at), a
process that hangs in the kernel, and what left the session of a command that killed its keeper first.
"""

import contextlib
import os
import select
import signal
import sys
import time
from pathlib import Path
from types import FrameType
from typing import Final, NoReturn

sys.path.append(str(Path(__file__).parents[2]))

from honed.lifeline import adopt_orphans, descendants, end_with_parent

_PIECE: Final = 1 << 16
_LAST_MAX: Final = 16
"""Pieces that are read of each pipe when the command has ended; more than a pipe holds."""
_KILL_S: Final = 3.0
"""For what hangs in the kernel, or multiplies faster than it can be killed, is not waited."""
_CANNOT: Final = 127


def main(parent: int, status_fd: int, command: list[str]) -> NoReturn:
    """Run the command until it ends; its status, or the number of the error that kept it from starting, is told."""
    os.set_inheritable(status_fd, False)
    signal.signal(signal.SIGTERM, _end)
    waking, wake = os.pipe()
    os.set_blocking(wake, False)
    os.set_blocking(waking, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
    adopt_orphans()
    end_with_parent(signal.SIGTERM, parent=parent)
    pipes = [os.pipe() for _ in range(3)]
    keeper = os.getpid()
    child = os.fork()
    if child == 0:
        _become(command, keeper, status_fd, [pipes[0][0], pipes[1][1], pipes[2][1]])
    for fd in (pipes[0][0], pipes[1][1], pipes[2][1]):
        os.close(fd)
    passing = _Passing(pipes[0][1], {pipes[1][0]: 1, pipes[2][0]: 2}, waking)
    try:
        while (status := _reaped(child)) is None:
            passing.on()
        _kill_all()
        passing.last()
        os.write(status_fd, b"%d " % os.waitstatus_to_exitcode(status))
    finally:
        _kill_all()  # also where nobody listens any more
        os._exit(0)


def _become(command: list[str], keeper: int, status_fd: int, streams: list[int]) -> NoReturn:
    try:
        os.setsid()  # a command that signals its own group does not mean the keeper
        for number in (signal.SIGTERM, signal.SIGCHLD, signal.SIGPIPE, signal.SIGXFSZ):
            signal.signal(number, signal.SIG_DFL)
        end_with_parent(signal.SIGKILL, parent=keeper)
        for fd, stream in enumerate(streams):
            os.dup2(stream, fd)
        os.execvp(command[0], command)
    except OSError as error:
        os.write(status_fd, b"E%d " % (error.errno or 0))
    finally:
        os._exit(_CANNOT)


class _Passing:
    """What comes in goes to the command, what it writes goes out; never waits for the command to read."""

    def __init__(self, to_command: int, from_command: dict[int, int], waking: int) -> None:
        self._to = to_command
        self._from = from_command
        self._waking = waking
        self._waiting = b""
        self._has_input = True
        os.set_blocking(to_command, False)
        for fd in from_command:
            os.set_blocking(fd, False)

    def on(self) -> None:
        """Wait until there is something to pass on, or the command ends."""
        poll = select.poll()
        poll.register(self._waking, select.POLLIN)
        for fd in self._from:
            poll.register(fd, select.POLLIN)
        if self._waiting:
            poll.register(self._to, select.POLLOUT)
        elif self._has_input:
            poll.register(0, select.POLLIN)
        for fd, _ in poll.poll():
            if fd == self._waking:
                os.read(fd, _PIECE)
            elif fd == 0:
                self._take()
            elif fd == self._to:
                self._give()
            else:
                self._pass(fd)

    def last(self) -> None:
        """Pass on what the command has written and nobody has read yet."""
        for fd in list(self._from):
            for _ in range(_LAST_MAX):
                if not self._pass(fd):
                    break

    def _take(self) -> None:
        self._waiting = os.read(0, _PIECE)
        if not self._waiting:
            self._close()

    def _give(self) -> None:
        try:
            self._waiting = self._waiting[os.write(self._to, self._waiting) :]
        except BlockingIOError:
            return
        except BrokenPipeError:  # a command that answers without reading is no fault
            self._close()

    def _close(self) -> None:
        self._waiting, self._has_input = b"", False
        os.close(self._to)

    def _pass(self, fd: int) -> bool:
        """Pass a piece on; whether there was one."""
        try:
            piece = os.read(fd, _PIECE)
        except BlockingIOError:
            return False
        if not piece:
            out = self._from.pop(fd)
            os.close(fd)
            os.close(out)  # who listens hears that there is no more
        while piece:
            piece = piece[os.write(self._from[fd], piece) :]
        return fd in self._from


def _reaped(child: int) -> int | None:
    """The wait status of the command, once it has ended; orphans are reaped on the way."""
    found = None
    with contextlib.suppress(ChildProcessError):
        while True:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                break
            if pid == child:
                found = status
    return found


def _kill_all() -> None:
    """Kill everything that descends from here; one that is killed leaves its own to us."""
    last_s = time.monotonic() + _KILL_S
    while (found := descendants(os.getpid())) and time.monotonic() < last_s:
        killed = [pid for pid in found if _is_killed(pid)]
        if not killed:
            return
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        time.sleep(0.002)


def _is_killed(pid: int) -> bool:
    """Kill a process; False where it is another user's."""
    try:
        os.kill(pid, signal.SIGKILL)
    except PermissionError:
        return False
    except ProcessLookupError:
        pass
    return True


def _end(number: int, frame: FrameType | None) -> NoReturn:
    _kill_all()
    os._exit(128 + number)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3:])
