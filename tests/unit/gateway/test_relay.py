"""What the relay does to requests and answers on their way, and when either side breaks."""

import asyncio
import gc
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from honed.gateway import room
from honed.gateway.keys import ApiKeys
from honed.gateway.refusal import Refused
from honed.gateway.relay import Relay
from honed.gateway.room import Room, Share
from honed.gateway.upstream import Exchange
from tests.unit.gateway.stub import (
    ANSWER,
    CHAT,
    EVENTS,
    STREAM_HEAD,
    Request,
    answering,
    chunk,
    fronted,
    lane_to,
    relaying,
    stream,
    until_closed,
    upstream,
)

pytestmark = pytest.mark.anyio


async def test_answer_passes_unchanged_and_names_its_version(tmp_path: Path) -> None:
    """The body is the model's own; headers say which adapter answered and how to refer to it."""
    async with relaying(answering(), tmp_path) as front:
        answers = [await front.chat() for _ in range(2)]
    assert [answer.json() for answer in answers] == [ANSWER, ANSWER]
    assert [answer.headers["x-honed-model"] for answer in answers] == ["tiny@3", "tiny@3"]
    assert len({answer.headers["x-honed-receipt"] for answer in answers}) == 2


async def test_stream_passes_event_by_event(tmp_path: Path) -> None:
    """A streamed answer arrives whole and as a stream."""
    async with relaying(stream, tmp_path) as front:
        answer = await front.client.post("/completion", json={})
    assert answer.content == b"".join(EVENTS)
    assert answer.headers["content-type"] == "text/event-stream"


async def test_stream_ends_with_the_receipt(tmp_path: Path) -> None:
    """What OpenAI's and Anthropic's clients read says in its last event what the headers say; the rest is unchanged."""
    async with relaying(stream, tmp_path) as front:
        answer = await front.chat()
    events = answer.content.split(b"\n\n")
    assert events[:3] == [each.rstrip() for each in EVENTS[:3]]
    assert events[4:] == [b"data: [DONE]", b""]
    last = msgspec.json.decode(events[3].removeprefix(b"data: "))
    assert last.pop("honed") == {"receipt": answer.headers["x-honed-receipt"], "model": "tiny@3"}
    assert last == msgspec.json.decode(EVENTS[3].removeprefix(b"data: "))


async def test_first_event_arrives_before_the_last_is_made(tmp_path: Path) -> None:
    """Nothing waits for the end of the answer."""
    seen_first = asyncio.Event()

    async def waits(request: Request, writer: asyncio.StreamWriter) -> None:
        writer.write(STREAM_HEAD + chunk(EVENTS[1]))
        await seen_first.wait()
        writer.write(chunk(EVENTS[-1]) + b"0\r\n\r\n")

    async with relaying(waits, tmp_path) as front, front.client.stream("POST", CHAT) as answer:
        events = answer.aiter_raw()
        assert await anext(events) == EVENTS[1]
        seen_first.set()
        assert await anext(events) == EVENTS[-1]


async def test_hop_by_hop_headers_end_at_the_gateway(tmp_path: Path) -> None:
    """What belongs to one connection, and what is the gateway's own, goes no further."""
    hops = "keep-alive: timeout=5\r\nconnection: keep-alive, x-hop\r\nx-hop: 1\r\nx-honed-model: lie\r\n"
    sent = {
        "connection": "x-mine, keep-alive",
        "x-mine": "1",
        "te": "trailers",
        "accept-encoding": "gzip",
        "x-honed-task": "t1",
        "x-other": "2",
    }
    async with relaying(answering(headers=hops), tmp_path) as front:
        answer = await front.chat(headers=sent)
        [request] = front.upstream.requests
    assert not {"keep-alive", "x-hop", "connection"} & set(answer.headers)
    assert answer.headers.get_list("x-honed-model") == ["tiny@3"]
    names = [name for name, _ in request.headers]
    assert not {"x-mine", "te", "accept-encoding", "x-honed-task"} & set(names)
    assert request.header("x-other") == "2"
    assert request.header("connection") == "close"
    assert names.count("content-length") == 1


async def test_path_and_query_pass_as_they_are(tmp_path: Path) -> None:
    """Every path that is not the gateway's own is llama-server's."""
    async with relaying(answering([]), tmp_path) as front:
        await front.client.get("/slots?fail_on_no_slot=1&a=%2F")
        await front.client.post("/v1/embeddings", json={"input": "x"})
        lines = [request.line for request in front.upstream.requests]
    assert lines == [
        "GET /slots?fail_on_no_slot=1&a=%2F HTTP/1.1",
        "POST /v1/embeddings HTTP/1.1",
    ]


@pytest.mark.parametrize(
    ("body", "onward"),
    [
        (b'{"model": "m",  "seed":1}', b'{"model": "m",  "seed":1}'),
        (b'{"lora": [{"id":0,"scale":0}], "seed": 1.50}', b'{"seed":1.50}'),
        (rb'{"l\u006fra": [], "seed": 1}', b'{"seed":1}'),
        (b'{"lora": null, "lora": [1], "seed": 1}', b'{"seed":1}'),
        (b'{"lora": {}, "x": {"lora": 1}}', b'{"x":{"lora": 1}}'),
        (b'{"x": "\\"lora\\": []"}', b'{"x": "\\"lora\\": []"}'),
    ],
)
async def test_clients_cannot_choose_adapters(tmp_path: Path, body: bytes, onward: bytes) -> None:
    """A top-level `lora` is taken out however it is written; everything else stays byte-equal."""
    async with relaying(answering(), tmp_path) as front:
        await front.client.post("/completion", content=body)
        assert front.upstream.requests[0].body == onward


@pytest.mark.parametrize(
    "path", ["/lora-adapters", "/lora-adapters/", "/lora%2Dadapters", "/props"]
)
async def test_scales_cannot_be_set_through_the_gateway(tmp_path: Path, path: str) -> None:
    """What would change the answers behind the probe's back is refused."""
    async with relaying(answering(), tmp_path) as front:
        answer = await front.client.post(path, json=[{"id": 0, "scale": 0}])
        assert answer.status_code == 403
        assert front.upstream.requests == []


@pytest.mark.parametrize(
    ("path", "onward"),
    [
        ("/%u006cora-adapters", "/%25u006cora-adapters"),
        ("/r/task/1/%u006cora-adapters", "/%25u006cora-adapters"),
        ("/%256cora-adapters", "/%256cora-adapters"),
        ("/slots/%30?action=%65rase", "/slots/0?action=%65rase"),
        ("/a:b@c!$&'()*+,;=-._~%20", "/a:b@c!$&'()*+,;=-._~%20"),
    ],
)
async def test_the_server_reads_the_path_that_was_judged(
    tmp_path: Path, path: str, onward: str
) -> None:
    """llama-server takes `%u006c` for an `l`: passed on as it came, this would set scales."""
    async with relaying(answering(), tmp_path) as front:
        reader, writer = await front.connect()
        head = f"POST {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: 2"
        writer.write(f"{head}\r\n\r\n{{}}".encode())
        assert (await reader.read()).startswith(b"HTTP/1.1 200")
        writer.close()
        [request] = front.upstream.requests
    assert request.line == f"POST {onward} HTTP/1.1"


@pytest.mark.parametrize("body", [b"[1]", b"{", b'"x"', b'{"model": 3}', b"[" * 100_000])
async def test_body_that_is_no_object_is_refused(tmp_path: Path, body: bytes) -> None:
    """What the gateway cannot read it does not pass on: there could be a `lora` in it."""
    async with relaying(answering(), tmp_path) as front:
        answer = await front.client.post(CHAT, content=body)
        assert answer.status_code == 400
        assert answer.json()["error"]["code"] == "invalid_json"
        assert front.upstream.requests == []


async def test_body_beyond_the_limit_is_refused_and_within_it_not(tmp_path: Path) -> None:
    """A body that is too long gets 413, declared or found out while reading."""

    async def pieces() -> Any:
        for _ in range(3):
            yield b"x" * 500

    async with relaying(answering(), tmp_path, max_body=1000) as front:
        declared = await front.client.post(CHAT, content=b"x" * 1001)
        found = await front.client.post(CHAT, content=pieces())
        good = await front.client.post(CHAT, content=b'{"x":"' + b"x" * 992 + b'"}')
        assert len(front.upstream.requests) == 1
    assert [declared.status_code, found.status_code, good.status_code] == [413, 413, 200]


async def test_whoever_still_sends_reads_why_it_was_refused(tmp_path: Path) -> None:
    """A connection that is closed under the client is reset, and what it was told is lost."""
    body = b'{"x":"' + b"x" * (12 << 20) + b'"}'
    async with relaying(answering(), tmp_path, max_body=1000, keys=ApiKeys(["sk-mine"])) as front:
        answers = [
            await front.client.post(CHAT, content=body),
            await front.client.post(CHAT, content=body, headers={"x-api-key": "sk-mine"}),
            await front.client.post("/r/tsk/1/v1/x", content=body),
        ]
    assert [answer.status_code for answer in answers] == [401, 413, 400]
    assert {answer.headers["connection"] for answer in answers} == {"close"}


async def test_whoever_asks_before_sending_is_refused_at_once(tmp_path: Path) -> None:
    """Nothing of the body is waited for, and no 100 Continue follows the refusal."""
    head = b"POST /x HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\ncontent-length: 2000\r\n\r\n"
    async with relaying(answering(), tmp_path, max_body=1000) as front:
        reader, writer = await front.connect()
        writer.write(head)
        told = await asyncio.wait_for(reader.read(), 20)
        writer.close()
    assert told.startswith(b"HTTP/1.1 413 ")
    assert told.count(b"HTTP/1.1") == 1


@pytest.mark.parametrize(
    "header", [{"content-encoding": "gzip"}, {"content-type": "multipart/form-data; boundary=b"}]
)
async def test_body_that_cannot_be_looked_into_is_refused(
    tmp_path: Path, header: dict[str, str]
) -> None:
    """Compressed and multipart bodies could hide a `lora`."""
    async with relaying(answering(), tmp_path) as front:
        answer = await front.client.post(CHAT, content=b"{}", headers=header)
        assert answer.status_code == 415


async def test_stalled_uploads_share_a_bounded_room(tmp_path: Path) -> None:
    """Parts count as they arrive: 16 bodies' worth may wait, more is refused until some are gone."""
    head = b"POST /x HTTP/1.1\r\nhost: localhost\r\ncontent-length: 1000\r\n\r\n"
    async with relaying(answering(), tmp_path, max_body=1000) as front:
        stalled = [await front.connect() for _ in range(20)]
        for _, writer in stalled:
            writer.write(head + b"x" * 900)
        told = [asyncio.ensure_future(reader.readline()) for reader, _ in stalled]
        done, waiting = set[asyncio.Future[bytes]](), set(told)
        while len(done) < 3:  # 17 times 900 fit into 16,000
            newly, waiting = await asyncio.wait(
                waiting, timeout=5, return_when=asyncio.FIRST_COMPLETED
            )
            assert newly
            done |= newly
        assert {each.result() for each in done} == {b"HTTP/1.1 503 Service Unavailable\r\n"}
        assert (await front.chat("x" * 800)).json()["error"]["code"] == "busy"
        for each in waiting:
            each.cancel()
        for _, writer in stalled:
            writer.transport.abort()
        async with asyncio.timeout(5):
            while (await front.chat("x" * 800)).status_code != 200:
                await asyncio.sleep(0.01)
        assert len(waiting) == 17


async def test_stalled_uploads_give_way_to_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When the room is full, the upload that has been silent for longest is told to come back; one more at a time."""
    monkeypatch.setattr(room, "PATIENCE_S", 0.0)
    head = b"POST /x HTTP/1.1\r\nhost: localhost\r\ncontent-length: 1000\r\n\r\n"
    body = b'{"messages": "%s"}' % (b"x" * 984)
    async with relaying(answering(), tmp_path, max_body=1000) as front:
        told: list[asyncio.Task[bytes]] = []
        writers: list[asyncio.StreamWriter] = []
        for i in range(40):
            reader, writer = await front.connect()
            writer.write(head + body[:900])
            writers.append(writer)
            told.append(asyncio.create_task(reader.readline()))
            await until_done(told, max(0, i - 16))  # 17 times 900 fit into 16,000
        assert {each.result() for each in told if each.done()} == {
            b"HTTP/1.1 503 Service Unavailable\r\n"
        }
        assert (await front.chat("x" * 800)).status_code == 200
        writers[-1].write(body[900:])  # who came last and goes on is served
        assert await asyncio.wait_for(told[-1], 5) == b"HTTP/1.1 200 OK\r\n"
        for each in told:
            each.cancel()
        for writer in writers:
            writer.transport.abort()


async def until_done(told: list[asyncio.Task[bytes]], count: int) -> None:
    async with asyncio.timeout(5):
        while sum(each.done() for each in told) < count:
            await asyncio.sleep(0.001)


async def test_only_uploads_that_stall_give_way(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not bodies that are whole, not those that were heard of just now, and not more than there is need for."""
    shared = Room(1000)
    with Share(shared) as whole, Share(shared) as first, Share(shared) as second:
        async with asyncio.timeout(5) as limit:
            whole.take(400, until=limit)
            whole.take(100)
            first.take(200, until=limit)
            second.take(200, until=limit)
            with Share(shared) as refused, pytest.raises(Refused):
                refused.take(200)
            monkeypatch.setattr(room, "PATIENCE_S", 0.0)
            with Share(shared) as too_large, pytest.raises(Refused):
                too_large.take(501)  # even if both gave way
            assert not first.has_given_way
            first.take(10, until=limit)  # goes on, so that `second` is silent for longer
            with Share(shared) as admitted:
                admitted.take(200)
            told = [each.has_given_way for each in (whole, first, second)]
            assert told == [False, False, True]
            with pytest.raises(Refused):
                second.take(1, until=limit)
            with pytest.raises(Refused):
                first.take(500, until=limit)  # no upload gives way to itself
            assert not first.has_given_way
            assert shared.held_bytes == 710
    assert (shared.held_bytes, shared.uploads) == (0, {})


async def test_chunked_request_goes_on_with_its_length(tmp_path: Path) -> None:
    """A client that does not know its length beforehand is served."""

    async def pieces() -> Any:
        yield b'{"model":'
        yield b'"tiny"}'

    async with relaying(answering(), tmp_path) as front:
        answer = await front.client.post(CHAT, content=pieces())
        [request] = front.upstream.requests
    assert answer.status_code == 200
    assert request.body == b'{"model":"tiny"}'
    assert request.header("transfer-encoding") is None


async def test_old_client_gets_a_length_instead_of_chunks(tmp_path: Path) -> None:
    """HTTP/1.0 knows no chunked coding: a streamed answer is collected."""
    async with relaying(stream, tmp_path) as front:
        reader, writer = await front.connect()
        writer.write(b"POST /completion HTTP/1.0\r\ncontent-length: 2\r\n\r\n{}")
        head, _, body = (await reader.read()).partition(b"\r\n\r\n")
        writer.close()
    assert body == b"".join(EVENTS)
    assert b"content-length: %d" % len(body) in head
    assert b"chunked" not in head


async def test_pipelined_requests_are_answered_in_order(tmp_path: Path) -> None:
    """Three requests in one write, the second one streamed."""

    async def by_path(request: Request, writer: asyncio.StreamWriter) -> None:
        script = stream if "/streamed" in request.line else answering(request.line.split()[1])
        await script(request, writer)

    one = b"POST /%s HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n\r\n{}"
    async with relaying(by_path, tmp_path) as front:
        reader, writer = await front.connect()
        writer.write(one % b"first" + one % b"streamed" + one % b"last")
        text = await reader.readuntil(b'"/last"')
        writer.close()
    assert text.index(b'"/first"') < text.index(EVENTS[-1]) < text.index(b'"/last"')


async def test_client_that_asks_before_sending_is_told_to_go_on(tmp_path: Path) -> None:
    """Expect: 100-continue is answered by the gateway and not passed on."""
    async with relaying(answering(), tmp_path) as front:
        reader, writer = await front.connect()
        writer.write(
            b"POST /x HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\ncontent-length: 2\r\n\r\n"
        )
        assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        writer.write(b"{}")
        assert (await reader.readline()).startswith(b"HTTP/1.1 200")
        writer.close()
        assert front.upstream.requests[0].header("expect") is None


@pytest.mark.parametrize("streams", [True, False])
async def test_client_that_leaves_leaves_nothing_behind(tmp_path: Path, streams: bool) -> None:
    """Its exchange, the body with it, is freed at once and not when the collector comes by."""

    async def endless(request: Request, writer: asyncio.StreamWriter) -> None:
        if streams:
            writer.write(STREAM_HEAD + chunk(EVENTS[1]))
        await until_closed(request)

    gc.collect()
    gc.disable()
    try:
        async with relaying(endless, tmp_path) as front:
            for number in range(1, 4):
                _, writer = await front.connect()
                writer.write(b"POST /x HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n\r\n{}")
                async with asyncio.timeout(5):
                    while len(front.upstream.requests) < number:
                        await asyncio.sleep(0.001)
                writer.close()
                del writer
            async with asyncio.timeout(5):
                while any(type(each) is Exchange for each in gc.get_objects()):
                    await asyncio.sleep(0.01)
    finally:
        gc.enable()


@pytest.mark.parametrize("streams", [True, False])
async def test_client_that_leaves_ends_the_work_upstream(tmp_path: Path, streams: bool) -> None:
    """llama-server's connection is closed at once, whether its answer has begun or not."""
    began, ended = asyncio.Event(), asyncio.Event()

    async def endless(request: Request, writer: asyncio.StreamWriter) -> None:
        if streams:
            writer.write(STREAM_HEAD + chunk(EVENTS[1]))
        began.set()
        await until_closed(request)
        ended.set()

    async with relaying(endless, tmp_path) as front:
        _, writer = await front.connect()
        writer.write(b"POST /x HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n\r\n{}")
        await asyncio.wait_for(began.wait(), 5)
        writer.transport.abort()
        await asyncio.wait_for(ended.wait(), 5)
        assert front.lane.failed == 0


async def test_upstream_that_does_not_listen_is_a_503(tmp_path: Path) -> None:
    """Before the answer's head, the client is told to come back."""
    async with relaying(answering(), tmp_path) as front:
        assert front.lane.backend is not None
        front.lane.backend.address = type(front.address)("127.0.0.1", 1)
        answer = await front.chat()
        assert (front.lane.failed, front.lane.refused) == (0, 1)
    assert answer.status_code == 503
    assert answer.headers["retry-after"] == "1"
    assert answer.json()["error"]["type"] == "server_error"


@pytest.mark.parametrize("said", [b"", b"HTTP/1.1 200 OK\r\ncontent-", b"SSH-2.0-x\r\n\r\n"])
async def test_upstream_that_dies_before_its_head_is_a_503(tmp_path: Path, said: bytes) -> None:
    """So is one that says nothing, half a head, or something that is not HTTP."""

    async def dies(request: Request, writer: asyncio.StreamWriter) -> None:
        writer.write(said)

    async with relaying(dies, tmp_path) as front:
        answer = await front.chat()
    assert answer.status_code == 503
    assert answer.json()["error"]["code"] == "upstream_gone"
    assert answer.headers["x-honed-model"] == "tiny@3", "which version had it"


async def test_stream_that_breaks_ends_with_an_error_event(tmp_path: Path) -> None:
    """In the middle of a stream the client is told in the stream, and the stream ends cleanly."""

    async def breaks(request: Request, writer: asyncio.StreamWriter) -> None:
        writer.write(STREAM_HEAD + chunk(EVENTS[1]))

    async with relaying(breaks, tmp_path) as front:
        answer = await front.chat()
    first, error, rest = answer.content.split(b"\n\n")
    assert (first + b"\n\n", rest) == (EVENTS[1], b"")
    assert msgspec.json.decode(error.removeprefix(b"data: "))["error"]["code"] == "upstream_gone"


@pytest.mark.parametrize(
    "half",
    [
        b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 90\r\n\r\n{",
        STREAM_HEAD + chunk(EVENTS[1] + b'data: {"cho'),
    ],
)
async def test_half_an_answer_cuts_the_connection(tmp_path: Path, half: bytes) -> None:
    """Where nothing more can be said, nobody takes half an answer for a whole one."""

    async def breaks(request: Request, writer: asyncio.StreamWriter) -> None:
        writer.write(half)

    async with relaying(breaks, tmp_path) as front:
        with pytest.raises(httpx.RemoteProtocolError):
            await front.chat()
        assert front.lane.failed == 1


async def test_slow_reader_makes_upstream_wait(tmp_path: Path) -> None:
    """A client that does not read holds back llama-server, not the gateway's memory."""
    written = 0
    size = 64 << 20

    async def floods(request: Request, writer: asyncio.StreamWriter) -> None:
        nonlocal written
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % size)
        while written < size:
            writer.write(b"x" * 65536)
            written += 65536
            await writer.drain()

    async with relaying(floods, tmp_path) as front:
        reader, writer = await front.connect()
        writer.write(b"POST /x HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n\r\n{}")
        before = -1
        while written != before or not written:  # until it stands still
            before = written
            await asyncio.sleep(0.2)
        assert 0 < written < size / 2
        got = 0
        while got < size:
            data = await reader.read(1 << 20)
            assert data, f"cut after {got} of {size} bytes"
            got += len(data)
        writer.close()
    assert written == size


async def test_end_that_arrives_while_the_client_is_waited_for_is_passed_on(
    tmp_path: Path,
) -> None:
    """The answer may be complete upstream long before a slow client has taken its first piece."""
    first_sent, all_written = asyncio.Event(), asyncio.Event()

    async def in_two(request: Request, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 8\r\n\r\nhalf")
        await first_sent.wait()
        writer.write(b"rest")
        await writer.drain()
        all_written.set()

    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)
        if message.get("body") == b"half":
            first_sent.set()
            await all_written.wait()
            await asyncio.sleep(0.05)  # the gateway reads it in the meantime

    messages = [{"type": "http.request", "body": b"{}"}]

    async def receive() -> Any:
        if not messages:
            await asyncio.Event().wait()  # the client stays
        return messages.pop()

    scope = {"type": "http", "http_version": "1.1", "method": "POST", "path": "/x"}
    scope |= {"raw_path": b"/x", "query_string": b"", "headers": []}  # type: ignore[dict-item]
    async with upstream(in_two) as seen:
        relay = Relay({"tiny": lane_to(seen.address, tmp_path)}, max_body=1000)
        await relay(scope, receive, send)
    bodies = [(each["body"], each["more_body"]) for each in sent[1:]]
    assert bodies == [(b"half", True), (b"rest", False)]


async def test_model_names_the_scenario(tmp_path: Path) -> None:
    """Each scenario has its lane; with several, a name that fits none is an error."""
    async with upstream(answering("one")) as one, upstream(answering("two")) as two:
        lanes = {
            "one": lane_to(one.address, tmp_path, scenario="one"),
            "two": lane_to(two.address, tmp_path, scenario="two"),
        }
        async with (
            fronted(lanes) as address,
            httpx.AsyncClient(base_url=str(address)) as client,
        ):
            answers = [await client.post("/x", json={"model": name}) for name in ("one", "two")]
            unknown = await client.post("/x", json={"model": "three"})
            missing = await client.post("/x", json={})
            models = await client.get("/v1/models")
    assert [answer.json() for answer in answers] == ["one", "two"]
    assert (unknown.status_code, unknown.json()["error"]["code"]) == (404, "model_not_found")
    assert (missing.status_code, missing.json()["error"]["code"]) == (400, "model_required")
    assert [model["id"] for model in models.json()["data"]] == ["one", "two"]


async def test_a_second_scenario_changes_nothing_for_clients_of_the_first(tmp_path: Path) -> None:
    """What names no scenario goes to the gateway's own, however many have registered."""
    async with upstream(answering("one")) as one, upstream(answering("two")) as two:
        lanes = {
            "two": lane_to(two.address, tmp_path, scenario="two"),
            "one": lane_to(one.address, tmp_path, scenario="one"),
        }
        async with (
            fronted(lanes, default="one") as address,
            httpx.AsyncClient(base_url=str(address)) as client,
        ):
            bodies = ({"model": "gpt-4o"}, {}, {"model": "one"}, {"model": "two"})
            answers = [(await client.post("/x", json=body)).json() for body in bodies]
    assert answers == ["one", "one", "one", "two"]


@pytest.mark.parametrize("body", [{}, {"model": None}, {"model": "gpt-4o"}])
async def test_the_only_lane_takes_any_model(tmp_path: Path, body: dict[str, Any]) -> None:
    """With one scenario a client need not know its name; what it wrote goes on unchanged."""
    async with relaying(answering(), tmp_path) as front:
        answer = await front.client.post("/x", json=body)
        assert answer.status_code == 200
        assert msgspec.json.decode(front.upstream.requests[0].body) == body


async def test_lane_that_is_not_up_says_so(tmp_path: Path) -> None:
    """The gateway answers before its servers do: 503 with Retry-After, and the state to look at."""
    lane = lane_to(None, tmp_path)
    lane.state = "starting"
    async with (
        fronted({"tiny": lane}) as address,
        httpx.AsyncClient(base_url=str(address)) as client,
    ):
        answer = await client.post(CHAT, json={})
        health = await client.get("/health")
    assert answer.status_code == 503
    assert answer.headers["retry-after"] == "1"
    assert "starting" in answer.json()["error"]["message"]
    assert health.json() == {"status": "ok", "scenarios": {"tiny": "starting"}}


@pytest.mark.parametrize(
    ("header", "value"),
    [("x-honed-purpose", "eval"), ("x-honed-train", "no"), ("x-honed-worker", "70000")],
)
async def test_label_with_an_impossible_value_is_refused(
    tmp_path: Path, header: str, value: str
) -> None:
    """A typing error must not turn evaluation traffic into something to learn from."""
    async with relaying(answering(), tmp_path) as front:
        answer = await front.chat(headers={header: value})
        assert answer.status_code == 400
        assert header in answer.json()["error"]["message"]
        assert front.upstream.requests == []
