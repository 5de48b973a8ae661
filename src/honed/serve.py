"""`honed serve`: the gateway, from the config to a running process.

This and `daemon` are the only modules that name implementations. It outlives the daemons: their
restarts and upgrades interrupt no request. No training stack is loaded here, nor typer or rich.
"""

import os
import socket
from collections.abc import Callable
from contextlib import AsyncExitStack
from functools import partial
from importlib.util import find_spec
from typing import Final

import anyio

from honed import log, process
from honed.activation import passed_unix
from honed.config import Config, ServeSection, read_server_key
from honed.config.values import is_loopback
from honed.domain.serving import Registration, folder_id
from honed.errors import ApplyError, ConfigError, ParityError, TrainingError
from honed.gateway.control import control_app
from honed.gateway.gateway import Gateway
from honed.gateway.keys import ApiKeys
from honed.gateway.relay import Limits, Relay
from honed.gateway.upstream import Address, UpstreamError, fetch
from honed.listen import (
    GATEWAY_RUNS,
    allow_files,
    claim_unix_path,
    listen_on,
    serving,
    told_the_end,
)
from honed.notify import Supervisor
from honed.process import Surroundings, only_one
from honed.processors.base_model import ensure_base

_KEEP_ALIVE_S: Final = 75
_FAREWELL_S: Final = 0.5
"""Longer than a busy client leaves a connection idle."""
_STATUS_EVERY_S: Final = 5.0
_OWN_FILES: Final = 512
"""Open files beside those of requests: servers, feeds, logs, and connections that wait for their next request."""
_SOCKETS: Final = {"http": (socket.AF_INET, socket.AF_INET6), "serve": (socket.AF_UNIX,)}
"""What a supervisor may pass."""


async def serve(
    config: Config,
    *,
    ready: Callable[[], None] | None = None,
    stop: anyio.Event | None = None,
    surroundings: Surroundings | None = None,
) -> None:
    """Serve until `stop` is set, or for ever.

    Args:
        config: of the scenario whose base model is served even before a daemon registers.
        ready: called once requests are accepted; the lanes may still be starting.
        stop: what ends it: nothing more is accepted, requests in flight have `drain_timeout`,
            servers are ended. Default: that of the surroundings.
        surroundings: who watches this process, and what sockets it was given. It is told `READY`
            when requests are accepted, not when models are loaded: that may take minutes, and what
            comes meanwhile waits or is told to come back.

    Raises:
        SourceError: the address or the socket cannot be used.
        ConfigError: another gateway runs on this folder, address or socket; the state file, the
            keys of clients or that of the operator's server cannot be read, or the base model is
            not there.
        TrainingError: the base model cannot be converted to GGUF, and there is nothing else to
            serve.
    """
    if config.own_server is not None:
        raise ConfigError(
            f"apply.kind is {config.own_server}: adapters go into a server that you run, and the gateway has no part",
            advice="`honed run` is all that is needed; docs/servers.md",
        )
    section, around = config.serve, surroundings or Surroundings()
    keys = ApiKeys.load(section.api_keys)
    if section.external_url is not None:
        read_server_key()  # one that cannot be read is told at once
    gateway = Gateway(section, config.llama_dir)
    async with AsyncExitStack() as rooms:
        rooms.enter_context(
            only_one(config.llama_dir / "gateway.lock", key="data_dir", what="gateway")
        )
        control = passed_unix(around.sockets.get("serve"), config.serve_socket)
        if control is None:
            control = claim_unix_path(config.serve_socket, advice=GATEWAY_RUNS)
            rooms.callback(config.serve_socket.unlink, missing_ok=True)
        passed = around.sockets.get("http")
        host = passed.getsockname()[0] if passed else section.host
        listener = passed or listen_on(host, section.port)
        rooms.callback(listener.close)
        gateway.address = address_of(listener)
        await rooms.enter_async_context(gateway.open())
        await rooms.enter_async_context(
            serving(told_the_end(control_app(gateway)), control, drain_s=1)
        )
        listeners = [listener, *_agents_socket(section, rooms)]
        relay = Relay(
            gateway.lanes,
            max_body=section.max_body,
            limits=limits_of(section),
            keys=keys,
            host=host,
            default=config.scenario,
            gateway_id=folder_id(config.llama_dir),
        )
        drain_s = section.drain_timeout.total_seconds()
        await rooms.enter_async_context(
            serving(
                relay,
                *listeners,
                drain_s=drain_s,
                keep_alive_s=_KEEP_ALIVE_S,
                farewell_s=_FAREWELL_S,
            )
        )
        logger = log.get(address=gateway.address)
        logger.info(log.GATEWAY_STARTED, pid=os.getpid(), control=str(config.serve_socket))
        if keys is None and not is_loopback(host):
            logger.warning(
                log.GATEWAY_OPEN, advice="name keys in serve.api_keys, or listen on 127.0.0.1"
            )
        if ready is not None:
            ready()
        around.supervisor.ready()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(_serve_own_base, gateway, config)
            if around.supervisor.listens:
                alive = {"address": partial(_answers, gateway.address)}
                tasks.start_soon(around.supervisor.watch, alive)
                tasks.start_soon(_tell_status, gateway, around.supervisor)
            await (stop or around.stop).wait()
            gateway.turn_away()
            tasks.cancel_scope.cancel()
    logger.info(log.GATEWAY_STOPPED)


def _agents_socket(section: ServeSection, rooms: AsyncExitStack) -> list[socket.socket]:
    """The unix socket beside the address, where the config names one."""
    if section.http_socket is None:
        return []
    path = section.http_socket.expanduser()
    claimed = claim_unix_path(path, mode=int(section.http_socket_mode, 8), advice=GATEWAY_RUNS)
    rooms.callback(path.unlink, missing_ok=True)
    return [claimed]


def limits_of(section: ServeSection) -> Limits:
    """What requests may take, as the operator says and as there are files for; allows this process as many."""
    return Limits(
        max_requests=_max_requests(section.max_requests),
        request_s=section.request_timeout.total_seconds() or None,
        first_byte_s=section.first_byte_timeout.total_seconds() or None,
    )


def _max_requests(wanted: int) -> int:
    """As many as there are files for: each takes a connection of its client's and one to a server."""
    files = allow_files(2 * wanted + _OWN_FILES)
    allowed = max(1, max(files - _OWN_FILES, files // 2) // 2)
    if allowed >= wanted:
        return wanted
    log.get(max_requests=allowed).warning(
        log.GATEWAY_FEW_FILES, advice="raise the limit of open files (ulimit -Hn, LimitNOFILE=)"
    )
    return allowed


async def _answers(address: str) -> None:
    """Ask for the gateway's health over its own address; raises UpstreamError when it does not answer."""
    # the watchdog's own limit comes first
    status, _ = await fetch(Address.parse(address), "GET", "/health", timeout_s=600)
    if status >= 500:  # below: it answers, and may not like the name that `fetch` calls it by
        raise UpstreamError(f"{address}/health answered with {status}")


async def _tell_status(gateway: Gateway, supervisor: Supervisor) -> None:
    """Keep the supervisor's one line about this gateway up to date."""
    while True:
        lanes = gateway.serving().scenarios
        told = [
            f"{name} {'parked' if lane.is_parked else lane.state} ({lane.model_id or 'base'})"
            for name, lane in lanes.items()
        ]
        supervisor.status(f"{gateway.address}: {', '.join(told) or 'no scenario yet'}")
        await anyio.sleep(_STATUS_EVERY_S)


async def _serve_own_base(gateway: Gateway, config: Config) -> None:
    """Make the lane of the config's own scenario, once its base model is there as GGUF."""
    is_named = config.serve.base_model_path is not None or config.base_model is not None
    if config.serve.lora_server or not is_named:  # such a server has its base, and not as GGUF
        if config.serve.external_url is not None:
            await gateway.register(config.scenario, Registration())
        return
    try:
        await gateway.register(config.scenario, Registration())  # so that its state can be seen
        _see_named(config)
        named = config.serve.base_model_path
        with gateway.lanes[config.scenario].preparing():
            base = await ensure_base(config.base_model, config.llama_dir, gguf=named)
            await gateway.use_base(config.scenario, base.gguf, base.facts)
    except ParityError as error:
        # What is served already goes on; it was compared when it was put into service.
        await gateway.refuse_base(config.scenario, str(error))
        log.get(scenario=config.scenario).error(
            log.BASE_FAILED, error=str(error), advice=error.advice
        )
    except (ApplyError, TrainingError) as error:
        if all(lane.base_gguf is None for lane in gateway.lanes.values()):
            raise
        log.get(scenario=config.scenario).error(log.BASE_FAILED, error=str(error))


def _see_named(config: Config) -> None:
    """See that the GGUF that the config names is there."""
    named = config.serve.base_model_path
    if named is not None and not named.expanduser().is_file():
        raise ConfigError(f"serve.base_model_path {named.expanduser().absolute()} does not exist")


def address_of(listener: socket.socket) -> str:
    """The address of a listening socket as `http://host:port`."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


async def _serve_until_told(config: Config, surroundings: Surroundings) -> None:
    await serve(config, surroundings=surroundings)


def main(argv: list[str] | None = None) -> int:
    """`honed serve [--config FILE]`; returns the exit status."""
    uvloop = find_spec("uvloop") is not None
    return process.main(
        "serve", "Run the gateway.", _serve_until_told, argv, sockets=_SOCKETS, use_uvloop=uvloop
    )
