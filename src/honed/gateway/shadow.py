"""Copies of requests, which a candidate answers and nobody sees.

As many at a time as a server has slots; what comes while all are busy is dropped and counted, so no request waits for
a copy, its own or another's. An answer is captured with the purpose `probe`, which is not learned from, and with the
receipt of the call that it copies as its tag `shadow_of`.
"""

from collections.abc import Callable
from typing import Final

import anyio
from msgspec.structs import replace

from honed.gateway.backend import Backend
from honed.gateway.candidate import Candidate
from honed.gateway.capture import Tape
from honed.gateway.labels import Labels
from honed.gateway.lane import Lane
from honed.gateway.upstream import Exchange, Head, UpstreamError
from honed.gateway.wanted import Wanted

BODY_MAX: Final = 1 << 20
"""Bytes; a longer request is not copied: a copy holds its body for longer than the client waits."""
TIMEOUT_S: Final = 600.0
"""For one copy; an answer that never ends would keep a slot from all others."""
SHADOW_OF: Final = "shadow_of"
"""Tag of an answer to a copy: the receipt of the call that was copied."""


def copy(
    lane: Lane,
    wanted: Wanted,
    labels: Labels,
    *,
    receipt_id: str,
    endpoint: str,
    body: bytes,
    to: Callable[[Backend], bytes],
) -> None:
    """Have the candidate answer a call as well, if it is one of the shadow's share; never waits.

    Args:
        lane: where the call is answered.
        wanted: what it wants; a call that names a version is not copied.
        labels: its labels; only work is copied.
        receipt_id: its receipt.
        endpoint: its path.
        body: its body.
        to: the request as bytes for a server.
    """
    candidate = lane.arms.candidate
    if candidate is None or candidate.backend is None or not candidate.order.is_shadow:
        return
    if labels.purpose != "work" or wanted.version is not None or not candidate.has(wanted):
        return
    is_busy = candidate.num_copies >= lane.section.parallel
    if is_busy or candidate.copies is None or len(body) > BODY_MAX:
        candidate.dropped += 1
        return
    backend = candidate.backend
    told = replace(labels, purpose="probe", train=False, tags={SHADOW_OF: receipt_id})
    tape = Tape(lane.captured, told, endpoint=endpoint, request=body, adapter_id=backend.model_id)
    candidate.num_copies += 1
    candidate.requests += 1
    backend.in_flight += 1
    candidate.copies.start_soon(_answer, candidate, backend, to(backend), tape)


async def _answer(candidate: Candidate, backend: Backend, request: bytes, tape: Tape) -> None:
    try:
        await _ask(backend, request, tape)
    except (UpstreamError, TimeoutError):
        candidate.failed += 1
    finally:
        candidate.num_copies -= 1
        backend.leave()


async def _ask(backend: Backend, request: bytes, tape: Tape) -> None:
    exchange = Exchange("POST")
    try:
        with anyio.fail_after(TIMEOUT_S):
            await exchange.open(backend.address, request)
            head = await exchange.head()
            while chunk := await exchange.read():
                backend.is_heard = True
                tape.add(chunk)
    finally:
        exchange.abort()
    if head.status == 200:
        tape.finish(is_stream=_is_stream(head))
    elif head.status >= 500:
        raise UpstreamError(f"the candidate answered with {head.status}")


def _is_stream(head: Head) -> bool:
    kinds = [value for name, value in head.headers if name == b"content-type"]
    return any(kind.lower().startswith(b"text/event-stream") for kind in kinds)
