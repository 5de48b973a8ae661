"""p-values are what counting all relabellings gives, and quick for thousands of episodes."""

import itertools
import math
import random
from collections.abc import Sequence

import pytest

from honed.gate.chance import Scored, contrast_p_value, gain_p_value, wins_p_value


def singles(gains: Sequence[float], num_successes: int) -> list[Scored]:
    return [Scored(str(i), i < num_successes, gain) for i, gain in enumerate(gains)]


def drawn(num: int, shift: float, *, group_size: int = 1, seed: int = 0) -> list[Scored]:
    """Half successes, whose gains are higher by `shift`."""
    rng = random.Random(seed)
    return [
        Scored(str(i // group_size), i % 2 == 0, rng.gauss(shift if i % 2 == 0 else 0, 1))
        for i in range(num)
    ]


def test_a_contrast_of_few_is_the_share_of_all_choices() -> None:
    """With eight episodes all seventy ways to choose the successes can be counted."""
    gains = [0.9, 0.1, 0.8, -0.3, 0.2, 0.4, -0.5, 0.0]
    chosen = list(itertools.combinations(gains, 4))
    expected = sum(sum(each) >= sum(gains[:4]) - 1e-9 for each in chosen) / len(chosen)
    found = contrast_p_value(singles(gains, 4), level=0.0005, seed=1)
    assert found == pytest.approx(expected, abs=0.01)


@pytest.mark.parametrize("group_size", [1, 3])
def test_shelves_give_what_whole_permutations_give(
    group_size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Many episodes are relabelled shelf by shelf, and the p-value hardly differs."""
    episodes = drawn(300, 0.15, group_size=group_size, seed=4)
    on_shelves = contrast_p_value(episodes, level=0.002, seed=1)
    monkeypatch.setattr("honed.gate.chance.FEW", 1_000)
    whole = contrast_p_value(episodes, level=0.002, seed=1)
    assert on_shelves == pytest.approx(whole, abs=0.02)


def test_shelves_see_a_small_p_value() -> None:
    """What cannot be chance has the smallest p-value that so many draws can give."""
    assert contrast_p_value(drawn(300, 1.0), level=1e-4, seed=1) < 2e-5


def test_on_shelves_p_values_are_uniform() -> None:
    """Without an effect a tenth of the p-values is below a tenth, and one in twenty below that."""
    found = [contrast_p_value(drawn(150, 0, seed=n), level=0.02, seed=n) for n in range(300)]
    assert 15 <= sum(p <= 0.1 for p in found) <= 45
    assert 5 <= sum(p <= 0.05 for p in found) <= 26


def test_a_group_that_is_alone_in_its_size_exchanges_outcomes_inside() -> None:
    """A task with hundreds of trials still tells successes from failures."""
    rng = random.Random(2)
    episodes = [Scored("task", i % 2 == 0, rng.gauss(1 - i % 2, 1)) for i in range(400)]
    assert contrast_p_value(episodes, level=0.001, seed=1) < 0.001


def test_groups_that_end_alike_are_exchanged_whole() -> None:
    """Eight groups of one outcome each are eight witnesses, however many trials they have."""
    rng = random.Random(3)
    episodes = [
        Scored(str(group), group < 4, gain + rng.gauss(0, 0.01))
        for group, gain in enumerate([1.0, 0.9, 1.1, 0.8, 0.2, 0.1, 0.3, 0.0])
        for _ in range(50)
    ]
    assert contrast_p_value(episodes, level=0.001, seed=1) == pytest.approx(1 / 70, abs=0.006)


def test_a_gain_of_few_is_the_share_of_all_signs() -> None:
    """With six groups all sixty-four patterns of signs can be counted."""
    sums = [0.5, 0.3, -0.2, 0.8, 0.1, -0.05]
    totals = [
        sum(sign * each for sign, each in zip(signs, sums, strict=True))
        for signs in itertools.product((1, -1), repeat=6)
    ]
    expected = sum(total >= sum(sums) - 1e-9 for total in totals) / 64
    found = gain_p_value(singles(sums, 6), level=0.0005, seed=1)
    assert found == pytest.approx(expected, abs=0.01)


@pytest.mark.parametrize("seed", range(5))
def test_few_groups_that_all_gain_are_counted_not_drawn(seed: int) -> None:
    """Of eight groups one turn in 256 does as well, whatever the seed: less than the level of a first look."""
    episodes = [Scored(str(i // 2), True, 0.1 + i / 10) for i in range(16)]
    assert gain_p_value(episodes, level=0.00456, seed=seed) == 1 / 256
    assert gain_p_value(episodes[2:], level=0.00456, seed=seed) == 1 / 128


def test_signs_of_many_are_uniform() -> None:
    """Without a gain a twentieth of the p-values is below a twentieth."""
    found = [gain_p_value(drawn(100, 0, seed=n), level=0.05, seed=n) for n in range(200)]
    assert 3 <= sum(p <= 0.05 for p in found) <= 20


def test_wins_are_judged_by_mcnemars_exact_test() -> None:
    """Forty wins against twenty losses: the binomial tail, to the last digit."""
    tail = sum(math.comb(60, k) for k in range(40, 61)) / 2**60
    assert wins_p_value([1] * 40 + [-1] * 20 + [0] * 240) == pytest.approx(tail, rel=1e-9)


def test_trials_of_one_task_turn_together() -> None:
    """Three tasks won in all of five trials are three wins, not fifteen."""
    assert wins_p_value([5, 5, 5]) == pytest.approx(1 / 8)
    nets = [3, -1, 2, 2, -2, 1]
    totals = [
        sum(sign * abs(net) for sign, net in zip(signs, nets, strict=True))
        for signs in itertools.product((1, -1), repeat=6)
    ]
    assert wins_p_value(nets) == pytest.approx(sum(t >= sum(nets) for t in totals) / 64)


def test_no_task_apart_is_no_evidence() -> None:
    """Where both did the same tasks, p is one."""
    assert wins_p_value([]) == wins_p_value([0, 0]) == 1.0
