"""Capture: what goes through the gateway becomes `llm_call` events for the scenario's daemon.

The relay tees bytes and hands them over when the answer is complete; merging, sending, and keeping on
disk what the daemon does not take happen elsewhere, in `FeedSender`. Nothing here waits, raises, or
grows without bound: a full queue drops the newest call and counts it.
"""

import asyncio
import os
import time
from collections import deque
from typing import Final

import anyio
from msgspec import Struct

from honed import log
from honed.domain.events import LlmCallEvent, format_event
from honed.domain.message import Message
from honed.domain.serving import Drained
from honed.domain.times import now_ms
from honed.gateway.labels import Labels
from honed.gateway.merge import read_call

TAPE_MAX_BYTES: Final = 4 << 20
"""A longer answer is not captured."""
QUEUE_MAX: Final = 10_000
QUEUE_MAX_BYTES: Final = 64 << 20
BEHIND: Final = 1_000
BEHIND_BYTES: Final = 8 << 20
_FLUSH_S: Final = 2.0
_GATHER_S: Final = 0.02
"""How long the first call that is queued waits for company. A call by itself wakes the sender twice, for its line and
for the daemon's answer; 200 calls/s that went one by one took 0.1 ms more core time each (measured, of 0.66 ms).
Longer saves nothing more.
"""
_GATHER_MAX: Final = 16
_GATHER_MAX_BYTES: Final = 64 << 10
"""Calls that wait for no others: merging more at a time would keep streams waiting."""


def uuid7() -> str:
    """A time-ordered id (RFC 9562, version 7)."""
    ms = now_ms()
    random = int.from_bytes(os.urandom(10))
    value = (
        ms << 80 | 0x7 << 76 | (random >> 68 & 0xFFF) << 64 | 0b10 << 62 | random & (1 << 62) - 1
    )
    digits = f"{value:032x}"
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"


class Call(Struct, frozen=True, kw_only=True):
    """One finished exchange as bytes."""

    receipt_id: str
    labels: Labels
    endpoint: str
    scenario: str
    adapter_id: str | None
    started_at_ms: int
    latency_ms: int
    request: bytes
    answer: bytes
    is_stream: bool

    @property
    def size_bytes(self) -> int:
        """What it holds in memory, nearly."""
        return len(self.request) + len(self.answer) + 500

    def event(self) -> bytes:
        """The call as an `llm_call` event, one line of JSON without the newline.

        Raises:
            UnreadableError: it cannot be told as an event.
        """
        asked, answered = read_call(
            self.endpoint, self.request, self.answer, is_stream=self.is_stream
        )
        labels, is_chat = self.labels, asked.prompt is None
        return format_event(
            LlmCallEvent(
                event_id=self.receipt_id,
                receipt_id=self.receipt_id,
                response_id=answered.id,
                task_id=labels.task_id,
                group_id=labels.group_id,
                session_id=labels.session_id,
                agent=labels.agent,
                role=labels.role,
                user=labels.user,
                worker_id=labels.worker_id,
                purpose=labels.purpose,
                train=labels.train,
                tags=labels.tags,
                timestamp_ms=self.started_at_ms,
                model=asked.model or self.scenario,
                endpoint=self.endpoint,
                call_type="chat" if is_chat else "completion",
                messages=asked.messages,
                tools=asked.tools,
                response_message=_assistant(answered.message) if is_chat else None,
                prompt=asked.prompt,
                response=None if is_chat else answered.message.text,
                response_token_ids=answered.token_ids,
                response_logprobs=answered.logprobs,
                adapter_id=self.adapter_id,
                latency_ms=self.latency_ms,
                prompt_tokens=answered.prompt_tokens,
                completion_tokens=answered.completion_tokens,
                finish_reason=answered.finish_reason,
            )
        )


def _assistant(message: Message) -> Message:
    return (
        message
        if message.content is not None
        else Message(
            role="assistant",
            content="",
            tool_calls=message.tool_calls,
            reasoning_content=message.reasoning_content,
        )
    )


class Captured:
    """The bounded queue of one scenario's calls, and its counters."""

    def __init__(self, scenario: str) -> None:
        self.scenario = scenario
        self.sent = 0
        """Acknowledged by the daemon."""
        self.dropped = 0
        """Not kept because the queue was full or the answer too long."""
        self.refused = 0
        """Not accepted by the daemon."""
        self.skipped = 0
        """Not a call that can be told as an event."""
        self.damaged = 0
        """Pieces of what waited on disk that are no events any more."""
        self.unacknowledged = 0
        """Taken from the queue by the sender, in memory, not yet acknowledged."""
        self.spooled = 0
        """On disk, not yet acknowledged."""
        self.spooled_bytes = 0
        self.spooled_since_ms = 0
        """When the oldest of these went there, Unix milliseconds; 0 where there is none."""
        self.is_spool_failing = False
        """Whether the disk takes no more of them."""
        self._calls: deque[Call] = deque()
        self._size_bytes = 0
        self.num_gone = 0
        """Those that will not be sent again: acknowledged, refused, or none that could be."""
        self._arrived = anyio.Event()
        self._gathering: asyncio.TimerHandle | None = None
        """Ends the wait for more calls; None while nobody has to be told of any."""
        self._moved = anyio.Event()
        self._wanted = anyio.Event()

    def offer(self, call: Call) -> None:
        """Keep the call for sending, or drop and count it; never waits."""
        is_full = (
            len(self._calls) >= QUEUE_MAX or self._size_bytes + call.size_bytes > QUEUE_MAX_BYTES
        )
        if is_full:
            self.drop("the queue is full")
            return
        self._calls.append(call)
        self._size_bytes += call.size_bytes
        if len(self._calls) >= _GATHER_MAX or self._size_bytes >= _GATHER_MAX_BYTES:
            self._tell()
        elif self._gathering is None:
            self._gathering = asyncio.get_running_loop().call_later(_GATHER_S, self._tell)

    def _tell(self) -> None:
        if self._gathering is not None:
            self._gathering.cancel()
            self._gathering = None
        self._arrived.set()

    def drop(self, reason: str) -> None:
        """Count a call that is lost; logged at the 1st, 2nd, 4th, 8th ... so that a flood stays
        readable.
        """
        self.dropped += 1
        if self.dropped & (self.dropped - 1) == 0:
            log.get(scenario=self.scenario).warning(
                log.CAPTURE_DROPPED, dropped=self.dropped, reason=reason
            )

    async def take(self) -> Call:
        """The oldest call; waits for one. Its taker tells `move` of it."""
        await self.wait_for_call()
        call = self._calls.popleft()
        self._size_bytes -= call.size_bytes
        return call

    async def wait_for_call(self) -> None:
        """Wait until one is queued, and then a moment for others; one that is found queued is not waited for."""
        while not self._calls:
            self._arrived = anyio.Event()
            await self._arrived.wait()

    @property
    def has_calls(self) -> bool:
        """Whether one is queued."""
        return bool(self._calls)

    @property
    def is_behind(self) -> bool:
        """Whether so much is queued that whoever takes it is too slow."""
        return len(self._calls) > BEHIND or self._size_bytes > BEHIND_BYTES

    @property
    def is_empty(self) -> bool:
        """Whether everything has been sent and acknowledged."""
        return self.is_kept and not self.spooled

    @property
    def is_kept(self) -> bool:
        """Whether nothing is in memory alone."""
        return not self._calls and not self.unacknowledged

    def move(self, *, in_memory: int = 0) -> None:
        """So many taken calls more, or fewer, are in memory; those who wait look again."""
        self.unacknowledged += in_memory
        self._moved.set()

    async def wait_empty(self) -> None:
        """Wait until everything has been sent and acknowledged."""
        while not self.is_empty:
            await self._wait_moved()

    async def wait_kept(self) -> None:
        """Wait until everything is on disk, the daemon's or the gateway's."""
        while not self.is_kept:
            await self._wait_moved()

    async def drained(self, limit_s: float) -> Drained:
        """Have everything sent that was captured until now, and wait for that, so long at most."""
        waited = len(self._calls) + self.unacknowledged + self.spooled
        until = self.num_gone + waited  # first in, first out
        self._wanted.set()
        with anyio.move_on_after(limit_s):
            while self.num_gone < until and not self.is_empty:
                await self._wait_moved()
        left = 0 if self.is_empty else max(0, until - self.num_gone)
        return Drained(waited=waited, left=left)

    async def wait_wanted(self) -> None:
        """Wait until somebody wants what was captured to be sent."""
        await self._wanted.wait()
        self._wanted = anyio.Event()

    async def flush(self) -> None:
        """Wait until nothing is in memory alone, 2 s at most."""
        with anyio.move_on_after(_FLUSH_S):
            await self.wait_kept()

    async def _wait_moved(self) -> None:
        if self._moved.is_set():  # else others wait for it too
            self._moved = anyio.Event()
        await self._moved.wait()

    def counts(self) -> dict[str, int]:
        """The counters as `LaneStatus.captured` shows them."""
        return {
            "queued": len(self._calls) + self.unacknowledged,
            "spooled": self.spooled,
            "sent": self.sent,
            "dropped": self.dropped,
            "refused": self.refused,
            "skipped": self.skipped,
            "damaged": self.damaged,
            "spooled_bytes": self.spooled_bytes,
            "spooled_since_ms": self.spooled_since_ms,
            "spool_failing": int(self.is_spool_failing),
        }


class Tape:
    """The tee of one request: collects the answer as it passes."""

    __slots__ = (
        "_adapter_id",
        "_captured",
        "_chunks",
        "_endpoint",
        "_labels",
        "_request",
        "_size",
        "_started_at_ms",
        "_started_s",
        "receipt_id",
    )

    def __init__(
        self,
        captured: Captured,
        labels: Labels,
        *,
        endpoint: str,
        request: bytes,
        adapter_id: str | None,
    ) -> None:
        self.receipt_id = uuid7()
        self._captured = captured
        self._labels = labels
        self._endpoint = endpoint
        self._request = request
        self._adapter_id = adapter_id
        self._chunks: list[bytes] = []
        self._size = 0
        self._started_s = time.monotonic()
        self._started_at_ms = now_ms()

    def add(self, chunk: bytes) -> None:
        """A piece of the answer; beyond 4 MiB the tape is empty and stays so."""
        self._size += len(chunk)
        if self._size <= TAPE_MAX_BYTES:
            self._chunks.append(chunk)
        else:
            self._chunks.clear()

    def finish(self, *, is_stream: bool) -> None:
        """The answer is complete: hand it over."""
        if self._size > TAPE_MAX_BYTES:
            self._captured.drop(f"the answer is longer than {TAPE_MAX_BYTES} bytes")
            return
        self._captured.offer(
            Call(
                receipt_id=self.receipt_id,
                labels=self._labels,
                endpoint=self._endpoint,
                scenario=self._captured.scenario,
                adapter_id=self._adapter_id,
                started_at_ms=self._started_at_ms,
                latency_ms=round((time.monotonic() - self._started_s) * 1000),
                request=self._request,
                answer=b"".join(self._chunks),
                is_stream=is_stream,
            )
        )
