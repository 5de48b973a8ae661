"""A rule tried on a history fires when a slow loop over every second says that it does."""

import random
import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from honed.domain.outcome import Failure, Outcome, Success, Timeout, Unknown, is_known, is_success
from honed.domain.verdict import worth
from honed.triggers import (
    Budget,
    Cooldown,
    Count,
    Every,
    Quality,
    Quiet,
    RunTime,
    TrainTrigger,
    TriggerContext,
    parse,
)
from honed.triggers.past import Made, PastEvent, Told
from honed.triggers.replay import Firing, Replay

START = datetime(2026, 3, 2, 12, tzinfo=UTC)
START_MS = round(START.timestamp() * 1000)
SECOND = timedelta(seconds=1)
OUTCOMES: list[Outcome] = [Success(), Success(0.5), Failure(), Timeout(0.5), Unknown()]

_spans = st.integers(1, 40).map(lambda n: n * SECOND)
_leaves = st.one_of(
    st.builds(Count, st.integers(1, 6)),
    st.builds(Every, _spans),
    st.builds(Quiet, _spans),
    st.builds(Cooldown, _spans),
    st.builds(
        lambda below, a, b: Quality(below, max(a, b), min(a, b)),
        st.sampled_from([0.0, 0.25, 0.5, 0.9]),
        st.integers(1, 8),
        st.integers(1, 8),
    ),
    st.builds(lambda runs, per: Budget(runs=runs, per=per), st.integers(1, 3), _spans),
    st.sampled_from(
        [parse('window("12:01-12:02")'), parse("cron('* * * * *')"), parse("always()")]
    ),
)
rules = st.recursive(
    _leaves,
    lambda inner: st.one_of(
        st.builds(lambda a, b: a & b, inner, inner),
        st.builds(lambda a, b: a | b, inner, inner),
        st.builds(lambda a: ~a, inner),
    ),
    max_leaves=5,
)


@st.composite
def histories(draw: st.DrawFn) -> list[PastEvent]:
    """At whole seconds; an outcome is told of an episode that was made."""
    events: list[PastEvent] = []
    second = num = 0
    for wait, kind in draw(
        st.lists(st.tuples(st.sampled_from([0, 0, 1, 1, 2, 15]), st.integers(0, 9)), max_size=40)
    ):
        second += wait
        at_ms = START_MS + 1000 * second
        if kind < 5 or not num:
            num += 1
            events.append(Made(at_ms, num, at_ms - 1000 * (kind % 2)))
            outcome = OUTCOMES[kind % 5]
            events.append(Told(at_ms, num, outcome))
        else:
            number = draw(st.integers(1, num))
            events.append(Told(at_ms, number, draw(st.sampled_from(OUTCOMES))))
    return events


def slowly(
    rule: TrainTrigger, events: Sequence[PastEvent], seconds: int, run_s: int
) -> list[tuple[int, int, int]]:
    """Judge at every second, from scratch: when it fires, on how many new and changed episodes."""
    fired: list[tuple[int, int, int]] = []
    trained: list[int] = []
    for second in range(seconds + 1):
        if trained and second < trained[-1] + run_s:
            continue
        facts = facts_at(second, events, trained, run_s)
        if facts.count and rule.should_train(facts):
            fired.append((second, facts.count - facts.changed_count, facts.changed_count))
            trained.append(second)
    return fired


def facts_at(
    second: int, events: Sequence[PastEvent], trained: Sequence[int], run_s: int
) -> TriggerContext:
    def stand(until: int) -> dict[int, Outcome]:
        found: dict[int, Outcome] = {}
        for event in events:
            if event.at_ms <= START_MS + 1000 * until:
                found[event.number] = Unknown() if isinstance(event, Made) else event.outcome
        return found

    now = stand(second)
    saw = stand(trained[-1]) if trained else {}
    changed = [n for n in saw if worth(saw[n]) != worth(now[n])]
    waiting = [n for n in sorted(now, reverse=True) if n not in saw] + sorted(changed, reverse=True)
    last = START + (trained[-1] + run_s) * SECOND if trained else None
    known = [n for n in sorted(now) if is_known(now[n])]
    whole = [n for n in known[: len(known) - len(known) % 10] if n not in saw][::-1]
    return TriggerContext(
        now=START + second * SECOND,
        first_started_at=START,
        last_event_at=max(
            (
                datetime.fromtimestamp(
                    (e.active_ms if isinstance(e, Made) else e.at_ms) / 1000, UTC
                )
                for e in events
                if e.at_ms <= START_MS + 1000 * second
            ),
            default=None,
        ),
        last_train_at=last,
        last_train_count=len(saw),
        episode_count=len(now),
        changed_count=len(changed),
        recent=tuple(now[n] for n in waiting if is_known(now[n])),
        overall_success_rate=sum(map(is_success, now.values())) / max(1, len(known)),
        last_run_at=last,
        runs=tuple(
            RunTime(START + t * SECOND, START + (t + run_s) * SECOND) for t in trained[::-1]
        ),
        tens=tuple(
            sum(is_success(now[n]) for n in whole[at : at + 10])
            for at in range(0, len(whole) - 9, 10)
        ),
    )


def replayed(
    rule: TrainTrigger, events: Sequence[PastEvent], seconds: int, run_s: int
) -> tuple[list[Firing], Replay]:
    replay = Replay(rule, started_at_ms=START_MS, run_time=run_s * SECOND)
    firings = [firing for event in events for firing in replay.take(event)]
    return [*firings, *replay.end(START_MS + 1000 * seconds)], replay


def told(firings: Sequence[Firing]) -> list[tuple[int, int, int]]:
    return [((f.at_ms - START_MS) // 1000, f.num_new, f.num_changed) for f in firings]


@settings(max_examples=300)
@given(rules, histories(), st.sampled_from([1, 3, 20]))
@example(parse("quiet('5s')"), [Made(START_MS, 1, START_MS)], 1)
def test_it_fires_when_the_slow_loop_does(
    rule: TrainTrigger, events: list[PastEvent], run_s: int
) -> None:
    """Random rules on random histories."""
    seconds = max((e.at_ms - START_MS for e in events), default=0) // 1000 + 50
    firings, _ = replayed(rule, events, seconds, run_s)
    assert told(firings) == slowly(rule, events, seconds, run_s)


@pytest.mark.parametrize("seed", range(4))
def test_drift_fires_when_the_slow_loop_says_so(seed: int) -> None:
    """Outcomes that come late, change or are taken back are in both."""
    chance = random.Random(seed)
    events: list[PastEvent] = []
    for second in range(90):
        at_ms, rate = START_MS + 1000 * second, 0.9 if second < 45 else 0.3
        for number in range(7 * second + 1, 7 * second + 8):
            events.append(Made(at_ms, number, at_ms))
            if chance.random() < 0.8:
                outcome = Success() if chance.random() < rate else Failure()
                events.append(Told(at_ms, number, outcome))
        late = chance.randint(1, 7 * second + 7)
        events.append(Told(at_ms, late, chance.choice(OUTCOMES)))
    firings, _ = replayed(parse("drift(drop=0.3)"), events, 90, 2)
    assert told(firings) == slowly(parse("drift(drop=0.3)"), events, 90, 2)
    assert firings


def test_drift_sees_outcomes_that_change_between_two_tens() -> None:
    """One after the other, of episodes made long before, while nothing new comes in."""
    chance = random.Random(6)
    events: list[PastEvent] = []
    for number in range(1, 401):
        outcome = Success() if chance.random() < 0.9 else Failure()
        events += [Made(START_MS, number, START_MS), Told(START_MS, number, outcome)]
    for second in range(1, 100):
        events.append(Told(START_MS + 1000 * second, 300 + second, Failure()))
    firings, _ = replayed(parse("drift()"), events, 100, 2)
    assert told(firings) == slowly(parse("drift()"), events, 100, 2)
    assert firings


def million(num: int) -> list[PastEvent]:
    chance = random.Random(1)
    events: list[PastEvent] = []
    for number in range(1, num + 1):
        at_ms = START_MS + 2_000 * number
        events.append(Made(at_ms, number, at_ms))
        events.append(Told(at_ms, number, Success() if chance.random() < 0.8 else Failure()))
    return events


def test_a_long_history_needs_few_looks() -> None:
    """Outcomes are looked at for a few per cent of the events, whatever the window."""
    events = million(20_000)
    rule = parse("count(5000) & quality(below=0.5, window=1000) | drift() | every('3h')")
    firings, replay = replayed(rule, events, 40_010, 60)
    assert 3 <= len(firings) <= 5
    assert replay.num_episodes == 20_000
    assert replay.num_looks < 0.08 * len(events)


@pytest.mark.long
@pytest.mark.timeout(300)
def test_a_million_episodes_take_a_minute_at_most() -> None:
    """With windows, a drift test and the clock in the rule."""
    events = million(1_000_000)
    rule = parse("count(5000) & quality(below=0.5, window=1000) | drift() | cron('0 3 * * *')")
    started = time.thread_time()
    firings, replay = replayed(rule, events, 2_000_010, 600)
    assert time.thread_time() - started < 60
    assert len(firings) >= 23
    assert replay.num_looks < 0.08 * len(events)
