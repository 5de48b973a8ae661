"""Canaries in the loop, on a real store: tried, ruled on by what was done, overruled, found again after a restart."""

import pytest

from honed.config import Config
from honed.errors import ApplyError, ConfigError, ControlError
from honed.loop.in_service import AppliedNow, Skipped
from honed.ports import EpisodeFilter
from honed.rooms import canaries_of
from tests.feed_parts import call, failure, incoming, success
from tests.unit.loop.conftest import SCENARIO, Serving, gate, model
from tests.unit.loop.trial import LIVE, NEXT, TRIED, Trial

pytestmark = pytest.mark.anyio


async def test_a_model_that_may_go_live_is_tried_first(trial: Trial) -> None:
    """It gets its share, and what is in service stays."""
    offered = await trial.offer(TRIED)
    assert offered == Skipped(TRIED, "it is tried on 10% of the tasks")
    assert (trial.lane.served, trial.lane.candidate and trial.lane.candidate.model_id) == (
        LIVE,
        TRIED,
    )
    canary = await trial.now()
    assert (canary.model_id, canary.incumbent_id, canary.share) == (TRIED, LIVE, 0.1)
    assert [event for event, _ in trial.told] == ["canary.started"]
    shown = await trial.watch.told()
    assert shown is not None
    assert (shown["state"], shown["next_look"], shown["tasks_per_arm"]) == ("watching", 20, 0)


async def test_an_order_that_was_carried_out_too_late_is_taken_back(trial: Trial) -> None:
    """Nobody watches what the gateway tries then; it would have its share for ever, and no other one could."""
    trial.lane.fault = ApplyError("POST canary failed: ReadTimeout('')")
    with pytest.raises(ApplyError):
        await trial.offer(TRIED)
    trial.lane.fault = None
    trial.lane.answered(TRIED)  # it went on, and was done after all
    trial.begin()
    await trial.watch.look()
    assert (trial.lane.candidate, trial.lane.served) == (None, LIVE)
    await trial.offer(NEXT)
    assert (await trial.now()).model_id == NEXT


async def test_what_gets_all_tasks_is_not_tried(trial: Trial) -> None:
    """Nothing would be left to compare with, and the trial would never end; a shadow leaves everything."""
    await trial.add(TRIED)
    with pytest.raises(ControlError, match="nothing is left to compare with"):
        await trial.watch.begin(TRIED, share=1.0, is_shadow=False, force=False, by="ann")
    trial.begin(share=1.0, is_shadow=True)
    with pytest.raises(ControlError, match="nothing is left to compare with"):
        await trial.watch.begin(TRIED, share=None, is_shadow=False, force=False, by="ann")
    await trial.watch.begin(TRIED, share=None, is_shadow=True, force=False, by="ann")
    assert (await trial.now()).share == 1.0


async def test_a_worse_one_is_rolled_back(trial: Trial) -> None:
    """By itself, with the figures, and nothing of it stays in the history."""
    await trial.offer(TRIED)
    await trial.work(LIVE, 30, done=24)
    await trial.work(TRIED, 16, done=1)
    await trial.watch.look()
    over = await trial.newest()
    assert (over.state, trial.lane.candidate, trial.lane.served) == ("rolled_back", None, LIVE)
    assert over.reason.startswith("fewer tasks done: 6.2% of 16 against 80.0% of 30, p ")
    event, details = trial.told[-1]
    assert (event, details["model_id"], details["reason"]) == (
        "canary.rolled_back",
        TRIED,
        over.reason,
    )
    assert [entry.model_id for entry in await trial.store.history(SCENARIO)] == [LIVE]
    assert await trial.watch.told() is None


async def test_a_better_one_goes_live(trial: Trial) -> None:
    """It keeps the server that it has, and the history says so."""
    await trial.offer(TRIED)
    await trial.work(LIVE, 80, done=24)
    await trial.work(TRIED, 80, done=72)
    await trial.watch.look()
    over = await trial.newest()
    assert (over.state, trial.lane.served, trial.lane.candidate) == ("promoted", TRIED, None)
    assert over.decided_by is None
    history = await trial.store.history(SCENARIO)
    assert [entry.model_id for entry in history] == [LIVE, TRIED]
    assert trial.told[-1][0] == "canary.promoted"


@pytest.mark.parametrize(
    ("change", "sign"),
    [({"tools": 0}, "fewer tool calls"), ({"chars": 40}, "shorter answers")],
)
async def test_success_without_the_work_holds_the_promotion(
    trial: Trial, change: dict[str, int], sign: str
) -> None:
    """A reward that is gamed looks like this: a person decides, who may promote it all the same."""
    await trial.offer(TRIED)
    await trial.work(LIVE, 80, done=24)
    await trial.work(TRIED, 80, done=72, **change)
    await trial.watch.look()
    held = await trial.now()
    assert (held.state, trial.lane.served) == ("held", LIVE)
    assert sign in held.reason
    assert trial.told[-1][0] == "canary.held"
    await trial.watch.look()
    assert (await trial.now()).state == "held", "nothing but a person decides it now"
    over = await trial.watch.promote(by="ann")
    assert (over.state, over.decided_by, trial.lane.served) == ("promoted", "ann", TRIED)


async def test_a_judge_that_disagrees_holds_the_promotion(trial: Trial) -> None:
    """The verifier counts successes, and the judge calls them failures: that is an alarm of `rewards.alarms`."""
    await trial.offer(TRIED)
    await trial.work(LIVE, 80, done=40)
    await trial.work(TRIED, 80, done=76)
    opinions = []
    good = await trial.store.list_episodes(
        EpisodeFilter(outcomes=frozenset({"success"}), limit=1_000)
    )
    for adapter, says in ((LIVE, success), (TRIED, failure)):
        mine = [each.id for each in good if each.adapter_id == adapter][:35]
        opinions += [says(episode_id=id, source="judge:m") for id in mine]
    await trial.store.append([incoming(event) for event in opinions])
    await trial.watch.look()
    held = await trial.now()
    assert held.state == "held"
    assert "the judge disagrees" in held.reason


async def test_a_restart_goes_on_where_it_was(trial: Trial) -> None:
    """Looks are not taken twice, and a gateway that forgot the model gets it again; what was done counts on."""
    await trial.offer(TRIED)
    await trial.work(LIVE, 30, done=20)
    await trial.work(TRIED, 20, done=13)
    await trial.watch.look()
    before = await trial.now()
    assert [look.num for look in before.looks["worse"]] == [24]
    trial.lane.candidate = None
    trial.begin()
    await trial.watch.look()
    after = await trial.now()
    assert (after.looks, after.after_record) == (before.looks, before.after_record)
    assert trial.lane.candidate is not None
    await trial.work(LIVE, 30, done=20)
    await trial.work(TRIED, 40, done=0)
    await trial.watch.look()
    assert (await trial.newest()).state == "rolled_back"


async def test_what_was_under_way_when_it_began_is_not_compared(trial: Trial) -> None:
    """Such attempts may have been answered by both."""
    calls = [call(task_id=f"old-{n}", adapter_id=LIVE) for n in range(30)]
    await trial.store.append([incoming(event) for event in calls])
    await trial.offer(TRIED)
    more = [call(task_id=f"old-{n}", adapter_id=TRIED) for n in range(30)]
    ends = [failure(task_id=f"old-{n}") for n in range(30)]
    await trial.store.append([incoming(event) for event in [*more, *ends]])
    await trial.work(LIVE, 30, done=20)
    await trial.watch.look()
    assert (await trial.watch.told() or {})["candidate"]["tasks"] == 0


async def test_one_at_a_time_the_next_waits(trial: Trial) -> None:
    """It begins when the one before is over, without anybody's doing."""
    await trial.offer(TRIED)
    waits = await trial.offer(NEXT)
    assert waits == Skipped(NEXT, f"{TRIED} is tried now; it is the next one")
    with pytest.raises(ControlError, match="one at a time"):
        await trial.watch.begin(NEXT, share=None, is_shadow=False, force=False, by="ann")
    await trial.watch.withdraw(by="ann")
    await trial.watch.look()
    assert (await trial.now()).model_id == NEXT
    assert trial.lane.candidate is not None
    assert trial.lane.candidate.model_id == NEXT


async def test_a_held_one_gives_way_to_the_next(trial: Trial) -> None:
    """Nobody has decided, and a newer model is there that has learned from more."""
    trial.begin(max_tasks=100)
    await trial.offer(TRIED)
    await trial.work(LIVE, 100, done=70)
    await trial.work(TRIED, 100, done=70)
    await trial.watch.look()
    held = await trial.now()
    assert held.state == "held"
    assert held.reason.startswith("neither better nor worse: 70.0% of 100 tasks done")
    assert (await trial.offer(NEXT)).reason == "it is tried on 10% of the tasks"
    former = (await trial.store.canaries.list(SCENARIO))[1]
    assert (former.state, former.reason) == ("withdrawn", f"{NEXT} takes its place")


async def test_another_model_in_service_ends_it(trial: Trial) -> None:
    """Then it was compared with what does not serve any more."""
    await trial.offer(TRIED)
    await trial.add(NEXT)
    await trial.service.apply(NEXT, force=True)
    await trial.watch.look()
    over = await trial.newest()
    assert (over.state, over.reason) == ("withdrawn", f"{NEXT} was put into service meanwhile")
    assert trial.lane.candidate is None


async def test_the_tried_one_may_be_applied_by_hand(trial: Trial) -> None:
    """Whoever does so has promoted it."""
    await trial.offer(TRIED)
    await trial.service.apply(TRIED, force=True)
    await trial.watch.look()
    assert (await trial.newest()).state == "promoted"


async def test_a_gateway_that_is_away_is_asked_again(trial: Trial) -> None:
    """What was ruled is ruled again, and done then: nothing is lost by it."""
    await trial.offer(TRIED)
    await trial.work(LIVE, 30, done=24)
    await trial.work(TRIED, 16, done=1)
    trial.lane.fault = ApplyError("no gateway listens")
    with pytest.raises(ApplyError):
        await trial.watch.look()
    assert (await trial.now()).looks == {}
    trial.lane.fault = None
    await trial.watch.look()
    assert (await trial.newest()).state == "rolled_back"


async def test_a_model_that_cannot_be_served_is_not_tried(trial: Trial) -> None:
    """It is written down why; what serves serves on."""
    await trial.add(TRIED)
    trial.lane.fault = ApplyError("the probe failed")
    with pytest.raises(ApplyError, match="the probe failed"):
        await trial.watch.begin(TRIED, share=0.3, is_shadow=False, force=False, by="ann")
    over = await trial.newest()
    assert (over.state, over.reason) == ("withdrawn", "it could not be served: the probe failed")
    trial.lane.fault = None
    await trial.watch.look()
    assert trial.lane.candidate is None, "and not tried again by itself"


@pytest.mark.parametrize("restarts", [False, True])
async def test_requests_that_fail_roll_it_back(trial: Trial, restarts: bool) -> None:
    """Counted by the gateway, through its restarts; those before it began are not counted."""
    trial.lane.requests, trial.lane.failed = 5_000, 4_000
    await trial.offer(TRIED)
    trial.lane.requests, trial.lane.failed = 5_300, 4_008
    trial.lane.answered(TRIED, requests=30, failed=4)
    await trial.watch.look()
    assert (await trial.now()).state == "watching"
    if restarts:
        trial.lane.requests, trial.lane.failed = 300, 6
        trial.lane.answered(TRIED, requests=30, failed=5)
    else:
        trial.lane.requests, trial.lane.failed = 5_600, 4_014
        trial.lane.answered(TRIED, requests=60, failed=9)
    await trial.watch.look()
    over = await trial.newest()
    assert over.state == "rolled_back"
    assert over.reason.startswith("more requests failed: 15.0% of 60 against 0.9% of 540")


async def test_a_server_that_fails_too_often_ends_it(trial: Trial) -> None:
    """The gateway has given it up."""
    await trial.offer(TRIED)
    trial.lane.answered(TRIED, state="withdrawn", error="it died of signal 9")
    await trial.watch.look()
    over = await trial.newest()
    assert over.state == "rolled_back"
    assert over.reason == "its server failed too often: it died of signal 9"


async def test_a_shadow_is_compared_and_never_promoted(trial: Trial) -> None:
    """By its copies: what it says at what length, how long it takes. Nobody has seen them, so nobody promotes it."""
    trial.begin(is_shadow=True, max_tasks=100)
    await trial.offer(TRIED)
    assert trial.lane.candidate is not None
    assert trial.lane.candidate.is_shadow
    events = []
    for number in range(100):
        told = {"receipt_id": f"r{number}", "task_id": f"t{number}", "latency_ms": 100 + number}
        events.append(call(adapter_id=LIVE, **told))
        copy = {"purpose": "probe", "train": False, "tags": {"shadow_of": f"r{number}"}}
        events.append(call(adapter_id=TRIED, latency_ms=110 + number, **copy))
    await trial.store.append([incoming(event) for event in events])
    trial.lane.requests = 100
    trial.lane.answered(TRIED, is_shadow=True, requests=100)
    await trial.watch.look()
    held = await trial.now()
    assert (held.state, held.reason) == (
        "held",
        "no more errors and no longer waits than what serves",
    )
    with pytest.raises(ControlError, match="in shadow"):
        await trial.watch.promote(by="ann")
    assert (trial.lane.served, trial.lane.candidate) == (LIVE, None)


async def test_by_hand_only_what_the_gate_has_passed_is_tried(trial: Trial) -> None:
    """Unless by force; the share is the one that is named, else that of the config."""
    trial.begin(share=0)
    await trial.store.add_model(model(TRIED, gate=gate("fail", LIVE)))
    with pytest.raises(ControlError, match="gate: fail"):
        await trial.watch.begin(TRIED, share=None, is_shadow=False, force=False, by="ann")
    begun = await trial.watch.begin(TRIED, share=None, is_shadow=False, force=True, by="ann")
    assert begun.share == 0.1
    await trial.watch.withdraw(by="bob")
    assert (await trial.newest()).decided_by == "bob"
    for decide in (trial.watch.withdraw, trial.watch.promote):
        with pytest.raises(ControlError, match="nothing is tried now"):
            await decide(by="bob")


async def test_a_share_needs_an_applier_with_two_versions(trial: Trial) -> None:
    """One that a program has given and that serves one version is refused at the start; without a share it is not."""
    config = Config(scenario=SCENARIO, apply={"canary": {"share": 0.1}})
    with pytest.raises(ConfigError, match="Serving serves one version at a time"):
        canaries_of(config, Serving(), trial.store, trial.service, lambda *_: None)
    plain = Config(scenario=SCENARIO)
    watch = canaries_of(plain, Serving(), trial.store, trial.service, lambda *_: None)
    await watch.look()
    await trial.add(TRIED)
    with pytest.raises(ControlError, match="only behind the gateway"):
        await watch.begin(TRIED, share=None, is_shadow=False, force=False, by="ann")


async def test_without_a_share_nothing_is_tried_by_itself(trial: Trial) -> None:
    """What the gate has passed goes live at once, as ever."""
    trial.begin(share=0)
    assert await trial.offer(TRIED) == AppliedNow(TRIED, LIVE)
    await trial.watch.look()
    assert await trial.store.canaries.list(SCENARIO) == []
