"""Counts of actions while a swarm runs, against counts by hand."""

import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from honed.domain.events import ActionEvent, ActionResult, OutcomeEvent
from honed.domain.outcome import Success
from honed.sources import EventBus, LearningBus
from honed.statistics import OnlineStats, Tally


def act(action: str, success: bool, target: str | None = None) -> ActionEvent:
    return ActionEvent(
        task_id="t",
        tick=1,
        worker_id=0,
        action=action,
        target=target,
        result=ActionResult(success=success),
    )


actions = st.builds(act, st.sampled_from("abc"), st.booleans(), st.none() | st.sampled_from("xy"))


@pytest.mark.feature("SE-214")
@given(st.lists(actions, max_size=60))
def test_counts_are_those_of_a_count_by_hand(told: list[ActionEvent]) -> None:
    """Of all actions, of each, and of each on each target."""
    stats = OnlineStats()
    for event in told:
        stats.record(event)
    worked = [event for event in told if event.result.success]
    assert (stats.total_visits, stats.total_successes) == (len(told), len(worked))
    assert stats.total_failures == len(told) - len(worked)
    if told:
        assert stats.success_rate == len(worked) / len(told)
        assert stats.failure_rate == pytest.approx(1 - stats.success_rate)
    for action in "abc":
        assert stats.of(action) == Tally(
            sum(e.action == action for e in told), sum(e.action == action for e in worked)
        )
        for target in "xy":
            on = [e for e in told if (e.action, e.target) == (action, target)]
            tally = stats.of(action, target)
            assert tally == Tally(len(on), sum(e.result.success for e in on))
            assert tally.failures == len(on) - tally.successes
    stats.reset()
    assert (stats.total_visits, stats.of("a"), stats.of("a", "x")) == (0, Tally(), Tally())
    assert (stats.success_rate, stats.failure_rate) == (0.0, 0.0)


@pytest.mark.feature("SE-214")
def test_threads_are_counted_with_learning_off() -> None:
    """No store, no daemon, a learning bus that is off; only actions count."""
    stats, learning = OnlineStats(), LearningBus()

    def agent(who: str) -> None:
        for n in range(1_000):
            stats.record(act(who, n % 4 > 0))

    threads = [threading.Thread(target=agent, args=(who,)) for who in "aabb"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    stats.record(OutcomeEvent(task_id="t", outcome=Success()))
    assert not learning.is_on
    assert stats.of("a") == stats.of("b") == Tally(2_000, 1_500)
    assert (stats.total_visits, stats.failure_rate) == (4_000, 0.25)


@pytest.mark.anyio
@pytest.mark.feature("SE-214")
async def test_a_listener_of_a_bus_can_keep_them() -> None:
    """What is published is counted in the swarm, whoever else listens."""
    bus, stats = EventBus(), OnlineStats()
    with bus.subscribe() as listener:
        bus.publish_batch([act("a", True), act("a", False, "x")])
        for event in await listener.take(10):
            stats.record(event)
    assert (stats.of("a"), stats.of("a", "x")) == (Tally(2, 1), Tally(1, 0))
