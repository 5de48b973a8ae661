"""`honed health`: whether a process of this config answers, for probes of containers and scripts.

A probe runs every few seconds, so neither typer nor httpx is loaded (0.2 s instead of 0.7 s of a core).
"""

import argparse
import http.client
import json
import socket
import sys
from pathlib import Path
from typing import Any, Final

from honed.config import Config, load_config
from honed.domain.serving import captured_problems
from honed.errors import ConfigError
from honed.machine import neighbours

EXIT_FAILED: Final = 1
EXIT_NOT_RUNNING: Final = 3
EXIT_CONFIG: Final = 78


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path, timeout_s: float) -> None:
        super().__init__("honed", timeout=timeout_s)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


def main(argv: list[str]) -> int:
    """Ask once; says in one line what was found.

    Returns:
        0 it answers, 1 it answers badly, is another config's that does not know the scenario, or (with --serving)
        does not serve yet, 3 nobody listens, 78 bad config.
    """
    parser = argparse.ArgumentParser(
        prog="honed health",
        description="Ask whether the daemon or the gateway answers, for probes.",
    )
    parser.add_argument("part", choices=("daemon", "gateway"), help="which of the two")
    parser.add_argument("--config", type=Path, help="TOML file (default: the usual places)")
    parser.add_argument(
        "--serving", action="store_true", help="the gateway must have a model in service, too"
    )
    parser.add_argument("--timeout", type=float, default=5.0, help="seconds (default 5)")
    arguments = parser.parse_args(argv)
    if arguments.serving and arguments.part == "daemon":
        parser.error("--serving is asked of the gateway")
    try:
        config = load_config(arguments.config)
    except ConfigError as error:
        return _say(EXIT_CONFIG, str(error))
    path, what = (
        (config.control_socket, "/v1/health")
        if arguments.part == "daemon"
        else (config.serve_socket, "/v1/serving")
    )
    try:
        answer = _ask(path, what, arguments.timeout)
    except (ConnectionRefusedError, FileNotFoundError):
        other = neighbours.on_address(config) if arguments.part == "gateway" else None
        told = f", but {other.found} ({other.advice})" if other else _start(arguments.part)
        return _say(EXIT_NOT_RUNNING, f"nobody listens on {path}{told}")
    except (OSError, http.client.HTTPException, ValueError) as error:
        return _say(EXIT_FAILED, f"{arguments.part} on {path}: {error!r}")
    if arguments.part == "gateway" and (reason := _of_another(config, answer)):
        return _say(EXIT_FAILED, reason)
    if arguments.serving and (reason := _not_serving(config, answer)):
        return _say(EXIT_FAILED, reason)
    sys.stdout.write(f"{arguments.part} answers\n")
    lane = answer.get("scenarios", {}).get(config.scenario, {})
    problems = captured_problems(lane.get("captured", {}))
    for suspicion in [*(answer.get("suspicions") or ()), *problems]:  # it answers all the same
        sys.stdout.write(f"suspicious: {suspicion}\n")
    return 0


def _ask(path: Path, what: str, timeout_s: float) -> Any:
    connection = _UnixConnection(path, timeout_s)
    try:
        connection.request("GET", what)
        response = connection.getresponse()
        body = response.read()
        if response.status != 200:
            raise http.client.HTTPException(f"status {response.status}")
        return json.loads(body)
    finally:
        connection.close()


def _start(part: str) -> str:
    return f" (start it with `honed up` or `honed {'run' if part == 'daemon' else 'serve'}`)"


def _of_another(config: Config, serving: dict[str, Any]) -> str | None:
    """Why the gateway that answers is none of this config's; one that serves its scenario too is."""
    other = neighbours.on_socket(config, serving)
    if other is None or config.scenario in serving.get("scenarios", {}):
        return None
    return f"{other.found}, and does not know {config.scenario} ({other.advice})"


def _not_serving(config: Config, serving: dict[str, Any]) -> str | None:
    lane = serving.get("scenarios", {}).get(config.scenario)
    if lane is None:
        return f"{config.scenario} is not registered with the gateway"
    return None if lane["is_serving"] else f"{config.scenario} is {lane['state']}: {lane['error']}"


def _say(status: int, text: str) -> int:
    sys.stderr.write(f"honed health: {text}\n")
    return status
