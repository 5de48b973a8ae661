"""Whatever happens on the way, the store ends up as if each event had been sent once."""

import contextlib
import json
import os
import tempfile
from collections.abc import Sequence
from datetime import timedelta
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import anyio
import pytest
from anyio.streams.buffered import BufferedByteReceiveStream
from hypothesis import given, settings
from hypothesis import strategies as st

from honed.client import AsyncHonedClient
from honed.domain.times import now_ms
from honed.sources import SocketSource
from tests.feed_parts import Intake, action, call, close_all, line, open_intake, success

EXAMPLES = int(os.environ.get("EXAMPLES", "2000"))
EVENTS = [
    event
    for task in ("t1", "t2", "t3")
    for event in (
        action(task_id=task, event_id=f"{task}-look"),
        call(task_id=task, event_id=f"{task}-call", receipt_id=f"{task}-r"),
        action(task_id=task, event_id=f"{task}-jump", name="jump", target="ü" * 700),
        success(0.5, task_id=task, event_id=f"{task}-end"),
    )
]
LINES = [line(event) + b"\n" for event in EVENTS]


class Send(NamedTuple):
    """Events in one or two pieces, all answers read."""

    events: list[int]
    cut_at: float


class Leave(NamedTuple):
    """Events up to somewhere, perhaps the middle of a line; then the peer is gone, its answers unread."""

    events: list[int]
    share: float


class Contradict(NamedTuple):
    """Another content under a known id, or a new one's."""

    event: int


class Nonsense(NamedTuple):
    """A line that is no event."""

    text: bytes


class Restart(NamedTuple):
    """The daemon goes and comes back; a connection is open, perhaps with lines that it has not read."""

    events: list[int]


Step = Send | Leave | Contradict | Nonsense | Restart
some = st.lists(st.integers(0, len(EVENTS) - 1), min_size=1, max_size=8)
steps = st.lists(
    st.one_of(
        st.builds(Send, some, st.floats(0, 1)),
        st.builds(Leave, some, st.floats(0, 1)),
        st.builds(Contradict, st.integers(0, len(EVENTS) - 1)),
        st.builds(Nonsense, st.binary(max_size=20).map(lambda text: text.replace(b"\n", b""))),
        st.builds(Restart, some),
    ),
    max_size=10,
)


async def play(folder: Path, played: Sequence[Step]) -> Any:
    """Let it all happen, send every event once more as a client does; what the store holds then."""
    rest = list(played)
    while True:
        async with (
            open_intake(folder / "honed.db", settle=timedelta(hours=1)) as intake,
            opened(folder, intake),
        ):
            pending = await until_restart(folder, rest)
            if pending is None:
                at_least, at_most = mentioned(played)
                assert at_least <= (await intake.store.stats()).num_records <= at_most
                async with AsyncHonedClient(folder / "feed.sock") as client:
                    await client.send_lines([each[:-1] for each in LINES])
                return await content(intake)
        await pending.aclose()


@contextlib.asynccontextmanager
async def opened(folder: Path, intake: Intake) -> Any:
    source = SocketSource(folder / "feed.sock", intake.sink, scenario="airline", line_max=1 << 20)
    async with source.open():
        yield


async def until_restart(folder: Path, rest: list[Step]) -> anyio.abc.SocketStream | None:
    """The steps up to a restart, whose connection is left open; None when there are no more."""
    while rest:
        step = rest.pop(0)
        stream = await anyio.connect_unix(folder / "feed.sock")
        if isinstance(step, Restart):
            await stream.send(joined(step.events))
            return stream
        async with stream:
            await take(stream, step)
    return None


async def take(stream: anyio.abc.SocketStream, step: Step) -> None:
    match step:
        case Send(events, cut_at):
            data = joined(events)
            cut = round(cut_at * len(data))
            for piece in (data[:cut], data[cut:]):
                if piece:
                    await stream.send(piece)
                    await anyio.sleep(0.001)  # mostly enough for the pieces to be read one by one
            assert await heard(stream, len(events)) == []
        case Leave(events, share):
            data = joined(events)
            await stream.send(data[: round(share * len(data))])
        case Contradict(event):
            await stream.send(LINES[event])  # so that it is known
            assert await heard(stream, 1) == []
            await stream.send(line(EVENTS[event] | {"tags": {"other": "yes"}}) + b"\n")
            assert await heard(stream, 2) == ["conflict"]
        case Nonsense(text):
            await stream.send(text + b"\n" + LINES[0])
            num_bad = bool(text.strip())
            assert await heard(stream, 1 + num_bad) == ["invalid"] * num_bad


async def heard(stream: anyio.abc.SocketStream, num_lines: int) -> list[str]:
    """Read until the newest ack covers so many lines; the codes of the errors before it."""
    replies, codes = BufferedByteReceiveStream(stream), []
    with anyio.fail_after(20):
        while True:
            reply = json.loads(await replies.receive_until(b"\n", 1 << 20))
            if reply["type"] == "error":
                codes.append(reply["code"])
            elif reply["line"] >= num_lines:
                return codes


def mentioned(played: Sequence[Step]) -> tuple[int, int]:
    """How many events were acknowledged, and how many may have been read."""
    acked: set[int] = set()
    read: set[int] = set()
    for step in played:
        match step:
            case Send(events, _):
                acked.update(events)
            case Contradict(event):
                acked.add(event)
            case Nonsense():
                acked.add(0)
            case Leave(events, _) | Restart(events):
                read.update(events)
    return len(acked), len(acked | read)


def joined(events: Sequence[int]) -> bytes:
    return b"".join(LINES[event] for event in events)


async def content(intake: Intake) -> Any:
    """Everything that does not depend on when it came."""
    stats = await intake.store.stats()
    episodes = await close_all(intake.store, now_ms=now_ms() + 10_000)
    told = sorted(
        (
            episode.task_id,
            repr(episode.outcome),
            sorted(
                (record.event_id or "", json.dumps(comparable(record), sort_keys=True))
                for record in episode.records
            ),
        )
        for episode in episodes
    )
    return stats.num_records, stats.open_groups, stats.num_late, told


def comparable(record: Any) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(json.dumps(record, default=as_dict))
    for of_arrival in ("record_id", "timestamp_ms"):
        found.pop(of_arrival, None)
    return found


def as_dict(value: Any) -> Any:
    return {name: getattr(value, name) for name in value.__struct_fields__}


@cache
def sent_once() -> Any:
    """What the store holds when each event is sent once."""
    with tempfile.TemporaryDirectory() as name:
        return anyio.run(play, Path(name), ())


def check(played: Sequence[Step]) -> None:
    with tempfile.TemporaryDirectory() as name:
        assert anyio.run(play, Path(name), played) == sent_once()


def test_sent_once_is_what_it_should_be() -> None:
    """Three attempts of four records each, successes all."""
    num_records, open_groups, num_late, episodes = sent_once()
    assert (num_records, open_groups, num_late) == (12, 3, 0)
    assert [(task, len(records)) for task, _, records in episodes] == [
        ("t1", 4),
        ("t2", 4),
        ("t3", 4),
    ]


@given(steps)
@settings(max_examples=60)
def test_any_sequence_leaves_the_same_store(played: list[Step]) -> None:
    """Sends, repeats, cut lines, contradictions, nonsense and restarts."""
    check(played)


@pytest.mark.long
@pytest.mark.timeout(1_800)
@given(steps)
@settings(max_examples=EXAMPLES)
def test_many_sequences_leave_the_same_store(played: list[Step]) -> None:
    """The long form: `EXAMPLES` of them."""
    check(played)
