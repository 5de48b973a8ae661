"""Events over HTTP, through a real socket."""

import asyncio
import gzip
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import NamedTuple

import anyio
import httpx
import pytest

from honed.errors import ConfigError
from honed.serve import address_of, listen_on
from honed.sources import http as http_module
from honed.sources.http import AT_A_TIME, BODY_MAX, EVENTS_MAX, HttpSource
from tests.feed_parts import Intake, action, call, line, open_intake, success

pytestmark = pytest.mark.anyio


class Web(NamedTuple):
    intake: Intake
    source: HttpSource
    client: httpx.AsyncClient

    async def post(self, body: bytes, **headers: str) -> httpx.Response:
        kind = headers.pop("kind", "application/json")
        told = {"content-type": kind} | {k.replace("_", "-"): v for k, v in headers.items()}
        return await self.client.post("/events", content=body, headers=told)


@pytest.fixture
async def web(tmp_path: Path) -> AsyncIterator[Web]:
    async with open_web(tmp_path) as opened:
        yield opened


@asynccontextmanager
async def open_web(
    folder: Path, *, token: str | None = None, line_max: int = 1 << 20
) -> AsyncIterator[Web]:
    listener = listen_on("127.0.0.1", 0)
    address = address_of(listener)
    async with open_intake(folder / "honed.db") as intake:
        source = HttpSource(listener, intake.sink, line_max=line_max, token=token)
        async with source.open(), httpx.AsyncClient(base_url=address, trust_env=False) as client:
            yield Web(intake, source, client)


async def test_an_array_and_lines_give_the_same_episodes(web: Web) -> None:
    """Each is stored as its own bytes; sent again in the other form it is known."""
    events = [call(task_id="t1"), success(task_id="t1")]
    bodies = [b"[" + b",".join(map(line, events)) + b"]", b"\n".join(map(line, events)) + b"\n\n"]
    first = await web.post(bodies[0])
    assert (first.status_code, first.json()) == (
        200,
        {"accepted": 2, "duplicates": 0, "rejected": []},
    )
    again = await web.post(bodies[1], kind="application/x-ndjson; charset=utf-8")
    assert again.json() == {"accepted": 0, "duplicates": 2, "rejected": []}
    one = await web.post(line(action(task_id="t9")))
    assert one.json()["accepted"] == 1
    with anyio.fail_after(60):
        made = await web.intake.episodes.receive()
    assert [record.event_id for record in made.records] == [e["event_id"] for e in events]


async def test_packed_events_are_unpacked(web: Web) -> None:
    """gzip, which agents' exporters use; what is no gzip, or half of one, is refused."""
    body = gzip.compress(line(action()))
    assert (await web.post(body, content_encoding="gzip")).json()["accepted"] == 1
    for broken in (b"no gzip", body[:-5], body + body):
        refused = await web.post(broken, content_encoding="gzip")
        assert (refused.status_code, refused.json()["code"]) == (422, "INVALID_INPUT")
    assert (await web.post(body, content_encoding="br")).status_code == 415


async def test_good_events_are_kept_beside_bad_ones(web: Web) -> None:
    """With index, code, path and message; 422 only when none is good."""
    bad = action(tick="soon")
    known = action(event_id="e1")
    await web.post(line(known))
    rows = [action(), bad, {**known, "action": "jump"}, action()]
    answer = await web.post(json.dumps(rows).encode())
    assert answer.status_code == 200
    said = answer.json()
    assert said["accepted"] == 2
    assert [(r["index"], r["code"], r["path"]) for r in said["rejected"]] == [
        (1, "invalid", "$.tick"),
        (2, "conflict", "$.event_id"),
    ]
    none_good = await web.post(json.dumps([bad]).encode())
    assert none_good.status_code == 422
    assert "tick" in none_good.json()["message"]
    lines = await web.post(b'{"type": "acti\n' + line(action()), kind="application/x-ndjson")
    assert (lines.json()["accepted"], lines.json()["rejected"][0]["index"]) == (1, 0)


async def test_what_is_no_events_is_refused_with_advice(web: Web) -> None:
    """Nothing of it is stored."""
    lines = line(action()) + b"\n" + line(action())
    refused = await web.post(lines)
    assert refused.status_code == 422
    assert "application/x-ndjson" in refused.json()["advice"]
    assert (await web.post(b"[" * 100_000)).status_code == 422
    assert (await web.post(b"")).status_code == 422
    assert (await web.intake.store.stats()).num_records == 0


@pytest.mark.parametrize(
    ("status", "body", "headers", "advice"),
    [
        (401, b"{}", {"authorization": "Basic x"}, "HONED_HTTP_TOKEN"),
        (403, b"{}", {"authorization": "Bearer other"}, "HONED_HTTP_TOKEN"),
        (403, b"{}", {"host": "evil.example"}, "127.0.0.1"),
        (415, b"{}", {"kind": "text/plain"}, "content-type"),
        (415, b"{}", {"content_encoding": "br"}, "gzip"),
        (422, b"{}", {"content_encoding": "gzip"}, "gzip"),
        (422, gzip.compress(b"{}", mtime=0)[:-5], {"content_encoding": "gzip"}, "gzip"),
        (422, b"{}", {}, "rejected"),
    ],
)
async def test_every_refusal_says_what_to_do(
    tmp_path: Path, status: int, body: bytes, headers: dict[str, str], advice: str
) -> None:
    """One sentence, beside what was expected and found."""
    async with open_web(tmp_path, token="s3cret") as web:
        refused = await web.post(body, **{"authorization": "Bearer s3cret", **headers})
    assert refused.status_code == status
    assert advice in refused.json()["advice"]


async def test_limits_hold_while_the_body_comes_in(web: Web) -> None:
    """Too many events, too many bytes, and a small body that unpacks to gigabytes."""
    many = b"\n".join([b"{}"] * (EVENTS_MAX + 1))
    assert (await web.post(many, kind="application/x-ndjson")).status_code == 413
    assert (await web.post(b" " * (BODY_MAX + 1))).status_code == 413
    bomb = gzip.compress(b"\n" * (1 << 30), compresslevel=1)
    refused = await web.post(bomb, content_encoding="gzip", kind="application/x-ndjson")
    assert refused.status_code == 413


async def test_an_event_that_is_too_long_is_rejected_alone(tmp_path: Path) -> None:
    """`events.line_max` is the same at every door."""
    async with open_web(tmp_path, line_max=2_000) as web:
        rows = [action(), action(target="x" * 3_000), action(tick="soon")]
        said = (await web.post(json.dumps(rows).encode())).json()
    assert said["accepted"] == 1
    assert web.intake.sink.counts().rejected == 2
    assert [(r["index"], r["code"]) for r in said["rejected"]] == [(1, "too_long"), (2, "invalid")]


async def test_a_request_too_many_is_told_to_come_back(web: Web) -> None:
    """429 with Retry-After while others wait for their commit; these are answered in the end."""
    waiting: list[asyncio.Task[httpx.Response]] = []
    async with asyncio.TaskGroup() as tasks, web.intake.store._writer.turn():
        waiting += [tasks.create_task(web.post(line(action()))) for _ in range(AT_A_TIME)]
        with anyio.fail_after(60):
            while web.source._num_waiting < AT_A_TIME:
                await anyio.sleep(0.01)
        refused = await web.post(line(action()))
        assert (refused.status_code, refused.json()["code"]) == (429, "QUEUE_FULL")
        assert refused.headers["retry-after"] == "1"
    assert all(task.result().json()["accepted"] == 1 for task in waiting)
    assert web.source.num_turned_away == 1


async def test_bodies_that_stall_lock_nobody_out(web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each is told so after a while; then there is room again."""
    monkeypatch.setattr(http_module, "BODY_TIMEOUT_S", 0.2)
    heads = b"POST /events HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
    url = web.client.base_url
    stalled = [await anyio.connect_tcp(url.host, url.port or 0) for _ in range(AT_A_TIME)]
    for peer in stalled:
        await peer.send(heads + b"content-length: 100\r\n\r\n{")
    with anyio.fail_after(60):
        for peer in stalled:
            answer = b""
            while b"did not come within 0.2 s" not in answer:
                answer += await peer.receive()
            assert answer.startswith(b"HTTP/1.1 408")
            await peer.aclose()
    assert (await web.post(line(action()))).status_code == 200


async def test_web_pages_cannot_send_events(web: Web) -> None:
    """Neither with a simple form post, nor under a name that was made to point here."""
    assert (await web.post(line(action()), kind="text/plain")).status_code == 415
    assert (await web.post(line(action()), host="evil.example")).status_code == 403
    assert (await web.post(line(action()), host="localhost:1")).status_code == 200
    preflight = await web.client.options("/events", headers={"origin": "http://evil.example"})
    assert "access-control-allow-origin" not in preflight.headers


async def test_a_token_is_asked_for_where_there_is_one(tmp_path: Path) -> None:
    """None: 401; another: 403."""
    async with open_web(tmp_path, token="s3cret") as web:
        assert (await web.post(line(action()))).status_code == 401
        assert (await web.post(line(action()), authorization="Bearer other")).status_code == 403
        assert (await web.post(line(action()), authorization="Bearer s3cret")).status_code == 200


async def test_other_machines_are_not_let_in_without_a_token(tmp_path: Path) -> None:
    """Refused before anything is served."""
    async with open_intake(None) as intake:
        with listen_on("0.0.0.0", 0) as listener:
            with pytest.raises(ConfigError, match="without a token"):
                HttpSource(listener, intake.sink, line_max=1 << 20)
            HttpSource(listener, intake.sink, line_max=1 << 20, token="s3cret")
