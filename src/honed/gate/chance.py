"""One-sided p-values of paired scores: exact for task success and few groups, else by random relabelling.

Episodes of one group (trials of one task) are no independent witnesses: a task that always fails has a gain of its
own. So whole groups exchange their outcomes or turn their signs, never single episodes across groups.

Drawing a whole permutation of thousands of episodes, a hundred thousand times, would take minutes. Many episodes are
therefore laid on a few shelves, at random, and a relabelling turns each shelf on its own: such turns are a subgroup
of all relabellings, which is all that a permutation test needs to be valid (Chung and Romano 2013), and the sum on
each turned shelf is worked out once. It costs a few per cent of the information, that between the shelves.
"""

import itertools
import math
import random
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

NUM_SHELVES: Final = 5
FEW: Final = 60
"""Episodes up to which whole permutations are drawn."""
MANY_TURNS: Final = 1e6
"""Relabellings that the shelves must allow, or whole permutations are drawn."""
PIECE: Final = 256
"""A larger group exchanges outcomes within pieces of this size only."""
GROUPS_ON_SHELF: Final = 20
"""At least, as far as there are that many, so that little of what is between the groups is lost."""
SIGNS: Final = 8
"""Independent patterns of signs on one shelf, which make 2 ** SIGNS turns."""
HITS: Final = 20
"""Relabellings that do as well, after which a p-value is known well enough (Besag and Clifford 1991)."""
MIN_DRAWS: Final = 2_000
MAX_DRAWS: Final = 200_000
EXACT: Final = 1 << 14
"""Turns of signs up to which each is counted instead of drawn: those of 14 groups. Of eight groups that all gain one
turn in 256 does as well, which draws may take for more than the level of a first look."""
_TIE: Final = 1e-12
"""Relative; sums of the same numbers in another order differ by less and count as equal."""

Draws = Callable[[random.Random, int], list[float]]
"""That many sums under random relabellings."""


class Scored(NamedTuple):
    """One held-out episode: by how much the candidate does better on it, and how it ended."""

    group: str
    is_success: bool
    gain: float


def contrast_p_value(episodes: Sequence[Scored], *, level: float, seed: int) -> float:
    """One-sided p-value of the contrast if outcomes had nothing to do with gains.

    Outcomes are exchanged between groups of equal size and inside each group. The number of successes stays the same,
    so the sum of their gains orders relabellings as the contrast does.

    Args:
        episodes: with successes and failures among them.
        level: what it will be compared with; draws are as many as that needs.
        seed: of the draws.
    """
    rng = random.Random(seed)
    groups = list(_groups(episodes))
    observed = math.fsum(e.gain for e in episodes if e.is_success)
    bar = observed - _TIE * math.fsum(abs(e.gain) for e in episodes)
    shelves = _turned_outcomes(groups, rng) if len(episodes) > FEW else []
    if math.prod(float(len(sums)) for sums in shelves) >= MANY_TURNS:
        return _p_value(_off_shelves(shelves), bar, level, rng)
    return _p_value(_whole(groups), bar, level, rng)


def gain_p_value(episodes: Sequence[Scored], *, level: float, seed: int) -> float:
    """One-sided p-value of the mean gain if it were as often a loss, by signs of whole groups."""
    rng = random.Random(seed)
    sums = [math.fsum(e.gain for e in group) for group in _groups(episodes)]
    bar = math.fsum(sums) - _TIE * math.fsum(map(abs, sums))
    rng.shuffle(sums)
    shelves = [_turned_signs(sums[at::NUM_SHELVES], rng) for at in range(NUM_SHELVES)]
    if math.prod(len(turns) for turns in shelves) <= EXACT:
        found = [sum(turns) >= bar for turns in itertools.product(*shelves)]
        return sum(found) / len(found)
    return _p_value(_off_shelves(shelves), bar, level, rng)


def wins_p_value(net_wins: Sequence[int]) -> float:
    """One-sided exact p-value of at least so many net wins, if each group's were as often losses.

    With one trial in each group this is McNemar's exact test.

    Args:
        net_wins: of each group, trials that only the candidate did less those that only the incumbent did.
    """
    sizes = [abs(net) for net in net_wins if net]
    chances, observed = [1.0], sum(net for net in net_wins if net > 0)
    for size in sorted(set(sizes)):
        chances = _convolved(chances, _binomial(sizes.count(size)), size)
    return min(1.0, math.fsum(chances[observed:]))


def _binomial(count: int) -> list[float]:
    whole = 2**count
    return [math.comb(count, k) / whole for k in range(count + 1)]


def _convolved(chances: list[float], others: list[float], size: int) -> list[float]:
    """Chances of each sum of a number from `chances` and `size` times one from `others`."""
    if len(chances) == 1 and size == 1:
        return others
    total = [0.0] * (len(chances) + size * (len(others) - 1))
    for k, other in enumerate(others):
        if other:
            at = k * size
            for i, chance in enumerate(chances, at):
                total[i] += chance * other
    return total


def _p_value(draws: Draws, bar: float, level: float, rng: random.Random) -> float:
    """The share of relabellings that do as well; drawing ends early where it is certainly above the level.

    A p-value from draws that end with the `enough`th hit is valid as one from a fixed number is (Besag and Clifford).
    """
    limit = min(max(MIN_DRAWS, math.ceil(10 / level)), max(MAX_DRAWS, math.ceil(2 / level)))
    enough = max(HITS, math.floor(level * (limit + 1)) + 1)
    hits = drawn = 0
    while drawn < limit:
        sums = draws(rng, min(max(2 * enough, drawn), limit - drawn, 20_000))
        for place, value in enumerate(sums, 1):
            if value >= bar:
                hits += 1
                if hits == enough:
                    return enough / (drawn + place)
        drawn += len(sums)
    return (hits + 1) / (limit + 1)


def _groups(episodes: Sequence[Scored]) -> Sequence[Sequence[Scored]]:
    members: dict[str, list[Scored]] = {}
    for episode in episodes:
        members.setdefault(episode.group, []).append(episode)
    return list(members.values())


def _off_shelves(shelves: Sequence[list[float]]) -> Draws:
    """Sums of one turn of each shelf."""
    still = math.fsum(sums[0] for sums in shelves if len(sums) == 1)
    turning = [sums for sums in shelves if len(sums) > 1]

    def draws(rng: random.Random, count: int) -> list[float]:
        totals = [still] * count
        for sums in turning:
            totals = list(map(float.__add__, totals, rng.choices(sums, k=count)))
        return totals

    return draws


def _turned_outcomes(groups: Sequence[Sequence[Scored]], rng: random.Random) -> list[list[float]]:
    """For each shelf the sums of the gains that each of its turns calls successes."""
    by_size: dict[int, list[list[Scored]]] = {}
    for group in groups:
        for at in range(0, len(group), PIECE):
            piece = rng.sample(group[at : at + PIECE], len(group[at : at + PIECE]))
            size = 0 if len(group) > PIECE else len(group)
            by_size.setdefault(size, []).append(piece)
    share = sum(map(len, groups)) / NUM_SHELVES
    shelves = []
    for size, pieces in by_size.items():
        if size == 0:
            shelves += [_turns([piece]) for piece in pieces]
            continue
        on_shelf = max(share, GROUPS_ON_SHELF * size)
        count = max(1, int(len(pieces) * size / on_shelf))
        rng.shuffle(pieces)
        shelves += [_turns(pieces[at::count]) for at in range(count)]
    return shelves


def _turns(pieces: Sequence[Sequence[Scored]]) -> list[float]:
    """Each group takes over the outcomes of the one so many places on, turned by so many places in itself."""
    size = len(pieces[0])
    gains = [episode.gain for piece in pieces for episode in piece]
    outcomes = [[episode.is_success for episode in piece] for piece in pieces]
    if len({is_success for piece in outcomes for is_success in piece}) == 1:
        return [math.fsum(gains) if outcomes[0][0] else 0.0]
    sums: list[float] = []
    for inside in range(size):
        turned = [
            is_success for piece in outcomes for is_success in piece[inside:] + piece[:inside]
        ]
        sums += (
            sum(itertools.compress(gains, turned[at:] + turned[:at]), 0.0)
            for at in range(0, len(turned), size)
        )
    return sums


def _turned_signs(values: Sequence[float], rng: random.Random) -> list[float]:
    """The sums under each sign pattern of a shelf: all there are, or those that a few patterns make together."""
    if len(values) <= SIGNS:
        patterns = [1 << at for at in range(len(values))]
    else:
        patterns = [rng.getrandbits(len(values)) for _ in range(SIGNS)]
    words = [0]
    for pattern in patterns:
        words += [word ^ pattern for word in words]
    total, width = math.fsum(values), len(values)
    kept = ([bit == "1" for bit in f"{word:0{width}b}"] if width else [] for word in words)
    return [total - 2 * sum(itertools.compress(values, turned), 0.0) for turned in kept]


def _whole(groups: Sequence[Sequence[Scored]]) -> Draws:
    """Whole permutations: any single episodes may be the successes, and groups of a size exchange their numbers."""
    by_size: dict[int, list[Sequence[Scored]]] = {}
    for group in groups:
        by_size.setdefault(len(group), []).append(group)
    draws = [_singles(same) if size == 1 else _blocks(same) for size, same in by_size.items()]
    return lambda rng, count: [sum((draw(rng) for draw in draws), 0.0) for _ in range(count)]


_Draw = Callable[[random.Random], float]


def _singles(groups: Sequence[Sequence[Scored]]) -> _Draw:
    gains = [group[0].gain for group in groups]
    num_successes = sum(group[0].is_success for group in groups)
    return lambda rng: sum(rng.sample(gains, num_successes))


def _blocks(groups: Sequence[Sequence[Scored]]) -> _Draw:
    counts = [sum(e.is_success for e in group) for group in groups]
    gains = [[e.gain for e in group] for group in groups]

    def draw(rng: random.Random) -> float:
        total = 0.0
        for values, count in zip(gains, rng.sample(counts, len(counts)), strict=True):
            if count:
                total += sum(rng.sample(values, count))
        return total

    return draw
