"""`honed serve`: the gateway, from the config to a running process.

This and `daemon` are the only modules that name implementations. It outlives the daemons: their
restarts and upgrades interrupt no request. No training stack is loaded here, nor typer or rich.
"""

import os
import socket
from collections.abc import Callable
from contextlib import AsyncExitStack
from importlib.util import find_spec
from pathlib import Path
from typing import Final

import anyio

from honed import log, process
from honed.config import Config
from honed.domain.serving import Registration
from honed.errors import ApplyError, ConfigError, SourceError, TrainingError
from honed.gateway.control import control_app
from honed.gateway.gateway import Gateway
from honed.gateway.relay import Relay
from honed.listen import claim_unix_path, serving
from honed.processors.base_model import ensure_gguf

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
        relay = Relay(
            gateway.lanes, max_body=section.max_body, host=section.host, default=config.scenario
        )
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
        log.get(scenario=config.scenario).error(log.BASE_FAILED, error=str(error))


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


async def _serve_until(config: Config, stop: anyio.Event) -> None:
    await serve(config, stop=stop)


def main(argv: list[str] | None = None) -> int:
    """`honed serve [--config FILE]`; returns the exit status."""
    uvloop = find_spec("uvloop") is not None
    return process.main("serve", "Run the gateway.", _serve_until, argv, use_uvloop=uvloop)
