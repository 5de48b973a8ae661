"""What verifiers, judges and alarms ask of a store."""

import pytest

from honed.domain.composition import Composition, Weight
from honed.domain.outcome import Failure, Success
from honed.domain.records import OutcomeRecord
from honed.ports import Counted, Opinion
from honed.stores import SqlStore, open_store
from tests.feed_parts import action, call, close_all, failure, incoming, success

pytestmark = pytest.mark.anyio

MINE = ("airline", "chat")
LATER = 10**13 - 2


async def test_a_source_begins_after_what_there_is(store: SqlStore) -> None:
    """Its place is its own, and moves only when it says so."""
    assert await store.rewards.position(*MINE, "judge:early") == ""
    await store.append([incoming(call()), incoming(call())])
    old = await close_all(store)
    place = await store.rewards.position(*MINE, "judge:m")
    assert place == max(episode.id for episode in old)
    await store.append([incoming(call(group_id="g")), incoming(call(group_id="g"))])
    new = [episode.id for episode in await close_all(store)]
    found = await store.rewards.episodes_after(*MINE, after=place, until_ms=LATER, limit=9)
    assert [episode.id for episode in found] == sorted(new)
    assert len(found[0].records) == 1
    assert await store.rewards.group(*MINE, "g") == sorted(new)
    assert [episode.id for episode in await store.rewards.episodes(new[::-1])] == new[::-1]
    await store.rewards.advance(*MINE, "judge:m", episode_id=new[0])
    assert await store.rewards.position(*MINE, "judge:m") == new[0]
    assert await store.rewards.position(*MINE, "judge:early") == ""


async def test_episodes_are_due_by_their_age(store: SqlStore) -> None:
    """Those that are younger wait; those of another scenario are nobody's here."""
    await store.append([incoming(call())])
    (one,) = await close_all(store)
    made_ms = int(one.id.partition("-")[0])
    for until_ms, num in ((made_ms - 1, 0), (made_ms, 1), (made_ms + 1, 1)):
        found = await store.rewards.episodes_after(*MINE, after="", until_ms=until_ms, limit=9)
        assert len(found) == num
    assert not await store.rewards.episodes_after("rail", "chat", after="", until_ms=LATER, limit=9)


async def test_episodes_are_counted_without_their_records(store: SqlStore) -> None:
    """Outcome, tools and length; the newest first, no more than asked for."""
    await store.append([incoming(call(task_id="a")), incoming(action(task_id="a"))])
    await store.append([incoming(success(task_id="a"))])
    await close_all(store)
    await store.append([incoming(call(task_id="b")), incoming(call())])
    await close_all(store, now_ms=6_000)
    found = await store.rewards.counted(*MINE, before_ms=LATER, limit=2)
    assert [seen.is_success for seen in found] == [None, None]
    (oldest,) = (await store.rewards.counted(*MINE, before_ms=LATER, limit=9))[2:]
    assert oldest == Counted(5_000, True, 1, 4)


async def test_opinions_are_what_both_have_said_last(store: SqlStore) -> None:
    """A judge against the others; what only one of them has spoken of is left out."""
    await store.append([incoming(call()) for _ in range(3)])
    one, other, alone = [episode.id for episode in await close_all(store)]
    said = [
        success(episode_id=one, source="judge:m"),
        failure(episode_id=one, source="ann"),
        success(episode_id=one, source="bob"),
        failure(episode_id=other, source="judge:m"),
        success(episode_id=other, source="judge:m", version="2"),
        failure(episode_id=other),
        success(episode_id=alone, source="judge:m"),
    ]
    await store.append([incoming(event) for event in said])
    found = await store.rewards.opinions(*MINE, limit=100)
    assert sorted(found) == [
        Opinion(5_000, "judge:m", True, False),
        Opinion(5_000, "judge:m", True, True),
    ]
    assert await store.rewards.opinions(*MINE, limit=1) == []


async def test_a_composition_holds_on_every_database(url: str) -> None:
    """The outcome is made of what all have said; whose it is is told where it is read for a training."""
    heard = Composition(rule="first", weights=(Weight("desk"), Weight("judge:*")))
    async with open_store(url, composition=heard) as store:
        await store.append([incoming(call(task_id="t"))])
        await store.append([incoming(failure(task_id="t", source="judge:m"))])
        (one,) = await close_all(store)
        (read,) = await store.lessons.read([one.id])
        assert read.is_judged
        await store.append([incoming(success(0.5, task_id="t", source="desk"))])
        await store.append([incoming(failure("no!", task_id="t", source="judge:m"))])
        (read,) = await store.lessons.read([one.id])
        assert read.episode.outcome == Success(0.5)
        assert not read.is_judged
        told = [r.outcome for r in read.episode.records if isinstance(r, OutcomeRecord)]
        assert told == [Failure("no"), Success(0.5), Failure("no!")]


async def test_outcomes_of_a_former_rule_are_told_on_every_database(url: str) -> None:
    """Of so many of the newest, with a rule that would make some of them otherwise."""
    async with open_store(url) as store:
        for task in ("t", "u"):
            await store.append([incoming(call(task_id=task))])
            await store.append([incoming(success(0.5, task_id=task, source="desk"))])
        await store.append([incoming(failure(task_id="t", source="bot"))])
        await close_all(store)
        assert await store.rewards.outdated(*MINE, limit=10) == (0, 2)
    if url == "sqlite://":
        return  # it ends with its first opening
    desk_first = Composition(rule="first", weights=(Weight("desk"), Weight("*")))
    async with open_store(url, composition=desk_first) as store:
        assert await store.rewards.outdated(*MINE, limit=10) == (1, 2)
