"""`honed serve` is told to stop while it is busy, by a real signal."""

import json
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from honed.client.spool import Spool
from tests.processes import Honed, honed

SETTINGS = """
scenario = "tiny"
[serve]
port = 0
base_model_path = "{gguf}"
ctx_size = 65536
parallel = 4
threads = 1
drain_timeout = "{drain}"
{more}
"""


def ask(address: str, max_tokens: int, *, stream: bool) -> httpx.Response | None:
    """The answer; None where the connection was cut in the middle of it."""
    body: dict[str, Any] = {
        "messages": [{"role": "user", "content": "hi"}],
        "ignore_eos": True,
        "max_tokens": max_tokens,
        "stream": stream,
    }
    try:
        return httpx.post(f"{address}/v1/chat/completions", json=body, timeout=60)
    except httpx.RemoteProtocolError:
        return None


def lane(gateway: Honed) -> dict[str, Any]:
    found: dict[str, Any] = gateway.serving()["scenarios"].get("tiny") or {}
    return found


def stop(gateway: Honed) -> None:
    """By SIGTERM; it is gone in good order and has logged nothing but events."""
    child = gateway.running.pop("serve")
    child.send_signal(signal.SIGTERM)
    assert child.wait(40) == 0
    assert {line[:1] for line in gateway.log_tail().splitlines()} == {"{"}


@pytest.mark.parametrize("stream", [True, False], ids=["streams", "whole"])
def test_gateway_that_stops_ends_what_takes_too_long(
    tmp_path: Path, tiny_gguf: Path, stream: bool
) -> None:
    """Clients are told, servers end, and what was captured with no daemon about is on disk."""
    settings = SETTINGS.format(gguf=tiny_gguf, drain="0.1s", more="")
    with honed(tmp_path, settings) as gateway, ThreadPoolExecutor(4) as clients:
        gateway.start("serve")
        gateway.until(lambda: lane(gateway).get("is_serving"), "it serves")
        address = gateway.serving()["address"]
        first = ask(address, 4, stream=False)
        assert first is not None
        assert first.status_code == 200
        asked = [clients.submit(ask, address, 60_000, stream=stream) for _ in range(4)]
        gateway.until(lambda: lane(gateway)["in_flight"] == 4, "it is busy")
        stop(gateway)
        answers = [each.result(60) for each in asked]
    for answer in answers:
        if stream and answer is None:
            continue  # it was ended within an event, or its client was not reading
        assert answer is not None
        last = answer.content.removesuffix(b"\n\n").rpartition(b"data: ")[2]
        assert json.loads(last)["error"]["code"] == "stopping"
        assert answer.status_code == (200 if stream and b"data: " in answer.content else 503)
    spool = Spool(tmp_path / "data/llama/spool/tiny", max_bytes=1 << 20)
    spool.look()
    assert spool.num_lines == 1
    spool.close()


def test_gateway_that_stops_keeps_nobody_waiting(tmp_path: Path, tiny_gguf: Path) -> None:
    """Requests that are held for a server that does not come up are told at once."""
    program = tmp_path / "llama-server"
    program.write_text("#!/bin/sh\nexec sleep 1000\n")
    program.chmod(0o700)
    more = f'llama_server = "{program}"'
    settings = SETTINGS.format(gguf=tiny_gguf, drain="600s", more=more)
    with honed(tmp_path, settings) as gateway, ThreadPoolExecutor(4) as clients:
        gateway.start("serve")
        address = gateway.serving()["address"]
        asked = [clients.submit(ask, address, 4, stream=each > 1) for each in range(4)]
        gateway.until(lambda: lane(gateway).get("held") == 4, "they wait")
        stop(gateway)
        answers = [each.result(60) for each in asked]
    assert None not in answers
    told = [each for each in answers if each is not None]
    assert [each.status_code for each in told] == [503] * 4
    assert {each.json()["error"]["code"] for each in told} == {"stopping"}
