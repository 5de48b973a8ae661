"""Where an installation for the whole system keeps things: a config file in /etc/honed decides, and nothing else.

Daemon, gateway and command line read the same file but are started in different surroundings (a unit, another
unit, a shell), so no variable that only a unit has may move a socket: they would not find each other. The units in
`honed/systemd` make these folders.
"""

from pathlib import Path
from typing import Any, Final

SYSTEM_CONFIG: Final = Path("/etc/honed")
STATE: Final = Path("/var/lib/honed")
RUNTIME: Final = Path("/run/honed")
SERVE_SOCKET: Final = Path("/run/honed-serve/serve.sock")


def with_system_places(table: dict[str, Any], file: Path, scenario: str) -> dict[str, Any]:
    """The table of `file`, with the system's places where it names none; unchanged for a user's file."""
    if file.absolute().parent != SYSTEM_CONFIG:
        return table
    places = {"data_dir": STATE / scenario, "runtime_dir": RUNTIME / scenario} | table
    serve = table.get("serve", {})
    if isinstance(serve, dict):
        places["serve"] = {"socket": SERVE_SOCKET} | serve
    return places
