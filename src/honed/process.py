"""What the long-lived processes share: arguments, signals, exit statuses.

`honed run` and `honed serve` start here, so no typer and no rich is imported.
"""

import argparse
import os
import signal
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Final

import anyio

from honed import log
from honed.config import Config, load_config
from honed.errors import ConfigError, HonedError

EXIT_CONFIG: Final = 78
"""Exit status for a config that cannot be used (sysexits EX_CONFIG); systemd does not restart on it."""

Body = Callable[[Config, anyio.Event], Awaitable[None]]
"""A process's life: open everything, wait for the event, close everything."""


def main(name: str, what: str, body: Body, argv: list[str] | None, **backend_options: Any) -> int:
    """Run `honed NAME [--config FILE]` until a signal; returns the exit status.

    The first SIGTERM or SIGINT sets the event, the second one ends the process at once with 128 + signal.
    """
    parser = argparse.ArgumentParser(prog=f"honed {name}", description=what)
    parser.add_argument("--config", type=Path, help="TOML file (default: the usual places)")
    arguments = parser.parse_args(argv)
    status = 0
    try:
        config = load_config(arguments.config)
        log.configure(level=config.log_level)
        anyio.run(_until_signalled, body, config, backend_options=backend_options)
    except* ConfigError as group:
        status = _report(name, group, EXIT_CONFIG)
    except* HonedError as group:
        status = _report(name, group, 1)
    return status


async def _until_signalled(body: Body, config: Config) -> None:
    stop = anyio.Event()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(_stop_on_signal, stop)
        await body(config, stop)
        tasks.cancel_scope.cancel()


async def _stop_on_signal(stop: anyio.Event) -> None:
    with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async for number in signals:
            if stop.is_set():
                # Leaving is safe: children carry PDEATHSIG, batches commit as a whole, files are replaced.
                os._exit(128 + number)
            stop.set()


def _report(name: str, error: BaseException, status: int) -> int:
    """One line on stderr for the first error inside `error`."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    advice = getattr(error, "advice", None)
    sys.stderr.write(f"honed {name}: {error}{f' ({advice})' if advice else ''}\n")
    return status
