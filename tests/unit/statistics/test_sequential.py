"""The sequential test: levels that keep the budget, p-values by hand, and streams without a change."""

import math
import random

import pytest

from honed.statistics.sequential import Schedule, Share, evidence, p_lower

POCOCK = Schedule(looks=(1, 2, 3, 4, 5), spent=(0.0079, 0.0138, 0.0183, 0.0219, 0.025))


def test_levels_are_those_of_the_books() -> None:
    """Pocock's five equal looks at 2.5 %, one-sided: 2.413 standard errors at each (1977, table 1)."""
    levels = [POCOCK.level(POCOCK.looks[: at + 1]) for at in range(5)]
    nominal = math.erfc(2.413 / math.sqrt(2)) / 2
    assert levels == pytest.approx([nominal] * 5, rel=0.02)


def test_one_look_alone_spends_as_it_is_told() -> None:
    """Then the level is the budget."""
    assert Schedule((100,), (0.03,)).level([100]) == pytest.approx(0.03)
    assert Schedule((100,), (0.03,)).level([50]) == pytest.approx(0.015)


def test_a_late_look_spends_what_the_missed_ones_would_have() -> None:
    """Whoever was away looks once at what has come meanwhile, at the error of all looks until then."""
    schedule = Schedule((20, 40, 80), (0.01, 0.02, 0.03))
    assert schedule.next_look([]) == 20
    assert schedule.level([79]) == pytest.approx(0.02 + 0.01 * 39 / 40)
    assert schedule.next_look([79]) == 80
    assert schedule.next_look([20, 38]) == 48, "close to a look little more is seen"
    assert schedule.next_look([20, 40, 80]) is None
    assert schedule.until(50) == Schedule((20, 40, 50), (0.01, 0.02, 0.03))
    assert schedule.until(200) == Schedule((20, 40, 80, 200), (0.01, 0.02, 0.03, 0.03))


def test_levels_keep_the_budget_over_uneven_looks() -> None:
    """Of 20,000 Brownian paths as many cross as may, within three standard errors."""
    schedule, looks = Schedule((20, 1000), (0.01, 0.05)), (25, 90, 91 * 2, 700, 1000)
    levels = [schedule.level(looks[: at + 1]) for at in range(len(looks))]
    chance, num = random.Random(1), 20_000
    crossed = 0
    for _ in range(num):
        at, before = 0.0, 0
        for look, level in zip(looks, levels, strict=True):
            at += chance.gauss(0, math.sqrt(look - before))
            before = look
            if math.erfc(at / math.sqrt(2 * look)) / 2 <= level:
                crossed += 1
                break
    assert abs(crossed / num - 0.05) < 3 * math.sqrt(0.05 * 0.95 / num)


@pytest.mark.parametrize(
    ("one", "other", "p"),
    [
        # of 8 with 4 hits, 4 are drawn: 1, 16, 36, 16, 1 of 70 ways
        (Share(0, 4), Share(4, 4), 0.5 / 70),
        (Share(1, 4), Share(3, 4), (1 + 8) / 70),
        (Share(2, 4), Share(2, 4), 0.5),
        (Share(3, 4), Share(1, 4), (1 + 16 + 36 + 8) / 70),
        (Share(0, 3), Share(0, 5), 0.5),
    ],
)
def test_the_p_value_by_hand(one: Share, other: Share, p: float) -> None:
    """Hypergeometric, with half of the chance of what was seen; the other way round it is the rest."""
    assert p_lower(one, other) == pytest.approx(p)
    assert p_lower(other, one) == pytest.approx(1 - p)


def test_the_p_value_of_many_is_nearly_the_normal_one() -> None:
    """Also where the samples are of very different sizes."""
    one, other = Share(280, 500), Share(2_790, 4_500)
    pooled = (one.hits + other.hits) / (one.num + other.num)
    error = math.sqrt(pooled * (1 - pooled) * (1 / one.num + 1 / other.num))
    z = (other.value - one.value) / error
    assert p_lower(one, other) == pytest.approx(math.erfc(z / math.sqrt(2)) / 2, rel=0.1)
    assert evidence(one, other) == 900


def test_asked_after_every_task_it_errs_no_more_than_it_may() -> None:
    """A test at 5 % that is simply repeated errs in every sixth of such streams and more; this one in about 5 %."""
    schedule = Schedule((20, 40, 80, 160), (0.01, 0.02, 0.035, 0.05))
    chance, num = random.Random(2), 400
    false, naive = 0, 0
    for _ in range(num):
        arms, taken = [[0, 0], [0, 0]], list[int]()
        errs = errs_naively = False
        while (at := schedule.next_look(taken)) is not None:
            arm = arms[chance.random() < 0.5]
            arm[1] += 1
            arm[0] += chance.random() < 0.7
            one, other = (Share(*arm) for arm in arms)
            if sum(arm[1] for arm in arms) % 10 == 0:
                errs_naively |= p_lower(one, other) <= 0.05
            if evidence(one, other) >= at:
                taken.append(evidence(one, other))
                errs |= p_lower(one, other) <= schedule.level(taken)
        false, naive = false + errs, naive + errs_naively
    assert abs(false / num - 0.05) < 3 * math.sqrt(0.05 * 0.95 / num)
    assert naive > num / 6
