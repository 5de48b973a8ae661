"""What the gateway captured while the daemon was away: told, and found by whoever has data forgotten."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest

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
    """What a command prints on stdout."""
    done = subprocess.run(
        [sys.executable, "-m", "honed", *arguments, "--config", str(place.config)],
        capture_output=True,
        text=True,
        timeout=60,
        env=os.environ | {"COLUMNS": "200", "HONED__SERVE__SOCKET": str(place.serve_socket)},
    )
    assert done.returncode == status, done.stdout + done.stderr
    assert ("nobody listens" in done.stderr) == (status == 3)
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
        gateway = json.loads(cli(place, "status", "--json", status=3))
        assert gateway["gateway"]["scenarios"]["tiny"]["captured"]["spooled"] == 1


BOTH_ON_AND_OFF = [
    pytest.param("serve", id="gateway alone"),
    pytest.param("daemon", id="daemon alone", marks=pytest.mark.long),
    pytest.param("both", id="both", marks=pytest.mark.long),
    pytest.param("none", id="neither", marks=pytest.mark.long),
]


@pytest.mark.parametrize("running", BOTH_ON_AND_OFF)
def test_forgetting_reaches_what_waits_in_the_gateway(
    tmp_path: Path, tiny_gguf: Path, running: str
) -> None:
    """Whichever of the two runs; the attempt that the call is part of goes whole, and no byte of it is left."""
    with honed(tmp_path, SETTINGS.format(gguf=tiny_gguf)) as place:
        place.start("run")
        serve(place)
        place.until(lambda: registered(place), "the gateway knows the feed")
        chat(place, task="first", agent="one")
        chat(place, task="other")
        place.until(lambda: lane(place)["captured"]["sent"] == 2, "they are stored")
        assert place.stop("run") == 0
        chat(place, task="first", user="Xylophon")
        place.until(lambda: lane(place)["captured"]["spooled"] == 1, "it is on disk")
        assert b"Xylophon" in waiting(place)
        if running in ("daemon", "none"):
            assert place.stop("serve") == 0
        if running in ("daemon", "both"):
            place.start("run")
        whose = ("forget", "--user", "Xylophon", "--json")
        seen = json.loads(cli(place, *whose))
        assert (seen["records"], seen["done"], seen["unsearched"]) == (2, False, None)
        done = json.loads(cli(place, *whose, "--yes"))
        assert (done["records"], done["scrubbed"], done["unsearched"]) == (2, True, None)
        assert b"Xylophon" not in waiting(place)
        assert b"Xylophon" not in b"".join(
            each.read_bytes() for each in place.data_dir.glob("honed.db*")
        )


def registered(place: Honed) -> bool:
    """Whether the gateway knows where captured calls go."""
    found = json.loads((place.data_dir / "llama/serving.json").read_text())
    return bool(found["scenarios"].get("tiny", {}).get("feed_socket"))


def waiting(place: Honed) -> bytes:
    """All that is in the files of the gateway's spool."""
    found = (place.data_dir / "llama/spool").rglob("*")
    return b"".join(each.read_bytes() for each in found if each.is_file())
