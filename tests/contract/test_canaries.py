"""What the store knows of canaries, and of the attempts that their versions have answered."""

import msgspec
import pytest

from honed.client.wire import new_event_id
from honed.domain.canary import Canary, Look, Requests
from honed.errors import ValidationError
from honed.ports import Done, Tasks
from honed.stores import SqlStore
from tests.contract.test_models import model
from tests.feed_parts import action, call, close_all, failure, incoming, success

pytestmark = pytest.mark.anyio


def canary(number: int = 2, **changed: object) -> Canary:
    made = Canary(
        scenario="airline",
        model_id=f"airline@{number}",
        incumbent_id="airline@1",
        learn_model="chat",
        share=0.1,
        started_at_ms=1_000 * number,
    )
    return msgspec.structs.replace(made, **changed)


async def test_a_canary_is_kept_with_all_that_was_seen(store: SqlStore) -> None:
    """The one that has its share is found, until it is over; the newest comes first in the list."""
    assert await store.canaries.now("airline") is None
    first = canary(2)
    await store.canaries.write(first)
    seen = msgspec.structs.replace(
        first,
        looks={"worse": (Look(20, 0.5, 0.001),), "work": (Look(21),)},
        live_requests=Requests(num=9, seen_num=9),
        state="held",
        reason="neither",
    )
    await store.canaries.write(seen)
    assert await store.canaries.now("airline") == seen
    assert await store.canaries.now("rail") is None
    over = seen.ended("withdrawn", "enough", at_ms=3_000, by="ann")
    await store.canaries.write(over)
    assert await store.canaries.now("airline") is None
    await store.canaries.write(canary(3))
    assert await store.canaries.now("airline") == canary(3)
    assert await store.canaries.list("airline") == [canary(3), over]


async def test_a_model_that_is_tried_is_not_deleted(store: SqlStore) -> None:
    """Its files are being served."""
    await store.add_model(model(2))
    await store.canaries.write(canary(2))
    with pytest.raises(ValidationError, match="airline@2 is tried"):
        await store.delete_model("airline@2")
    await store.canaries.write(canary(2).ended("withdrawn", "enough", at_ms=3_000))
    assert await store.delete_model("airline@2")


async def _attempt(
    store: SqlStore, task: str, adapter: str | None, *told: dict[str, object]
) -> None:
    events = [call(task_id=task, adapter_id=adapter, latency_ms=200) for _ in range(2)]
    await store.append([incoming(event) for event in [*events, *told]])


async def test_attempts_are_told_apart_by_the_version_that_answered(store: SqlStore) -> None:
    """Those that began before the canary did are nobody's, nor those without any call or action."""
    await _attempt(store, "before", "airline@2")
    mark = await store.canaries.newest_record()
    assert mark == 2
    await _attempt(store, "before", "airline@2", success(task_id="before"))
    await _attempt(store, "a", "airline@2", success(task_id="a"), action(task_id="a"))
    await _attempt(store, "b", "airline@2", failure(task_id="b"))
    await _attempt(store, "c", "airline@2")
    await _attempt(store, "d", "airline@1", success(task_id="d"))
    await _attempt(store, "e", None, success(task_id="e"))
    await close_all(store, now_ms=9_000)
    mine = canary(2, after_record=mark)
    assert await store.canaries.tasks(mine) == {
        "airline@2": Tasks(num=3, known=2, successes=1),
        "airline@1": Tasks(num=1, known=1, successes=1),
        None: Tasks(num=1, known=1, successes=1),
    }
    found = await store.canaries.done(mine, "airline@2", limit=9)
    expected = [
        Done(9_000, True, 1, 4, 400, 1.0),
        Done(9_000, False, 0, 4, 400, 0.0),
        Done(9_000, None, 0, 4, 400),
    ]
    assert sorted(found, key=str) == sorted(expected, key=str)
    assert len(await store.canaries.done(mine, "airline@2", limit=2)) == 2
    (base,) = await store.canaries.done(mine, None, limit=9)
    assert base.is_success


async def test_a_clock_that_is_put_back_hides_no_task(store: SqlStore) -> None:
    """What began when is told by the order of arrival; the clock may be wrong by an hour."""
    await _attempt(store, "before", "airline@2", success(task_id="before"))
    mark = await store.canaries.newest_record()
    await _attempt(store, "a", "airline@2", success(task_id="a"))
    await close_all(store, now_ms=9_000)
    mine = canary(2, after_record=mark, started_at_ms=9_000 + 3_600_000)
    assert await store.canaries.tasks(mine) == {"airline@2": Tasks(1, 1, 1)}
    assert await store.canaries.tasks(canary(2, started_at_ms=9_001 + 3_600_000)) == {}


async def test_what_both_versions_have_answered_is_nobody_s(store: SqlStore) -> None:
    """Nor what somebody chose the version of, nor a call that belongs to nothing: the share did not decide those."""

    def captured(adapter: str | None, **told: object) -> dict[str, object]:
        receipt = new_event_id()
        return call(**{"adapter_id": adapter, "receipt_id": receipt} | told) | {"event_id": receipt}

    calls = {
        "mixed": [captured("airline@1"), captured("airline@2")],
        "mixed with the base": [captured(None), captured("airline@2")],
        "pinned": [captured("airline@2", model="airline@2")],
        "one": [captured("airline@2"), captured("airline@2")],
        "the client told it, too": [captured("airline@2"), call(adapter_id=None)],
        "the client names it": [call(adapter_id="airline@2", model="airline@2")],
    }
    for task, told in calls.items():
        await store.append([incoming(each | {"task_id": task}) for each in told])
        await store.append([incoming(success(task_id=task))])
    alone = captured("airline@2")
    said = success(receipt_id=alone["receipt_id"])
    await store.append([incoming(alone), incoming(said)])
    await close_all(store, now_ms=9_000)
    found = await store.canaries.tasks(canary(2))
    assert found == {"airline@2": Tasks(num=3, known=3, successes=3)}


async def test_a_group_of_single_calls_counts_once(store: SqlStore) -> None:
    """All of them have one version: whoever asks a thousand times under one name decides nothing. The newest of which
    the end is known stands for it.
    """
    for says in (failure, failure, success, None):
        one = call(adapter_id="airline@2", group_id="g", receipt_id=new_event_id())
        ends = [says(receipt_id=one["receipt_id"])] if says else []
        await store.append([incoming(event) for event in [one, *ends]])
        await close_all(store, now_ms=9_000)
    session = [call(adapter_id="airline@1", session_id="s", group_id="g2") for _ in range(3)]
    await store.append([incoming(event) for event in [*session, failure(session_id="s")]])
    await close_all(store, now_ms=9_000)
    assert await store.canaries.tasks(canary(2)) == {
        "airline@2": Tasks(num=1, known=1, successes=1),
        "airline@1": Tasks(num=1, known=1),
    }
    (done,) = await store.canaries.done(canary(2), "airline@2", limit=9)
    assert (done.is_success, done.score) == (True, 1.0)


async def test_copies_are_paired_with_the_calls_that_they_repeat(store: SqlStore) -> None:
    """A call that was not copied is not compared, nor a copy whose call never came, nor another version's."""
    says = {"role": "assistant", "content": "longer words"}
    await store.append([incoming(call(receipt_id="r0", adapter_id="airline@1"))])
    mark = await store.canaries.newest_record()
    for receipt, shadow in (("r1", "airline@2"), ("r2", "airline@9"), ("r3", None)):
        events = [call(receipt_id=receipt, adapter_id="airline@1", latency_ms=5, task_id="t")]
        if shadow:
            tags = {"shadow_of": receipt}
            copy = {"purpose": "probe", "train": False, "tags": tags, "latency_ms": 7}
            events.append(call(adapter_id=shadow, response_message=says, **copy))
        await store.append([incoming(event) for event in events])
    others = [call(receipt_id=f"o{n}", adapter_id="airline@1") for n in range(60)]
    await store.append([incoming(event) for event in others])
    lost = {"purpose": "probe", "tags": {"shadow_of": "r0"}}
    await store.append([incoming(call(adapter_id="airline@2", **lost))])
    mine = canary(2, after_record=mark)
    copies, originals = await store.canaries.copies(mine, limit=1)
    assert copies == [Done(1_000, None, 0, 12, 7)]
    assert originals == [Done(1_000, None, 0, 4, 5)]
