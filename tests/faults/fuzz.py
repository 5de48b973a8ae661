"""Broken bytes at every door of a real daemon: mutations of good events, requests and traces, by seed.

    FUZZ_SECONDS=600 SEED=3 python -m tests.faults.fuzz

prints how much was sent at each door, what the answers were, and how far the daemon's memory grew. It ends with an
error when the daemon crashes, does not answer or not as it should, logs a traceback, or does not take a good event
afterwards. `test_fuzz` runs the same.
"""

import contextlib
import gzip
import json
import os
import random
import select
import socket
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any, Final

from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans

from honed.client import HonedClient
from tests.faults.seeds import EVENTS, SPANS
from tests.feed_load import kept_of
from tests.feed_parts import action
from tests.processes import Honed, honed, resident_mib
from tests.unit.sources.otlp.test_traces import agent, weather

ANSWER_S: Final = 20
"""A door that has not answered by then hangs."""
SETTINGS: Final = (
    'scenario = "swarm"\ntrigger = "manual()"\nlog_level = "WARNING"\n[apply]\nkind = "none"\n'
    '[events]\nhttp = "127.0.0.1:0"\notlp = true\nline_max = "256KiB"\nepisode_idle = "1s"'
)
CODES: Final = {"invalid", "conflict", "too_long", "protocol"}
STATUSES: Final = {200, 400, 403, 404, 405, 411, 413, 415, 422, 429, 431, 501}
_TOKENS: Final = [
    *(b"[" * 2_000, b'{"a":' * 2_000, b'"' + b"\\u0000" * 50 + b'"', b"\xff\xfe", b"\x00", b"\n", b"\r\n"),
    *(b"1e400", b"-1", b"18446744073709551616", b"NaN", b"null", b"{}", b"[]", b"true", b'"\\ud800"'),
    *(b'"type":"outcome"', b'"event_id":"e"', b'"event_id":null', b'"hello"', b'"protocol":2', b"x" * 70_000),
]  # fmt: skip


def mutated(chance: random.Random, data: bytes) -> bytes:
    """The bytes with some of them changed, cut, doubled, swapped or stuffed with what parsers dislike."""
    found = bytearray(data)
    for _ in range(chance.choice((0, 1, 1, 2, 5, 20))):
        start = chance.randint(0, len(found))
        end = min(len(found), start + chance.choice((1, 1, 2, 8, 100)))
        match chance.randrange(6):
            case 0:
                found[start:end] = chance.randbytes(end - start)
            case 1:
                del found[start:end]
            case 2:
                found[start:start] = found[start:end]
            case 3:
                found[start:start] = chance.choice(_TOKENS)
            case 4:
                found[start:end] = chance.choice(_TOKENS)
            case _ if start < len(found):
                found[start] ^= 1 << chance.randrange(8)
    return bytes(found)


class Doors:
    """The doors of one daemon, each with its seeds and its own idea of an answer."""

    def __init__(self, feed: Path, http: str) -> None:
        self._feed = feed
        host, _, port = http.rpartition(":")
        self._http = (host, int(port))
        protobuf = encode_spans(agent(weather)).SerializeToString()
        spans = json.dumps(SPANS).encode()
        lines = b"\n".join(EVENTS)
        array = b"[" + b",".join(EVENTS) + b"]"
        self._requests = [
            ("/events", b"application/x-ndjson", lines),
            ("/events", b"application/json", array),
            ("/events", b"application/json", EVENTS[0]),
            ("/v1/traces", b"application/json", spans),
            ("/v1/traces", b"application/x-protobuf", protobuf),
        ]
        self.counts: Counter[str] = Counter()
        self.failures: list[str] = []

    def knock(self, chance: random.Random) -> None:
        """Send something at one of the doors and look at the answer."""
        at_door = chance.choice((self._at_feed, self._at_http, self._at_http))
        state = chance.getstate()
        try:
            at_door(chance)
        except Exception as error:  # whatever is wrong is a finding
            self.failures.append(f"{at_door.__name__}: {error!r} {hash(state)}")

    def _at_feed(self, chance: random.Random) -> None:
        lines = [mutated(chance, chance.choice(EVENTS)) for _ in range(chance.randint(1, 12))]
        with socket.socket(socket.AF_UNIX) as peer:
            peer.settimeout(ANSWER_S)
            peer.connect(str(self._feed))
            said = _conversation(peer, b"\n".join(lines) + b"\n" * chance.randint(0, 1), chance)
        for row in said.splitlines():
            reply = json.loads(row)
            kind = reply.get("code", reply["type"])
            assert kind in {"ack", "hello"} | CODES, reply
            self.counts[f"feed {kind}"] += 1

    def _at_http(self, chance: random.Random) -> None:
        path, kind, seed = chance.choice(self._requests)
        body = mutated(chance, seed)
        encoding = b""
        if chance.random() < 0.2:
            body = gzip.compress(body, 1)
            body = mutated(chance, body) if chance.random() < 0.5 else body
            encoding = b"content-encoding: gzip\r\n"
        length = (
            len(body) if chance.random() < 0.95 else chance.choice((0, 1, 10**9, len(body) - 1))
        )
        head = b"POST %s HTTP/1.1\r\nhost: localhost\r\ncontent-type: %s\r\n%scontent-length: %d\r\n" % (
            *(path.encode(), kind, encoding, length),
        )  # fmt: skip
        if chance.random() < 0.1:
            head = mutated(chance, head)
        with socket.create_connection(self._http, ANSWER_S) as peer:
            said = _conversation(
                peer, head + b"connection: close\r\n\r\n" + body, chance, patience_s=0.3
            )
        if not said:
            self.counts["http hung up"] += 1  # half a request
            return
        status = int(said.split(b" ", 2)[1])
        assert status in STATUSES, said[:500]
        self.counts[f"http {status}"] += 1


def _conversation(
    peer: socket.socket, data: bytes, chance: random.Random, *, patience_s: float = 0.0
) -> bytes:
    """Everything that is answered to the bytes, sent in one to three pieces; the other side has to end it.

    It is told that nothing more comes, at once or after it was silent for `patience_s`: uvicorn drops a request whose
    sender has closed his side.
    """
    cuts = sorted(chance.randint(0, len(data)) for _ in range(chance.choice((0, 0, 1, 2))))
    said = b""
    with contextlib.suppress(ConnectionError):
        for start, end in zip((0, *cuts), (*cuts, len(data)), strict=True):
            peer.sendall(data[start:end])
    with contextlib.suppress(OSError):
        if not patience_s or not select.select([peer], [], [], patience_s)[0]:
            peer.shutdown(socket.SHUT_WR)
    with contextlib.suppress(ConnectionError):
        while piece := peer.recv(1 << 16):
            said += piece
    return said


def fuzzed(folder: Path, *, seconds: float, seed: int, threads: int = 3) -> dict[str, Any]:
    """Fuzz a daemon in `folder`; the figures. Raises AssertionError when something is wrong."""
    with honed(folder, SETTINGS) as daemon:
        pid = daemon.start("run").pid
        doors = Doors(daemon.data_dir / "feed.sock", daemon.status()["sources"]["http"]["address"])
        sizes: list[float] = []
        deadline = time.monotonic() + seconds
        workers = [
            threading.Thread(target=_knock, args=(doors, random.Random(f"{seed}-{n}"), deadline))
            for n in range(threads)
        ]
        for worker in workers:
            worker.start()
        while time.monotonic() < deadline and daemon.running["run"].poll() is None:
            time.sleep(seconds / 20)
            with contextlib.suppress(OSError):
                sizes.append(resident_mib(pid))
        for worker in workers:
            worker.join(ANSWER_S * 3)
            assert not worker.is_alive(), "a door hangs"
        figures = {
            "seconds": seconds,
            "seed": seed,
            "sent": sum(doors.counts.values()),
            "answers": dict(sorted(doors.counts.items())),
            "stored": daemon.status()["records"],
            "rss_mib": [round(size, 1) for size in sizes],
            "failures": len(doors.failures),
        }
        sys.stdout.write(f"\nfuzz: {json.dumps(figures)}\n")
        _check(daemon, doors.failures)
    return figures


def _knock(doors: Doors, chance: random.Random, deadline: float) -> None:
    while time.monotonic() < deadline and len(doors.failures) < 20:
        doors.knock(chance)


def _check(daemon: Honed, failures: list[str]) -> None:
    assert failures == []
    assert daemon.running["run"].poll() is None, daemon.log_tail()
    with HonedClient(daemon.data_dir / "feed.sock") as client:
        acked = list(client.send(*[action() for _ in range(50)]).event_ids)
    assert "Traceback" not in (daemon.config.parent / "processes.log").read_text()
    assert daemon.stop("run") == 0
    kept = kept_of(daemon.data_dir / "honed.db", acked)
    assert (kept.num_lost, kept.num_doubled) == (0, 0)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory(prefix="honed-fuzz-") as name:
        fuzzed(
            Path(name),
            seconds=float(os.environ.get("FUZZ_SECONDS", "600")),
            seed=int(os.environ.get("SEED", "0")),
        )
