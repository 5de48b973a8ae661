"""The sequential test of `drift`: how seldom it errs, how soon it sees a fall, and what it says."""

import random
from datetime import UTC, datetime
from math import log

import pytest

from honed.errors import TriggerSyntaxError
from honed.triggers import Drift, TriggerContext, from_table, parse, to_table
from honed.triggers.drift import WINDOW, best_cut

START = datetime(2026, 3, 2, tzinfo=UTC)


def facts(tens: tuple[int, ...]) -> TriggerContext:
    """The tens are newest first."""
    return TriggerContext(now=START, first_started_at=START, tens=tens)


def stream(chance: random.Random, rate: float, tens: int) -> list[int]:
    """Successes in each ten of a stream, oldest first."""
    return [sum(chance.random() < rate for _ in range(10)) for _ in range(tens)]


def first_alarm(rule: Drift, tens: list[int], *, start: int = 0) -> int | None:
    """After how many tens the rule fires, asked after each from `start` on; None: never."""
    newest_first = tens[::-1]
    for num in range(start, len(tens) + 1):
        begin = len(tens) - num
        recent = tuple(newest_first[begin : begin + WINDOW // 10])
        if rule.should_train(facts(recent)):
            return num
    return None


def num_false_alarms(num_streams: int, rates: tuple[float, ...]) -> int:
    chance = random.Random(11)
    alarms = 0
    for n in range(num_streams):
        tens = stream(chance, rates[n % len(rates)], 1_000)
        alarms += first_alarm(Drift(), tens) is not None
    return alarms


def share_seen(num_streams: int, before: float, after: float, *, history: int) -> float:
    """How often a fall after `history` tens is seen within 300 outcomes."""
    chance = random.Random(12)
    seen = 0
    for _ in range(num_streams):
        tens = stream(chance, before, history) + stream(chance, after, 30)
        seen += first_alarm(Drift(), tens, start=history + 1) is not None
    return seen / num_streams


def test_a_rate_that_stays_raises_no_alarm() -> None:
    """100 streams of 10,000 outcomes, judged after each ten."""
    assert num_false_alarms(100, (0.5, 0.7, 0.9, 0.98)) <= 2


@pytest.mark.long
@pytest.mark.timeout(600)
def test_a_rate_that_stays_raises_an_alarm_in_one_of_a_hundred_streams_at_most() -> None:
    """1,000 streams of 10,000 outcomes, judged after each ten."""
    assert num_false_alarms(1_000, (0.5, 0.7, 0.9, 0.98)) <= 10


@pytest.mark.parametrize("before", [0.9, 0.7])
def test_a_fall_of_20_points_is_seen_within_300_outcomes(before: float) -> None:
    """In 95 % of the runs, after a history of 1,500 outcomes."""
    assert share_seen(300, before, before - 0.2, history=150) >= 0.95


@pytest.mark.long
@pytest.mark.timeout(600)
@pytest.mark.parametrize("history", [100, 200])
@pytest.mark.parametrize("before", [0.9, 0.7])
def test_a_fall_of_20_points_is_seen_however_long_the_history(before: float, history: int) -> None:
    """In 95 % of 2,000 runs, after 1,000 outcomes as after 2,000."""
    assert share_seen(2_000, before, before - 0.2, history=history) >= 0.95


def test_a_rise_is_no_drift() -> None:
    """Better is not worse."""
    chance = random.Random(3)
    tens = stream(chance, 0.5, 100) + stream(chance, 0.9, 60)
    assert first_alarm(Drift(), tens) is None


def test_the_verdict_names_both_rates_and_the_evidence() -> None:
    """And what it lacks while it is silent."""
    rule = Drift()
    assert rule.judge(facts((7,) * 11)).detail == "110 outcomes seen, in full tens, of 120 needed"
    assert rule.judge(facts((7,) * 50)).detail == "no fall in the last 500 outcomes"
    verdict = rule.judge(facts((4, 5, 5, 6) * 5 + (8,) * 100))
    assert verdict.fires
    assert verdict.detail == (
        "50% success in the last 200 outcomes, 80% in the 1000 before; "
        "evidence for a fall 32.2 of 10.6 nats"
    )


def test_rates_at_the_ends_are_fitted() -> None:
    """All successes, then none, or nearly; the likelihood of neither is lost in a logarithm of 0."""
    assert best_cut((0,) * 30 + (10,) * 100, 0.2).nats > 100
    assert best_cut((0,) * 100, 0.2).nats == 0
    assert best_cut((10,) * 100, 0.2).nats == 0
    assert best_cut((0,) * 30 + (1,) * 100, 0.5).nats > 10


def test_the_best_rate_is_found() -> None:
    """The fit agrees with a search over all rates, for cuts of any kind."""

    chance = random.Random(8)
    for _ in range(200):
        rate, drop = chance.uniform(0.1, 0.99), chance.choice([0.05, 0.2, 0.5])
        fallen = max(rate - drop * chance.uniform(0.5, 2), 0.01)
        tens = tuple(stream(chance, fallen, chance.randint(3, 40)) + stream(chance, rate, 60))
        cut = best_cut(tens, drop)
        if not cut.nats:
            continue

        def loglik(counts: tuple[int, int], p: float) -> float:
            successes, num = counts
            return (successes * log(p) if successes else 0) + (num - successes) * log(1 - p)

        (s1, n1), (s2, n2) = cut.long_run, cut.recent
        rates = [n / 2_000 for n in range(1, 2_000)]
        fall = max(
            loglik((s1, n1), p) + loglik((s2, n2), p - drop if p >= 2 * drop else p / 2)
            for p in rates
        )
        same = max(loglik((s1 + s2, n1 + n2), p) for p in rates)
        assert cut.nats == pytest.approx(fall - same, abs=0.05)


def test_text_and_table_form() -> None:
    """Defaults are written out; what is out of range is refused."""
    assert parse("drift()") == Drift(drop=0.2, false_alarms=0.01)
    assert str(parse("drift(0.1)")) == "drift(drop=0.1, false_alarms=0.01)"
    assert from_table(to_table(Drift(0.3))) == Drift(0.3) == parse(str(Drift(0.3)))
    for text in (
        "drift(drop=0.01)",
        "drift(false_alarms=0)",
        "drift(drop=True)",
        "drift(drop='x')",
    ):
        with pytest.raises(TriggerSyntaxError, match="expected"):
            parse(text)
