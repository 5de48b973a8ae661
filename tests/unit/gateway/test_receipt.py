"""The receipt is in the last events of a stream, wherever its chunks are cut."""

from typing import Any

import msgspec
import pytest

from honed.gateway.receipt import Stamp
from tests.unit.gateway.stub import delta

RECEIPT, MODEL = "0190-r", "airline@3"
TOLD = {"receipt": RECEIPT, "model": MODEL}
DONE = b"data: [DONE]\n\n"
USAGE = b'data: {"choices":[],"usage":{"completion_tokens":3}}\n\n'


def event(**fields: Any) -> bytes:
    """An event of a protocol that names its events."""
    return b"event: %s\ndata: %s\n\n" % (fields["type"].encode(), msgspec.json.encode(fields))


STREAMS = {
    "/v1/chat/completions": [
        delta(role="assistant", content=None),
        delta(content='{"finish_reason":"stop"}'),
        delta(finish_reason="stop"),
        USAGE,
        DONE,
    ],
    "/v1/completions": [
        b'data: {"choices":[{"text":"}","index":0,"finish_reason":null}]}\n\n',
        b'data: {"choices":[{"text":"","index":0,"finish_reason":"length"}]}\n\n',
        DONE,
    ],
    "/v1/messages": [
        event(type="message_start", message={"id": "m", "content": []}),
        event(type="content_block_delta", index=0, delta={"type": "text_delta", "text": "hi}"}),
        event(type="message_delta", delta={"stop_reason": "end_turn"}, usage={"output_tokens": 3}),
        event(type="message_stop"),
    ],
    "/v1/responses": [
        event(type="response.created", response={"id": "r", "status": "in_progress"}),
        event(type="response.output_text.delta", item_id="m", delta="hi"),
        event(type="response.completed", response={"id": "r", "status": "completed"}),
    ],
}
NUM_STAMPED = {
    "/v1/chat/completions": 2,
    "/v1/completions": 1,
    "/v1/messages": 2,
    "/v1/responses": 1,
}
"""Events at the end that have the receipt."""


def stamped(endpoint: str, chunks: list[bytes]) -> bytes:
    stamp = Stamp(endpoint, RECEIPT, MODEL)
    last = len(chunks) - 1
    return b"".join(stamp.feed(chunk, i == last) for i, chunk in enumerate(chunks))


def data_of(body: bytes) -> list[dict[str, Any]]:
    lines = [line[5:].strip() for line in body.splitlines() if line.startswith(b"data:")]
    return [msgspec.json.decode(line) for line in lines if line != b"[DONE]"]


@pytest.mark.parametrize("endpoint", STREAMS)
def test_the_last_events_have_the_receipt(endpoint: str) -> None:
    """From the one that ends the answer on; before it, and but for it, nothing is changed."""
    body = stamped(endpoint, STREAMS[endpoint])
    before, after = data_of(b"".join(STREAMS[endpoint])), data_of(body)
    told = [each.pop("honed", None) for each in after]
    count = NUM_STAMPED[endpoint]
    assert after == before
    assert told == [None] * (len(before) - count) + [TOLD] * count
    assert body.endswith(DONE) == b"".join(STREAMS[endpoint]).endswith(DONE)


@pytest.mark.parametrize("endpoint", STREAMS)
@pytest.mark.parametrize("line_end", [b"\n", b"\r\n"])
def test_chunks_may_be_cut_anywhere(endpoint: str, line_end: bytes) -> None:
    """One cut at every place, two cuts at many, every byte by itself: the client gets the same."""
    whole = b"".join(STREAMS[endpoint]).replace(b"\n", line_end)
    expected = stamped(endpoint, [whole])
    for i in range(len(whole)):
        assert stamped(endpoint, [whole[:i], whole[i:]]) == expected
        j = (i * 7) % len(whole)
        a, b = min(i, j), max(i, j)
        assert stamped(endpoint, [whole[:a], whole[a:b], whole[b:]]) == expected
    assert stamped(endpoint, [bytes([byte]) for byte in whole]) == expected


def test_an_event_passes_with_its_chunk() -> None:
    """Nothing is held back of whole events: the client does not wait for the next one."""
    stamp = Stamp("/v1/chat/completions", RECEIPT, MODEL)
    for each in STREAMS["/v1/chat/completions"]:
        assert stamp.feed(each, False).endswith(b"\n\n")


@pytest.mark.parametrize("filling", [b"x", b" ", b"}", b"} "])
def test_a_line_without_an_end_is_not_collected(filling: bytes) -> None:
    """Of a line that goes on for ever a few bytes are kept, and what came is passed on."""
    stamp = Stamp("/v1/chat/completions", RECEIPT, MODEL)
    sent = passed = 0
    for chunk in [b"data: ", *[filling * 1000] * 50]:
        sent += len(chunk)
        passed += len(stamp.feed(chunk, False))
        assert sent - passed <= 64


def test_a_stream_that_is_cut_loses_nothing() -> None:
    """What was held back of its last line comes with the last chunk."""
    half = b'data: {"choices":[{"delta":{}}'
    assert stamped("/v1/chat/completions", [half, b""]) == half


@pytest.mark.parametrize("endpoint", ["/v1/embeddings", "/completion", "/anything"])
def test_other_endpoints_pass_untouched(endpoint: str) -> None:
    """Only the streams whose end is known are written into."""
    chunks = STREAMS["/v1/chat/completions"]
    assert stamped(endpoint, chunks) == b"".join(chunks)


def test_comments_and_events_without_fields_are_left_alone() -> None:
    """They have no place for it."""
    chunks = [delta(finish_reason="stop"), b": ping\n\n", b"data: {}\n\n", DONE]
    assert stamped("/chat/completions", chunks).endswith(b": ping\n\ndata: {}\n\ndata: [DONE]\n\n")
