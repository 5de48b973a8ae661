"""What becomes of canaries, by simulation: how often the judge of canaries errs, and how soon it sees harm.

    python benchmarks/canary.py [--candidates 1000] [--seed 1] [--mixture]

Tasks come one after the other, each to the candidate with the share's probability; after every task the ruling that the
daemon uses (`statistics.canary.rule`, 1,000 tasks per arm at most) is asked. The live version does 70 % of the tasks.
Everything that it looks at is there: three requests a task of which 1 % fail, latencies and lengths (lognormal, sd 0.8)
and tool calls (3 in the mean of 6 at most), in both versions alike unless the case says otherwise.

Tasks per arm are counted as a user would: half of all tasks where the share is a half, else the candidate's. Shares
come with their 95 % intervals (Wilson 1927). It ends with 1 when one is not what is promised; of an error it is the
share itself that is compared, of 1,000 candidates.

With `--mixture` it only shows what a test does that is valid at every task, by success alone: the mixture sequential
probability ratio test, whose alternative is half-normal with the scale that is shown, at the same error.
"""

import argparse
import math
import random
import sys
import time
from typing import Final, NamedTuple

from honed.domain.canary import Looks
from honed.statistics.canary import WORSE, Arm, Decision, Sample, rule
from honed.statistics.sequential import Share

MAX_TASKS: Final = 1_000
SEVERAL: Final = 3
"""Requests of a task."""
TOOLS: Final = 6
GIVE_UP: Final = 40_000
"""Tasks of both arms."""


class Case(NamedTuple):
    """A kind of candidate, and what must become of it."""

    name: str
    share: float
    success: float = 0.7
    failed: float = 0.01
    slower: float = 1.0
    shorter: float = 1.0
    tools: float = 3.0
    becomes: Decision | None = None
    """What is to be found; None: nothing."""
    within: int | None = None
    """Tasks per arm until then."""
    at_least: float = 0.0
    """Share of the candidates of which it is."""


LIVE: Final = Case("live", 0.5)
CASES: Final = (
    Case("no change", 0.5),
    Case("no change", 0.1),
    Case("15 points worse", 0.5, 0.55, becomes="roll_back", within=400, at_least=0.95),
    Case("15 points worse", 0.1, 0.55, becomes="roll_back", within=400, at_least=0.95),
    Case("30 points worse", 0.5, 0.4, becomes="roll_back", within=80, at_least=0.95),
    Case("30 points worse", 0.1, 0.4, becomes="roll_back", within=80, at_least=0.95),
    Case("10 points better", 0.5, 0.8, becomes="promote", at_least=0.9),
    Case("10 points better", 0.1, 0.8, becomes="promote", at_least=0.9),
    Case("15 points better without tools", 0.5, 0.85, tools=0.3, becomes="hold", at_least=0.95),
    Case(
        "15 points better, a third of words", 0.5, 0.85, shorter=0.33, becomes="hold", at_least=0.95
    ),
    Case(
        "5 points more requests fail",
        0.5,
        failed=0.06,
        becomes="roll_back",
        within=400,
        at_least=0.95,
    ),
    Case("twice as slow", 0.5, slower=2.0, becomes="roll_back", within=160, at_least=0.95),
)


class Ended(NamedTuple):
    """What became of a candidate."""

    decision: Decision
    reason: str
    tasks_per_arm: float


class Figures(NamedTuple):
    """What became of many."""

    case: Case
    ended: list[Ended]

    def num(self, decision: Decision, *, within: float = math.inf) -> int:
        """Of how many it was decided, within so many tasks per arm."""
        return sum(e.decision == decision and e.tasks_per_arm <= within for e in self.ended)

    @property
    def share_found(self) -> float:
        """Of how many what is to be found was found in time."""
        if self.case.becomes is None:
            return self.num("hold") / len(self.ended)
        return self.num(self.case.becomes, within=self.case.within or math.inf) / len(self.ended)

    @property
    def share_wrong(self) -> float:
        """Of how many something was done that is wrong: the opposite, or anything where nothing is to be found."""
        wrong: dict[Decision | None, tuple[Decision, ...]] = {
            None: ("roll_back", "promote"),
            "roll_back": ("promote",),
            "promote": ("roll_back",),
            "hold": ("promote", "roll_back"),
        }
        return sum(self.num(each) for each in wrong[self.case.becomes]) / len(self.ended)

    @property
    def problems(self) -> list[str]:
        """What is not as promised."""
        found, may_be = [], 0.0 if self.case.success < LIVE.success else 0.05
        if self.share_wrong > may_be:
            found.append(
                f"{self.case.name}, share {self.case.share:.0%}: {self.share_wrong:.1%} wrong"
            )
        if self.share_found < self.case.at_least:
            found.append(
                f"{self.case.name}, share {self.case.share:.0%}: {self.share_found:.1%} found"
            )
        return found


class _Moments:
    """Mean and variance as values come (Welford)."""

    def __init__(self) -> None:
        self.num, self.mean, self.squares = 0, 0.0, 0.0

    def add(self, value: float) -> None:
        self.num += 1
        change = value - self.mean
        self.mean += change / self.num
        self.squares += change * (value - self.mean)

    def sample(self) -> Sample:
        return Sample(self.num, self.mean, self.squares / (self.num - 1) if self.num > 1 else 0.0)


class _Version:
    """One arm of a stream."""

    def __init__(self, chance: random.Random, case: Case) -> None:
        self._chance, self._case = chance, case
        self.tasks = self.successes = self.failed = 0
        self._latency, self._length, self._tools = _Moments(), _Moments(), _Moments()

    def work(self) -> None:
        """Do a task."""
        chance, case = self._chance, self._case
        self.tasks += 1
        self.successes += chance.random() < case.success
        self.failed += sum(chance.random() < case.failed for _ in range(SEVERAL))
        self._latency.add(math.log(2 * case.slower) + chance.gauss(0, 0.8))
        self._length.add(math.log(400 * case.shorter) + chance.gauss(0, 0.8))
        self._tools.add(sum(chance.random() < case.tools / TOOLS for _ in range(TOOLS)))

    def arm(self) -> Arm:
        """All that it has done."""
        return Arm(
            Share(self.successes, self.tasks),
            Share(self.failed, SEVERAL * self.tasks),
            *(each.sample() for each in (self._latency, self._length, self._tools)),
        )


def canary(case: Case, chance: random.Random, *, ask_every: int = 1) -> Ended:
    """One candidate until something is decided."""
    live, candidate = _Version(chance, LIVE), _Version(chance, case)
    looks: Looks = {}
    for task in range(1, GIVE_UP + 1):
        (candidate if chance.random() < case.share else live).work()
        if task % ask_every:
            continue
        ruling = rule(live.arm(), candidate.arm(), looks, max_tasks=MAX_TASKS, is_shadow=False)
        looks = ruling.looks
        if ruling.decision != "watch":
            per_arm = task / 2 if case.share == 0.5 else candidate.tasks
            return Ended(ruling.decision, ruling.reason, per_arm)
    return Ended("watch", "", math.inf)


def simulate(case: Case, *, num: int, seed: int, ask_every: int = 1) -> Figures:
    """So many candidates of one kind."""
    chance = random.Random(f"{seed} {case.name} {case.share}")
    return Figures(case, [canary(case, chance, ask_every=ask_every) for _ in range(num)])


def wilson(count: int, total: int) -> str:
    """The share with its 95 % interval."""
    z, share = 1.959964, count / total
    middle = (share + z * z / (2 * total)) / (1 + z * z / total)
    width = (
        z / (1 + z * z / total) * math.sqrt(share * (1 - share) / total + z * z / (4 * total**2))
    )
    low, high = max(0.0, middle - width), min(1.0, middle + width)
    return f"{share:6.1%} [{low:.1%}, {high:.1%}]"


def mixture(success: float, scale: float, chance: random.Random) -> float:
    """Tasks per arm after which a mixture test rolls a candidate back, share 50 %; infinite when it does not in 400."""
    live, candidate = [0, 0], [0, 0]
    for task in range(1, 801):
        arm, rate = (candidate, success) if chance.random() < 0.5 else (live, LIVE.success)
        arm[0] += chance.random() < rate
        arm[1] += 1
        pooled = (live[0] + candidate[0]) / task
        if min(live[1], candidate[1]) < 10 or not 0 < pooled < 1:
            continue
        variance = pooled * (1 - pooled) * (1 / live[1] + 1 / candidate[1])
        fall, total = live[0] / live[1] - candidate[0] / candidate[1], variance + scale**2
        drift = fall * scale / math.sqrt(variance * total)
        ratio = (
            math.sqrt(variance / total) * math.exp(drift**2 / 2) * math.erfc(-drift / math.sqrt(2))
        )
        if ratio >= 1 / WORSE.spent[-1]:
            return task / 2
    return math.inf


def show_mixture(candidates: int, seed: int) -> None:
    """Print in how many cases a mixture test rolls back in time."""
    for scale in (0.1, 0.2, 0.3, 0.4):
        for success, within in ((0.4, 80), (0.55, 400), (0.7, 400)):
            chance = random.Random(f"{seed} {scale} {success}")
            ends = [mixture(success, scale, chance) for _ in range(candidates)]
            found = wilson(sum(end <= within for end in ends), candidates)
            print(
                f"mixture of scale {scale}, success {success}: within {within} {found}", flush=True
            )


def told(figures: Figures) -> None:
    """Print what became of a kind."""
    case, total = figures.case, len(figures.ended)
    parts = [
        f"{word} {wilson(figures.num(decision), total)}"
        for word, decision in (
            ("rolled back", "roll_back"),
            ("held", "hold"),
            ("promoted", "promote"),
        )
    ]
    print(f"{case.name}, share {case.share:.0%}: {', '.join(parts)}")
    if case.becomes:
        ends = sorted(e.tasks_per_arm for e in figures.ended if e.decision == case.becomes)
        within = case.within and wilson(figures.num(case.becomes, within=case.within), total)
        if ends:
            middle, most = ends[len(ends) // 2], ends[int(0.95 * (len(ends) - 1))]
            print(f"    after {middle:.0f} tasks per arm (median), {most:.0f} (95 %)", end="")
            print(f"; within {case.within}: {within}" if within else "", flush=True)


def main() -> int:
    """Print all figures; 1 when one is not as promised."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--candidates", type=int, default=1_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--mixture", action="store_true")
    given = parser.parse_args()
    if given.mixture:
        show_mixture(given.candidates, given.seed)
        return 0
    problems, began = [], time.monotonic()
    for case in CASES:
        figures = simulate(case, num=given.candidates, seed=given.seed)
        told(figures)
        problems += figures.problems
    print(f"\n{given.candidates} candidates each, {time.monotonic() - began:.0f} s")
    for problem in problems:
        print(f"not as promised: {problem}")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
