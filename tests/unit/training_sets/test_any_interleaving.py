"""However the events of a swarm come in, its episodes and its training file are the same.

The events of one attempt come in their order, as one client sends them; those of different attempts in any. Between
them events come again, attempts that have ended become episodes, and the daemon goes and comes back.
"""

import json
import os
import random
import tempfile
from collections.abc import Sequence
from datetime import timedelta
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import anyio
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from honed.domain.records import Record
from honed.ports import Closing, EpisodeFilter
from honed.stores import SqlStore
from honed.training_sets import EpisodeTrainingSets
from tests.feed_parts import CHAT, SECRET, line, open_intake
from tests.made_swarm import interleaved, streams
from tests.slow_reference import expected

EXAMPLES = int(os.environ.get("EXAMPLES", "500"))
FAR_MS = 4_000_000_000_000
ATTEMPTS = streams(24, seed=5)
ORDER = [event for attempt in ATTEMPTS for event in attempt]


class Course(NamedTuple):
    """How the events come in."""

    order: int
    """Seed of the interleaving."""
    repeats: Sequence[tuple[float, float]]
    """Which event comes again, and where behind itself."""
    ends: Sequence[float]
    """Where attempts that have ended become episodes."""
    restarts: Sequence[float]


share = st.floats(0, 1)
courses = st.builds(
    Course,
    st.integers(0, 1 << 32),
    st.lists(st.tuples(share, share), max_size=12),
    st.lists(share, max_size=4),
    st.lists(share, max_size=2),
)


def laid_out(course: Course) -> list[Any]:
    """The events, with `end` and `restart` between them."""
    found: list[Any] = list(interleaved(ATTEMPTS, random.Random(course.order)))
    for which, where in course.repeats:
        at = round(which * (len(found) - 1))
        if "event_id" not in found[at]:
            continue  # nobody can tell whether such an event happened twice or came twice
        found.insert(at + 1 + round(where * (len(found) - at - 1)), found[at])
    for mark, places in (("end", course.ends), ("restart", course.restarts)):
        for place in places:
            found.insert(round(place * len(found)), mark)
    return found


async def play(folder: Path, steps: Sequence[Any]) -> Any:
    """Let it all happen; the episodes, the bytes of the training file, and the held-out rows."""
    rest = list(steps)
    while True:
        async with open_intake(
            folder / "honed.db", settle=timedelta(hours=1), idle=timedelta(0)
        ) as intake:
            while rest and (step := rest.pop(0)) != "restart":
                if step == "end":
                    await end(intake.store)
                else:
                    batch = [step]
                    while rest and isinstance(rest[0], dict):
                        batch.append(rest.pop(0))
                    assert not (await intake.sink.ingest([line(e) for e in batch])).rejected
            if rest:
                continue
            await end(intake.store, idle=True)
            return await outcome(folder, intake.store)


async def end(store: SqlStore, *, idle: bool = False) -> None:
    """Close the groups that have ended, as the sink does, and with `idle` all others."""
    idle_before_ms = FAR_MS if idle else 0
    while groups := await store.open_groups(
        settled_before_ms=FAR_MS, idle_before_ms=idle_before_ms, now_ms=FAR_MS
    ):
        found = await store.group_records([group.id for group in groups])
        closings = []
        for group in groups:
            records = found[group.id]
            made = CHAT.build_episodes(records, now_ms=FAR_MS, final=idle)
            closings.append(Closing(group.id, tuple(map(in_scenario, made)), len(records)))
        assert await store.close_groups(closings)


def in_scenario(episode: Any) -> Any:
    return replace(episode, metadata=replace(episode.metadata, scenario="airline"))


async def outcome(folder: Path, store: SqlStore) -> Any:
    episodes = [episode async for episode in store.query_episodes(EpisodeFilter())]
    told = sorted(
        (
            str(episode.split_key),
            episode.task_id or "",
            repr(episode.outcome),
            [plain(record) for record in episode.records],
        )
        for episode in episodes
    )
    sets = EpisodeTrainingSets(
        store, CHAT, scenario="airline", secret=SECRET, min_rows=1, near_duplicates="drop"
    )
    made = await sets.build(folder / "run")
    held_out = sorted(made.held_out_path.read_text().splitlines())
    return told, made.data_path.read_bytes(), held_out, made.left_out


def plain(record: Record) -> str:
    """What the sender said: neither the store's number nor the time of arrival."""
    fields = {name: getattr(record, name) for name in record.__struct_fields__}
    return repr(fields | {"record_id": None})


@cache
def in_order() -> Any:
    with tempfile.TemporaryDirectory() as folder:
        return anyio.run(play, Path(folder), ORDER)


def check(course: Course) -> None:
    with tempfile.TemporaryDirectory() as folder:
        found = anyio.run(play, Path(folder), laid_out(course))
    for part, should in zip(found, in_order(), strict=True):
        assert part == should


def test_in_order_they_give_what_the_reference_gives() -> None:
    """So that the others are not all wrong in the same way."""
    episodes, data, held_out, _ = in_order()
    should = expected(ORDER, secret=SECRET, fraction=0.2, min_score=0.0)
    rows = sorted(json.dumps(json.loads(row), sort_keys=True) for row in data.splitlines())
    assert rows == sorted(json.dumps(row, sort_keys=True) for row in should.training)
    assert len(held_out) == len(should.held_out) > 0
    assert len(episodes) > 15


@given(courses)
@settings(max_examples=60)
def test_any_interleaving_gives_the_same_training_file(course: Course) -> None:
    """Repeats, early episodes and restarts included."""
    check(course)


@pytest.mark.long
@pytest.mark.timeout(1_800)
@given(courses)
@settings(max_examples=EXAMPLES)
def test_many_interleavings_give_the_same_training_file(course: Course) -> None:
    """The long form: `EXAMPLES` of them."""
    check(course)
