"""Another gateway of honed where a config has its own: on its address, or on its socket.

Asked over HTTP as anybody may, so a gateway tells there only an id of its folder; on its socket, which is its user's
alone, it tells the folder. `honed health` loads this module, so nothing large is imported.
"""

import http.client
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from honed.config import Config
from honed.domain.serving import folder_id

_LIMIT_S: Final = 2.0


@dataclass(frozen=True, slots=True)
class Neighbour:
    """A gateway that is not where the config expects its own, or is not its own."""

    found: str
    """What it is and where, as the second half of a sentence."""
    advice: str
    is_ours: bool = False
    """Whether it works on this config's folder."""


def on_address(config: Config) -> Neighbour | None:
    """The gateway that has the config's host and port, while nobody answers on its socket; None where none does."""
    host, port = config.serve.host, config.serve.port
    told = _health(host, port) if port else None
    if told is None:
        return None
    if told.get("gateway") == folder_id(config.llama_dir):
        return Neighbour(
            f"the gateway of this data_dir listens on {host}:{port} with another control socket",
            "it was started with another serve.socket or XDG_RUNTIME_DIR: use the same here, or restart it",
            is_ours=True,
        )
    names = ", ".join(sorted(told["scenarios"])) or "no scenario yet"
    return Neighbour(
        f"another honed gateway listens on {host}:{port} ({names})",
        "choose another serve.port; or stop that one; or share it: set serve.socket to its socket",
    )


def on_socket(config: Config, serving: dict[str, Any]) -> Neighbour | None:
    """Whose gateway gave this answer on the config's socket; None for its own, or a version that does not say."""
    folder = serving.get("folder")
    if folder is None or folder_id(Path(folder)) == folder_id(config.llama_dir):
        return None
    return Neighbour(
        f"the gateway on {config.serve_socket} is another config's: it works in {folder}, "
        f"on {serving.get('address')}",
        f"`honed run` adds {config.scenario} to it; for a gateway of its own, set serve.socket and serve.port",
    )


def _health(host: str, port: int) -> dict[str, Any] | None:
    """What a gateway of honed says of its health; None where nobody listens, or something else."""
    connection = http.client.HTTPConnection(host, port, timeout=_LIMIT_S)
    try:
        connection.request("GET", "/health", headers={"Host": "localhost"})
        told = json.loads(connection.getresponse().read(1 << 20))
    except (OSError, http.client.HTTPException, ValueError):
        return None
    finally:
        connection.close()
    is_gateway = isinstance(told, dict) and isinstance(told.get("scenarios"), dict)
    return told if is_gateway else None
