"""How commands reach what they need: config, a running daemon over its socket, or the store alone."""

import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Annotated, Any, NoReturn, TypeVar
from urllib.parse import quote

import anyio
import httpx
import msgspec
import typer

from honed.cli.printing import say
from honed.client import FeedError
from honed.config import Config, load_config
from honed.errors import BusyError, ConfigError, ControlError, HonedError, NotFoundError
from honed.stores import SqlStore, open_store
from honed.stores.files import parse_url
from honed.stores.postgres.look import look
from honed.stores.postgres.server import Server

T = TypeVar("T")

EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_NOT_RUNNING = 3
EXIT_CONFIG = 78

ConfigFile = Annotated[
    Path | None, typer.Option("--config", help="TOML file (default: the usual places).")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]


class NotRunningError(ControlError):
    """Nobody listens on the socket."""


def config_from(path: Path | None) -> Config:
    """The config, or an exit with status 78."""
    try:
        return load_config(path)
    except ConfigError as error:
        leave(error, EXIT_CONFIG)


def leave(error: HonedError, status: int = EXIT_FAILED) -> NoReturn:
    """One line on stderr, and an exit."""
    if isinstance(error, NotRunningError):
        status = EXIT_NOT_RUNNING
    advice = f" ({error.advice})" if error.advice else ""
    say(f"honed: {error}{advice}", err=True)
    raise typer.Exit(status)


def print_json(value: Any) -> None:
    """The value as JSON on stdout."""
    sys.stdout.write(msgspec.json.format(msgspec.json.encode(value), indent=2).decode() + "\n")


def ask_daemon(config: Config, method: str, path: str, body: Any = None) -> Any:
    """One request to the daemon's control API; exits with a message when it fails."""
    try:
        return _ask(config.control_socket, method, path, body)
    except HonedError as error:
        leave(error)


def ask_unless_busy(config: Config, method: str, path: str, body: Any = None) -> Any | None:
    """As `ask_daemon`, but None while a run is in the way of what is asked for."""
    try:
        return _ask(config.control_socket, method, path, body)
    except BusyError:
        return None
    except HonedError as error:
        leave(error)


def ask_if_running(config: Config, path: str) -> Any | None:
    """What a running daemon tells; None when none runs."""
    try:
        return _ask(config.control_socket, "GET", path, None)
    except NotRunningError:
        return None
    except HonedError as error:
        leave(error)


def daemon_answers(config: Config) -> bool:
    """Whether a daemon runs on this data folder."""
    try:
        _ask(config.control_socket, "GET", "/v1/status", None)
    except NotRunningError:
        return False
    return True


def ask_gateway(config: Config) -> dict[str, Any] | None:
    """What the gateway serves; None when it does not run."""
    try:
        answer: dict[str, Any] = _ask(config.serve_socket, "GET", "/v1/serving", None)
    except NotRunningError:
        return None
    return answer


def ask_server(config: Config) -> dict[str, Any] | None:
    """How the llama-server is doing that answers the scenario; None when none does, or the gateway does not tell."""
    path = f"/v1/scenarios/{quote(config.scenario, safe='')}/server"
    try:
        answer: dict[str, Any] = _ask(config.serve_socket, "GET", path, None)
    except ControlError:
        return None
    return answer


def _ask(socket: Path, method: str, path: str, body: Any) -> Any:
    content = None if body is None else msgspec.json.encode(body)
    try:
        with httpx.Client(
            transport=httpx.HTTPTransport(verify=False, uds=str(socket)), timeout=300
        ) as client:
            response = client.request(method, f"http://honed{path}", content=content)
    except httpx.ConnectError:
        raise NotRunningError(
            f"nobody listens on {socket}",
            advice="start the daemon: `honed up`, or `honed run` without a gateway",
        ) from None
    except httpx.HTTPError as error:
        raise ControlError(f"{method} {path} on {socket} failed: {error!r}") from error
    try:
        answer = msgspec.json.decode(response.content)
    except msgspec.DecodeError as error:
        raise ControlError(
            f"{method} {path} on {socket} answered with {response.status_code}"
        ) from error
    if response.is_error:
        kind = BusyError if answer.get("code") == "BUSY" else ControlError
        raise kind(answer["message"], advice=answer.get("advice"))
    return answer


def run_async(work: Callable[..., Coroutine[Any, Any, T]], *arguments: Any) -> T:
    """Run the coroutine function; an error of honed or of its client leaves with a message."""
    try:
        return anyio.run(work, *arguments)
    except Exception as error:
        first: BaseException = error
        while isinstance(first, BaseExceptionGroup):
            first = first.exceptions[0]
        if isinstance(first, HonedError):
            leave(first)
        if isinstance(first, FeedError):
            advice = "; ".join(getattr(first, "__notes__", ()))
            leave(HonedError(str(first), advice=advice or None))
        raise


def with_store(
    config: Config, read: Callable[[SqlStore], Coroutine[Any, Any, T]], *, alone: bool = False
) -> T:
    """Open the store, read, close it; works beside a running daemon. Reading makes no store.

    With `alone` a daemon elsewhere that works on a server's store is in the way.
    """
    path = config.data_dir / "honed.db"
    if config.database.endswith(quote(str(path))) and not path.exists():
        advice = "the first `honed up`, `run` or `import` makes it; or is data_dir another one?"
        leave(NotFoundError(f"nothing is stored at {path}", advice=advice))

    async def opened() -> T:
        place = parse_url(config.database)
        if isinstance(place, Server) and (await look(place)).schema is None:
            advice = (
                "the first `honed up`, `run` or `import` makes it; or is `database` another one?"
            )
            raise NotFoundError(f"nothing is stored at {place.shown}", advice=advice)
        async with open_store(
            config.database, alone=alone, composition=config.rewards.composition()
        ) as store:
            return await read(store)

    try:
        return anyio.run(opened)
    except HonedError as error:
        leave(error)
