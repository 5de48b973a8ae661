"""`honed serve`: the gateway, from the config to a running process.

This and `daemon` are the only modules that name implementations. It outlives the daemons: their
restarts and upgrades interrupt no request. No training stack is loaded here, nor typer or rich.
"""

import argparse
import os
import signal
import socket
import sys
from collections.abc import Callable
from contextlib import AsyncExitStack
from importlib.util import find_spec
from pathlib import Path
from typing import Final

import anyio

from honed import log
from honed.config import Config, load_config
from honed.domain.serving import Registration
from honed.errors import ApplyError, ConfigError, HonedError, SourceError, TrainingError
from honed.gateway.control import control_app
from honed.gateway.gateway import Gateway
from honed.gateway.relay import Relay
from honed.listen import claim_unix_path, serving
from honed.processors.base_model import ensure_gguf

EXIT_CONFIG: Final = 78
_KEEP_ALIVE_S: Final = 75
_BACKLOG: Final = 2048


async def serve(
    config: Config,
    *,
    ready: Callable[[], None] | None = None,
    stop: anyio.Event | None = None,
) -> None:
    """Serve until `stop` is set, or for ever.

    Args:
        config: of the scenario whose base model is served even before a daemon registers.
        ready: called once requests are accepted; the lanes may still be starting.
        stop: what ends it: nothing more is accepted, requests in flight have `drain_timeout`,
            servers are ended.

    Raises:
        SourceError: the address or the socket is taken.
        ConfigError: the state file cannot be read, or the base model is not there.
        TrainingError: the base model cannot be converted to GGUF, and there is nothing else to
            serve.
    """
    section = config.serve
    gateway = Gateway(section, config.llama_dir)
    async with AsyncExitStack() as rooms:
        control = claim_unix_path(config.serve_socket)
        rooms.callback(config.serve_socket.unlink, missing_ok=True)
        listener = listen_on(section.host, section.port)
        rooms.callback(listener.close)
        gateway.address = address_of(listener)
        await rooms.enter_async_context(gateway.open())
        await rooms.enter_async_context(serving(control_app(gateway), control, drain_s=1))
        relay = Relay(gateway.lanes, max_body=section.max_body)
        drain_s = section.drain_timeout.total_seconds()
        await rooms.enter_async_context(
            serving(relay, listener, drain_s=drain_s, keep_alive_s=_KEEP_ALIVE_S)
        )
        logger = log.get(address=gateway.address)
        logger.info(log.GATEWAY_STARTED, pid=os.getpid(), control=str(config.serve_socket))
        if ready is not None:
            ready()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(_serve_own_base, gateway, config)
            await (stop or anyio.Event()).wait()
            tasks.cancel_scope.cancel()
    logger.info(log.GATEWAY_STOPPED)


async def _serve_own_base(gateway: Gateway, config: Config) -> None:
    """Make the lane of the config's own scenario, once its base model is there as GGUF."""
    if config.serve.base_model_path is None and config.base_model is None:
        return
    try:
        await gateway.register(config.scenario, Registration())  # so that its state can be seen
        path = await _base_gguf(config)
        await gateway.use_base(config.scenario, path)
    except (ApplyError, TrainingError) as error:
        if all(lane.base_gguf is None for lane in gateway.lanes.values()):
            raise
        log.get(scenario=config.scenario).error("base.failed", error=str(error))


async def _base_gguf(config: Config) -> Path:
    if config.serve.base_model_path is not None:
        path = config.serve.base_model_path.expanduser().absolute()
        if not path.is_file():
            raise ConfigError(f"serve.base_model_path {path} does not exist")
        return path
    assert config.base_model is not None
    return await ensure_gguf(config.base_model, config.llama_dir)


def listen_on(host: str, port: int) -> socket.socket:
    """A listening TCP socket; port 0 takes a free one.

    Raises:
        SourceError: the address is taken, or is not one of this machine.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, _, _, _, address = found[0]
        listener = socket.create_server(address[:2], family=family, backlog=_BACKLOG)
    except OSError as error:
        raise SourceError(
            f"cannot listen on {host}:{port}: {error.strerror}",
            advice="choose another serve.port, or 0 for a free one",
        ) from error
    listener.setblocking(False)
    return listener


def address_of(listener: socket.socket) -> str:
    """The address of a listening socket as `http://host:port`."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


async def serve_until_signalled(config: Config) -> None:
    """Serve; the first SIGTERM or SIGINT drains and ends, the second one ends at once."""
    stop = anyio.Event()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(_stop_on_signal, stop)
        await serve(config, stop=stop)
        tasks.cancel_scope.cancel()


async def _stop_on_signal(stop: anyio.Event) -> None:
    with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async for number in signals:
            if stop.is_set():
                # Every llama-server carries PDEATHSIG and the state file is replaced as a whole:
                # leaving is safe.
                os._exit(128 + number)
            stop.set()


def main(argv: list[str] | None = None) -> int:
    """`honed serve [--config FILE]`; returns the exit status."""
    parser = argparse.ArgumentParser(prog="honed serve", description="Run the gateway.")
    parser.add_argument("--config", type=Path, help="TOML file (default: the usual places)")
    arguments = parser.parse_args(argv)
    status = 0
    try:
        config = load_config(arguments.config)
        log.configure(level=config.log_level)
        uvloop = find_spec("uvloop") is not None
        anyio.run(serve_until_signalled, config, backend_options={"use_uvloop": uvloop})
    except* ConfigError as group:
        status = _report(group, EXIT_CONFIG)
    except* HonedError as group:
        status = _report(group, 1)
    return status


def _report(error: BaseException, status: int) -> int:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    advice = getattr(error, "advice", None)
    sys.stderr.write(f"honed serve: {error}{f' ({advice})' if advice else ''}\n")
    return status
