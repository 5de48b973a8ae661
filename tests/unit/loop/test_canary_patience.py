"""How long a canary waits for verdicts, and what becomes of it, and of the model behind it, when none come."""

import pytest

from honed.domain.canary import Requests
from honed.errors import ApplyError, ControlError
from tests.unit.loop.trial import DAY_S, LIVE, NEXT, TRIED, Trial

pytestmark = pytest.mark.anyio


async def test_one_that_gets_no_verdicts_is_held(trial: Trial) -> None:
    """After `max_age`, with the reason; it is not promoted, and does not keep the next one waiting for ever."""
    await trial.offer(TRIED)
    await trial.offer(NEXT)
    await trial.work(LIVE, 0, done=0, untold=9)
    await trial.work(TRIED, 0, done=0, untold=2)
    await trial.look()
    await trial.look(after_s=3 * DAY_S - 1)
    assert (await trial.now()).state == "watching"
    await trial.look(after_s=1)
    held = await trial.now()
    assert (held.state, trial.lane.served) == ("held", LIVE)
    assert held.reason == f"no verdicts came in 3d: not of 2 tasks of {TRIED}, nor of 9 others"
    assert trial.told[-1][0] == "canary.held"
    await trial.look(after_s=30)
    former = (await trial.store.canaries.list("airline"))[1]
    assert (former.state, former.reason) == ("withdrawn", f"{NEXT} takes its place")
    assert (await trial.now()).model_id == NEXT
    assert trial.lane.candidate is not None
    assert trial.lane.candidate.model_id == NEXT


async def test_verdicts_that_come_slowly_are_waited_for(trial: Trial) -> None:
    """Each look begins the wait anew; too few for the next one hold it, with the figures."""
    await trial.offer(TRIED)
    await trial.look()
    await trial.work(LIVE, 20, done=14)
    await trial.work(TRIED, 20, done=14)
    await trial.look(after_s=2 * DAY_S)
    assert (await trial.now()).waited_s == 0
    await trial.work(LIVE, 6, done=4)
    await trial.work(TRIED, 5, done=4, untold=3)
    await trial.look(after_s=2 * DAY_S)
    told = await trial.watch.told() or {}
    assert (told["state"], told["waited_s"], told["max_age_s"]) == (
        "watching",
        2 * DAY_S,
        3 * DAY_S,
    )
    await trial.look(after_s=2 * DAY_S)
    assert (await trial.now()).reason == (
        f"too few verdicts came in 4d: 25 of 28 tasks of {TRIED}, 26 of 26 others; "
        "it is looked at next at 40 of each"
    )


async def test_what_is_held_for_want_of_verdicts_is_still_rolled_back(trial: Trial) -> None:
    """Harm that is told later ends it; success that is told later leaves it to a person, who was asked already."""
    await trial.offer(TRIED)
    await trial.look()
    await trial.look(after_s=3 * DAY_S)
    await trial.work(LIVE, 80, done=24)
    good = await trial.work(TRIED, 80, done=72)
    await trial.look(after_s=30)
    assert ((await trial.now()).state, trial.lane.served) == ("held", LIVE)
    await trial.said(good, "failure")
    await trial.work(TRIED, 80, done=0)
    await trial.work(LIVE, 80, done=24)
    await trial.look(after_s=30)
    assert ((await trial.newest()).state, trial.lane.served) == ("rolled_back", LIVE)


async def test_time_in_which_nobody_watched_is_not_waited(trial: Trial) -> None:
    """A daemon that was down over the weekend, or a gateway that was away, had nothing to see."""
    await trial.offer(TRIED)
    await trial.look()
    await trial.look(after_s=2 * DAY_S)
    trial.begin()
    trial.clock_s = 9 * DAY_S  # another process, another clock
    await trial.look()
    assert (await trial.now()).waited_s == 2 * DAY_S
    trial.lane.fault = ApplyError("no gateway listens")
    with pytest.raises(ApplyError):
        await trial.look(after_s=5 * DAY_S)
    trial.lane.fault = None
    await trial.look(after_s=30)
    assert (await trial.now()).waited_s == 2 * DAY_S + 30


async def test_a_server_that_does_not_come_up_is_told_and_not_waited_for(trial: Trial) -> None:
    """Status says what is wrong with it, and so does the reason why it is held."""
    await trial.offer(TRIED)
    trial.lane.answered(TRIED, state="down", error="it waits for room: 1 MiB are free")
    await trial.look()
    told = await trial.watch.told() or {}
    assert told["server_problem"] == "it waits for room: 1 MiB are free"
    await trial.look(after_s=3 * DAY_S)
    assert (await trial.now()).reason.endswith("0 others; it waits for room: 1 MiB are free")
    trial.lane.answered(TRIED)
    await trial.look(after_s=30)
    assert (await trial.watch.told() or {})["server_problem"] is None


@pytest.mark.parametrize(
    ("copies", "told"),
    [
        (0, "no copies were answered in 3d"),
        (7, "only 7 copies were answered in 3d, where 40 are looked at"),
    ],
)
async def test_a_shadow_that_nobody_asks_is_held(trial: Trial, copies: int, told: str) -> None:
    """It would keep its server, and its place, for ever."""
    trial.begin(is_shadow=True)
    await trial.offer(TRIED)
    trial.lane.requests = copies
    trial.lane.answered(TRIED, is_shadow=True, requests=copies)
    await trial.look()
    await trial.look(after_s=3 * DAY_S)
    held = await trial.now()
    assert (held.state, held.reason) == ("held", told)
    assert held.candidate_requests == Requests(num=copies, seen_num=copies)


async def test_one_that_waited_takes_the_place_of_what_is_held_then(trial: Trial) -> None:
    """Whether it came before or after that was held makes no difference."""
    trial.begin(max_tasks=100)
    await trial.offer(TRIED)
    await trial.offer(NEXT)
    await trial.work(LIVE, 100, done=70)
    await trial.work(TRIED, 100, done=70)
    await trial.look()
    assert (await trial.now()).model_id == TRIED
    await trial.look()
    assert (await trial.now()).model_id == NEXT
    for decide in (trial.watch.promote, trial.watch.withdraw):  # who has read what was held
        with pytest.raises(ControlError, match=f"{NEXT} is tried now, not {TRIED}"):
            await decide(TRIED, by="ann")
    await trial.watch.withdraw(NEXT, by="ann")
    await trial.look()
    assert await trial.watch.told() is None, "none is tried a second time by itself"
