"""What the long-lived processes share: arguments, signals, supervisor, exit statuses.

`honed run` and `honed serve` start here, so no typer and no rich is imported.
"""

import argparse
import contextlib
import faulthandler
import fcntl
import gc
import os
import signal
import socket
import sys
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import IO, Any, Final

import anyio
from anyio.abc import TaskStatus
from anyio.streams.memory import MemoryObjectSendStream

from honed import log
from honed.activation import Families, passed_sockets
from honed.config import Config, load_config
from honed.errors import ConfigError, HonedError
from honed.notify import Supervisor

EXIT_CONFIG: Final = 78
"""Exit status for a config that cannot be used (sysexits EX_CONFIG); systemd does not restart on it."""

START_LIMIT_S: Final = 600.0
"""How long a start may take with the supervisor's patience: a large store is migrated."""
_COLLECT_AFTER: Final = 10_000
"""Containers made and not freed, after which the young ones are looked through: about those of a batch of events."""
STOP_SLACK_S: Final = 60.0
"""What a stop may take beyond the times that the config names."""


@dataclass(frozen=True)
class Surroundings:
    """What a process has besides its config: how it is told to stop, who watches it, what it was given."""

    stop: anyio.Event = field(default_factory=anyio.Event)
    supervisor: Supervisor = field(default_factory=Supervisor)
    sockets: Mapping[str, socket.socket] = field(default_factory=dict)
    """Listening sockets that stay the supervisor's, by name."""
    reread: Callable[[], Config] | None = None
    """Reads the config anew, from where it was read; raises ConfigError. None where it came from no file."""
    hangups: AsyncIterable[None] | None = None
    """The wishes, by SIGHUP, that the config be read anew; those that come while one is heard are one."""


Body = Callable[[Config, Surroundings], Awaitable[None]]
"""A process's life: open everything, wait for `stop`, close everything."""


def main(
    name: str,
    what: str,
    body: Body,
    argv: list[str] | None,
    *,
    sockets: Families,
    reloads: bool = False,
    **backend_options: Any,
) -> int:
    """Run `honed NAME [--config FILE]` until a signal; returns the exit status.

    The first SIGTERM or SIGINT sets `stop`, the second one ends the process at once with 128 + signal. SIGHUP is a
    wish to `reload`, unless it says that the process's terminal is gone: then it stops, too. Under `nohup` it is
    nothing.

    Args:
        name: of the command.
        what: the command does.
        body: the process's life.
        argv: arguments; None means the command line's.
        sockets: those that a supervisor may pass.
        reloads: whether the body can take a changed config.
        backend_options: of the event loop.
    """
    parser = argparse.ArgumentParser(prog=f"honed {name}", description=what)
    parser.add_argument("--config", type=Path, help="TOML file (default: the usual places)")
    arguments = parser.parse_args(argv)
    hears_hangups = reloads and signal.getsignal(signal.SIGHUP) != signal.SIG_IGN
    if hears_hangups:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)  # until somebody listens
    _keep_descriptors()
    _collect_seldom()
    faulthandler.enable()  # a watchdog ends a hung process by SIGABRT: its log then says where it hung
    supervisor = Supervisor.from_environment()
    status = 0
    try:
        passed = passed_sockets(sockets)
        config = load_config(arguments.config)
        log.configure(level=config.log_level)
        surroundings = partial(
            Surroundings,
            supervisor=supervisor,
            sockets=passed,
            reread=partial(load_config, arguments.config),
        )
        anyio.run(
            _until_signalled,
            body,
            config,
            surroundings,
            hears_hangups,
            backend_options=backend_options,
        )
    except* ConfigError as group:
        status = _report(name, group, EXIT_CONFIG)
    except* HonedError as group:
        status = _report(name, group, 1)
    return status


def _collect_seldom() -> None:
    """Leave what was imported to itself, and look for cycles among the rest less often.

    Events and requests make containers by the thousand and hardly a cycle. Measured: collecting took a fifth of the
    processor time of an event, most of it in walks over the modules, which never go.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(_COLLECT_AFTER, 10, 10)


def _keep_descriptors() -> None:
    """Let no child inherit what this process was given; uvloop would pass on all that exec leaves open."""
    for fd in [int(each.name) for each in Path("/proc/self/fd").iterdir()]:
        if fd > 2:
            with contextlib.suppress(OSError):  # that of the listing
                os.set_inheritable(fd, False)


async def _until_signalled(
    body: Body, config: Config, made: Callable[..., Surroundings], hears_hangups: bool
) -> None:
    tell, hangups = anyio.create_memory_object_stream[None](1)
    surroundings = made(stop=anyio.Event(), hangups=hangups if hears_hangups else None)
    stop, supervisor = surroundings.stop, surroundings.supervisor
    async with tell, hangups, anyio.create_task_group() as tasks:
        tasks.start_soon(_stop_on_signal, stop)
        if hears_hangups:
            await tasks.start(_tell_hangups, tell, stop)
        if supervisor.listens:
            tasks.start_soon(supervisor.lengthen_start, START_LIMIT_S)
            tasks.start_soon(supervisor.lengthen_stop, stop, stop_limit_s(config))
        await body(config, surroundings)
        tasks.cancel_scope.cancel()


def stop_limit_s(config: Config) -> float:
    """How long an orderly stop may take: a worker ends, or a switch that has begun is finished and requests drain."""
    serve = config.serve
    parts = (config.train.stop_grace, serve.startup_timeout, serve.drain_timeout)
    return sum(part.total_seconds() for part in parts) + STOP_SLACK_S


async def _stop_on_signal(stop: anyio.Event) -> None:
    with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async for number in signals:
            if stop.is_set():
                # Leaving is safe: children carry PDEATHSIG, batches commit as a whole, files are replaced.
                os._exit(128 + number)
            stop.set()


async def _tell_hangups(
    tell: MemoryObjectSendStream[None], stop: anyio.Event, *, task_status: TaskStatus[None]
) -> None:
    had_terminal = _has_terminal()
    with anyio.open_signal_receiver(signal.SIGHUP) as signals:
        task_status.started()
        async for _ in signals:
            if had_terminal and not _has_terminal():
                stop.set()  # whoever closes the terminal wants the process to end
            else:
                with contextlib.suppress(anyio.WouldBlock):
                    tell.send_nowait(None)


def _has_terminal() -> bool:
    return any(os.isatty(fd) for fd in range(3))


def _report(name: str, error: BaseException, status: int) -> int:
    """One line on stderr for the first error inside `error`."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    advice = getattr(error, "advice", None)
    sys.stderr.write(f"honed {name}: {error}{f' ({advice})' if advice else ''}\n")
    return status


@contextlib.asynccontextmanager
async def running(service: Callable[..., Any]) -> AsyncIterator[None]:
    """Run a service (a coroutine function) beside the body; cancelled and awaited when the body ends."""
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(service)
        yield
        tasks.cancel_scope.cancel()


@contextlib.contextmanager
def only_one(lock: Path, *, key: str, what: str) -> Iterator[None]:
    """Hold a lock file; the kernel gives it back however the process ends.

    Args:
        lock: the file; its folder is made with mode 0700.
        key: of the config that names the folder, for the error.
        what: may be there once.

    Raises:
        ConfigError: another process holds it, or the folder cannot be written.
    """
    held: IO[str] | None = None
    try:
        lock.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        held = lock.open("a+")
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        assert held is not None
        held.close()
        raise ConfigError(
            f"another {what} runs on {lock.parent}", advice=f"stop it, or choose another {key}"
        ) from error
    except OSError as error:
        raise ConfigError(f"{key} {lock.parent} cannot be used: {error.strerror}") from error
    with held:
        yield


def resident_mb() -> float:
    """Resident memory of this process in MiB (`VmRSS` of /proc/self/status)."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    return 0.0
