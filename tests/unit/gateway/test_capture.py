"""What passes through the relay becomes `llm_call` events, within bounds."""

import asyncio
import uuid
from pathlib import Path

import msgspec
import pytest
from msgspec.structs import replace

from honed.domain.events import LlmCallEvent, parse_event
from honed.domain.records import LlmCallRecord, record_from_event
from honed.gateway import capture
from honed.gateway.capture import Call, Captured, uuid7
from honed.gateway.labels import Labels
from honed.gateway.merge.tokens import TOKENS_MAX
from tests.unit.gateway.stub import STREAM_HEAD, Request, answering, chunk, relaying, stream

pytestmark = pytest.mark.anyio


async def captured_event(captured: Captured) -> LlmCallEvent:
    call = await asyncio.wait_for(captured.take(), 5)
    event = parse_event(call.event())
    assert isinstance(event, LlmCallEvent)
    return event


@pytest.mark.parametrize("streams", [True, False])
async def test_chat_call_becomes_an_event(tmp_path: Path, streams: bool) -> None:
    """Conversation, answer, version and the receipt that the client was given."""
    async with relaying(stream if streams else answering(), tmp_path) as front:
        answer = await front.chat("what is wrong?")
        event = await captured_event(front.lane.captured)
    assert event.event_id == event.receipt_id == answer.headers["x-honed-receipt"]
    assert event.messages is not None
    assert event.response_message is not None
    assert [message.text for message in event.messages] == ["what is wrong?"]
    assert (event.response_message.role, event.response_message.text) == (
        "assistant",
        "disk: purge",
    )
    assert (event.adapter_id, event.model, event.finish_reason) == ("tiny@3", "tiny", "stop")
    assert (event.purpose, event.train) == ("work", True)
    if not streams:
        assert (event.prompt_tokens, event.completion_tokens) == (7, 3)


async def test_labels_become_the_envelope(tmp_path: Path) -> None:
    """What the client says in headers is kept on the event."""
    labels = {"task": "t1", "group": "g1", "session": "s1", "agent": "a", "role": "r", "user": "u"}
    headers = {f"x-honed-{name}": value for name, value in labels.items()}
    headers |= {"x-honed-worker": "7", "x-honed-purpose": "evaluation", "x-honed-train": "False"}
    async with relaying(answering(), tmp_path) as front:
        await front.chat(headers=headers | {"x-honed-new": "ignored"})
        event = await captured_event(front.lane.captured)
    assert (event.task_id, event.group_id, event.session_id) == ("t1", "g1", "s1")
    assert (event.agent, event.role, event.user, event.worker_id) == ("a", "r", "u", 7)
    assert (event.purpose, event.train) == ("evaluation", False)


async def test_what_is_no_finished_call_is_not_captured(tmp_path: Path) -> None:
    """Other endpoints, errors and answers that broke leave no event."""

    async def script(request: Request, writer: asyncio.StreamWriter) -> None:
        if "/v1/chat/completions" in request.line and b"broken" in request.body:
            writer.write(STREAM_HEAD + chunk(b": ping\n\n"))
        elif b"refused" in request.body:
            writer.write(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n")
        else:
            await answering()(request, writer)

    async with relaying(script, tmp_path) as front:
        await front.chat("broken")
        await front.chat("refused")
        await front.client.post("/v1/embeddings", json={"input": "x"})
        await front.client.post("/completion", json={"prompt": "x"})
        assert front.lane.captured.is_empty
        await front.chat("good")
        assert not front.lane.captured.is_empty


async def test_capture_can_be_off(tmp_path: Path) -> None:
    """Then nothing is kept, and answers carry receipts as before."""
    async with relaying(answering(), tmp_path, captures=False) as front:
        answer = await front.chat()
        assert front.lane.captured.is_empty
    assert answer.headers["x-honed-receipt"]


async def test_answer_beyond_the_cap_passes_and_is_dropped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A long answer reaches the client whole; its event is lost and counted."""
    monkeypatch.setattr(capture, "TAPE_MAX_BYTES", 20)
    async with relaying(stream, tmp_path) as front:
        answer = await front.chat()
        counts = front.lane.captured.counts()
    assert answer.text.endswith("data: [DONE]\n\n")
    assert (counts["dropped"], counts["queued"]) == (1, 0)


def a_call(size: int = 0) -> Call:
    return Call(
        receipt_id=uuid7(),
        labels=Labels(),
        endpoint="/v1/chat/completions",
        scenario="tiny",
        adapter_id=None,
        started_at_ms=1,
        latency_ms=1,
        request=b"x" * size,
        answer=b"",
        is_stream=False,
    )


def test_an_empty_answer_is_a_call_too() -> None:
    """A model that says nothing has failed; leaving that out would make it look better than it is."""
    request = b'{"messages":[{"role":"user","content":"q"}]}'
    answer = b'{"choices":[{"message":{"role":"assistant","content":""},"finish_reason":"stop"}]}'
    event = parse_event(replace(a_call(), request=request, answer=answer).event())
    assert isinstance(event, LlmCallEvent)
    assert event.finish_reason == "stop"
    assert event.response_message is not None
    assert event.response_message.is_empty


def test_tokens_that_were_asked_for_are_in_the_record() -> None:
    """Ids and log-probabilities of the whole answer; with a hole, or of an endless one, none."""

    def record_of(num: int, sampled: int) -> LlmCallRecord:
        content = [{"id": i, "token": "x", "logprob": -0.1234567} for i in range(num)]
        message = {"role": "assistant", "content": "x"}
        choice = {"message": message, "finish_reason": "stop", "logprobs": {"content": content}}
        answer = {"choices": [choice], "usage": {"completion_tokens": sampled}}
        request = b'{"messages":[{"role":"user","content":"q"}],"logprobs":true}'
        call = replace(a_call(), request=request, answer=msgspec.json.encode(answer))
        record = record_from_event(parse_event(call.event()), received_ms=1)
        assert isinstance(record, LlmCallRecord)
        return record

    record = record_of(3, 3)
    assert record.response_token_ids == (0, 1, 2)
    assert record.response_logprobs == (-0.123457,) * 3
    for num, sampled in ((3, 4), (TOKENS_MAX + 1, TOKENS_MAX + 1), (0, 0)):
        record = record_of(num, sampled)
        assert (record.response_token_ids, record.response_logprobs) == (None, None)


async def test_full_queue_drops_the_newest(monkeypatch: pytest.MonkeyPatch) -> None:
    """What waits is kept, what comes on top is counted: by number and by bytes."""
    monkeypatch.setattr(capture, "QUEUE_MAX", 2)
    monkeypatch.setattr(capture, "QUEUE_MAX_BYTES", 5_000)
    captured = Captured("tiny")
    first, big, second, third = a_call(), a_call(10_000), a_call(), a_call()
    for call in (first, big, second, third):
        captured.offer(call)
    assert captured.dropped == 2
    assert [await captured.take() for _ in range(2)] == [first, second]
    captured.offer(third)
    assert await captured.take() is third


@pytest.mark.parametrize("limit", ["_GATHER_MAX", "_GATHER_MAX_BYTES"])
async def test_calls_go_to_the_sender_together(monkeypatch: pytest.MonkeyPatch, limit: str) -> None:
    """The first waits for company, until there are enough or a moment has passed."""
    monkeypatch.setattr(capture, "_GATHER_S", 60)
    monkeypatch.setattr(capture, limit, {"_GATHER_MAX": 2, "_GATHER_MAX_BYTES": 1_000}[limit])
    captured = Captured("tiny")
    waiting = asyncio.ensure_future(captured.wait_for_call())
    await asyncio.sleep(0)
    captured.offer(first := a_call())
    for _ in range(10):
        await asyncio.sleep(0)
    assert not waiting.done()
    captured.offer(second := a_call())
    await asyncio.wait_for(waiting, 5)
    assert [await captured.take() for _ in range(2)] == [first, second]

    monkeypatch.setattr(capture, "_GATHER_S", 0.001)
    waiting = asyncio.ensure_future(captured.wait_for_call())
    await asyncio.sleep(0)
    captured.offer(a_call())
    await asyncio.wait_for(waiting, 5)


def test_ids_rise_with_time() -> None:
    """uuid7: a million years of order in the first 48 bits, version and variant as the RFC says."""
    ids = [uuid.UUID(uuid7()) for _ in range(1000)]
    assert len(set(ids)) == 1000
    assert {(each.version, each.variant) for each in ids} == {(7, uuid.RFC_4122)}
    milliseconds = [each.int >> 80 for each in ids]
    assert milliseconds == sorted(milliseconds)
