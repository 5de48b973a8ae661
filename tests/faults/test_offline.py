"""No connection leaves the host: nothing is tried, and nothing needs it."""

import errno
import os
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

from honed.client import HonedClient
from tests.faults.offline import can_be_made
from tests.incidents import attempt, events
from tests.processes import ROOT, Honed, honed

AUDIT: Final = Path(__file__).parent / "audit"
OFFLINE: Final = ("unshare", "-rn", sys.executable, "-m", "tests.faults.offline")
SETTINGS: Final = """
scenario = "incidents"
base_model = "{base}"
trigger = "manual()"

[events]
settle = "0.1s"

[train]
max_steps = 2
threads = 1
min_rows = 1

[gate]
enabled = false

[serve]
port = 0
ctx_size = 256
threads = 1
"""


def watched(folder: Path) -> dict[str, str]:
    """The environment in which every Python process writes down what leaves the host.

    Without the switches that tests and developers may have set: the product must set its own.
    """
    path = os.pathsep.join(filter(None, (str(AUDIT), os.environ.get("PYTHONPATH"))))
    return {
        "OFFLINE_AUDIT": str(folder / "audit.log"),
        "PYTHONPATH": path,
        "HF_HUB_OFFLINE": "",
        "TRANSFORMERS_OFFLINE": "",
        "DO_NOT_TRACK": "",
    }


def audited(folder: Path) -> tuple[int, list[str]]:
    """How many processes were watched, and every attempt to leave the host."""
    lines = (folder / "audit.log").read_text().splitlines()
    attempts = [line for line in lines if not line.endswith(" watched")]
    return len(lines) - len(attempts), attempts


def _learn_once(loop: Honed) -> None:
    """Events in, one run, its adapter into service, one answer: each process does all that it can."""
    loop.until(lambda: loop.serving()["scenarios"]["incidents"]["is_serving"], "the base is served")
    with HonedClient(loop.data_dir / "feed.sock") as client:
        for number in range(40):
            client.send(*events(number, *attempt(number)))
    loop.until(lambda: loop.status()["episodes"] == 40, "all attempts are episodes")
    run_id = loop.ask("POST", "/v1/train-now", {})["run_id"]
    run = loop.until(lambda: loop.run(run_id), "it has trained")
    assert run["state"] == "done", run
    loop.ask("POST", "/v1/apply", {"model_id": "incidents@1", "force": True})
    assert loop.serving()["scenarios"]["incidents"]["model_id"] == "incidents@1"


def test_nothing_leaves_the_host(tmp_path: Path, tiny_base: Path) -> None:
    """Daemon, gateway and worker: no name is resolved and no foreign address connected to."""
    with honed(tmp_path, SETTINGS.format(base=tiny_base)) as loop:
        loop.start("up", variables=watched(tmp_path))
        _learn_once(loop)
        assert loop.stop("up") == 0, loop.log_tail()
    num_watched, attempts = audited(tmp_path)
    assert attempts == []
    assert num_watched >= 6  # up, daemon, gateway, two llama-servers, worker


def test_the_audit_sees_what_leaves(tmp_path: Path) -> None:
    """Names, addresses and datagrams are written down; this machine's own are not."""
    script = """
import contextlib, socket, urllib.request
for family, kind, address in (
    (socket.AF_INET, socket.SOCK_STREAM, ("192.0.2.1", 80)),
    (socket.AF_INET, socket.SOCK_STREAM, ("127.0.0.1", 1)),
    (socket.AF_UNIX, socket.SOCK_STREAM, "/nowhere"),
    (socket.AF_INET6, socket.SOCK_STREAM, ("::1", 1)),
):
    with socket.socket(family, kind) as each, contextlib.suppress(OSError):
        each.settimeout(0.01)
        each.connect(address)
with contextlib.suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as each:
    each.sendto(b"x", ("192.0.2.2", 53))
with contextlib.suppress(OSError):
    urllib.request.urlopen("http://name.invalid/", timeout=0.1)
"""
    subprocess.run(
        [sys.executable, "-c", script], env=os.environ | watched(tmp_path), check=True, timeout=30
    )
    _, attempts = audited(tmp_path)
    assert [line.split()[1] for line in attempts] == [
        "socket.connect",
        "socket.sendto",
        "socket.getaddrinfo",
    ]


@pytest.mark.skipif(not can_be_made(), reason="this user may not make a network namespace")
def test_nothing_needs_a_network(tmp_path: Path, tiny_base: Path) -> None:
    """With loopback alone the whole loop works; what would go elsewhere could not."""
    with honed(tmp_path, SETTINGS.format(base=tiny_base)) as loop:
        loop.start("up", before=(*OFFLINE, sys.executable, "-m", "honed"))
        _learn_once(loop)
        assert loop.stop("up") == 0, loop.log_tail()


@pytest.mark.long
@pytest.mark.timeout(1800)
@pytest.mark.skipif(not can_be_made(), reason="this user may not make a network namespace")
def test_the_demo_needs_no_network_and_asks_for_none(tmp_path: Path) -> None:
    """`honed demo` from beginning to end, watched, where only loopback exists."""
    output = tmp_path / "demo"
    done = subprocess.run(
        [*OFFLINE, sys.executable, "-m", "honed", "demo", "--folder", str(output), "--json"],
        env=os.environ | watched(tmp_path),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=1700,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    num_watched, attempts = audited(tmp_path)
    assert attempts == []
    assert num_watched >= 6


@pytest.mark.skipif(not can_be_made(), reason="this user may not make a network namespace")
def test_the_namespace_has_no_way_out() -> None:
    """Loopback is up, and an address beyond it cannot be reached."""
    script = (
        "import socket\n"
        "with socket.create_server(('127.0.0.1', 0)) as here:\n"
        "    socket.create_connection(here.getsockname(), 2).close()\n"
        "try:\n"
        "    socket.create_connection(('192.0.2.1', 80), 2)\n"
        "except OSError as error:\n"
        "    print(error.errno)\n"
    )
    done = subprocess.run(
        [*OFFLINE, sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True
    )
    assert done.stdout.strip() == str(errno.ENETUNREACH), done.stderr
