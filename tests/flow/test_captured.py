"""What the gateway captured while the daemon was away: told, and found by whoever has data forgotten."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx

from tests.processes import Honed, honed

SETTINGS = """
scenario = "tiny"
trigger = "manual()"
[serve]
port = 0
base_model_path = "{gguf}"
ctx_size = 256
parallel = 2
threads = 1
[events]
settle = "0s"
"""


def cli(place: Honed, *arguments: str, status: int = 0) -> str:
    """What a command prints, errors too."""
    done = subprocess.run(
        [sys.executable, "-m", "honed", *arguments, "--config", str(place.config)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=60,
        env=os.environ | {"COLUMNS": "200", "HONED__SERVE__SOCKET": str(place.serve_socket)},
    )
    assert done.returncode == status, done.stdout
    return done.stdout


def lane(place: Honed) -> dict[str, Any]:
    found: dict[str, Any] = place.serving()["scenarios"].get("tiny") or {}
    return found


def chat(place: Honed, **labels: str) -> None:
    """One call through the gateway, captured when this returns."""
    before = sum(lane(place)["captured"][each] for each in ("queued", "spooled", "sent"))
    body = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 2}
    headers = {f"x-honed-{name}": value for name, value in labels.items()}
    url = f"{place.serving()['address']}/v1/chat/completions"
    assert httpx.post(url, json=body, headers=headers, timeout=30).status_code == 200
    place.until(
        lambda: (
            sum(lane(place)["captured"][each] for each in ("queued", "spooled", "sent")) > before
        ),
        "it is captured",
    )


def serve(place: Honed) -> None:
    place.start("serve")
    place.until(lambda: lane(place).get("is_serving"), "it serves")


def test_what_waits_is_told_while_the_daemon_is_away(tmp_path: Path, tiny_gguf: Path) -> None:
    """By `honed status`, whose exit status says that the daemon is not there, as text and as JSON."""
    with honed(tmp_path, SETTINGS.format(gguf=tiny_gguf)) as place:
        serve(place)
        chat(place)
        place.until(lambda: lane(place)["captured"]["spooled"] == 1, "it is on disk")
        told = cli(place, "status", status=3)
        assert "captured    on disk until the daemon has them: 1, 0.0 MB, since 20" in told
        assert "nobody listens" in told
        gateway = json.loads(cli(place, "status", "--json", status=3).partition("honed:")[0])
        assert gateway["gateway"]["scenarios"]["tiny"]["captured"]["spooled"] == 1
        assert cli(place, "health", "gateway") == "gateway answers\n"
