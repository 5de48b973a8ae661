"""What the daemon's gate passes and what it stops, by simulation, and its power as a plot.

    python benchmarks/gate.py [--candidates 1000] [--plot docs/gate-power.svg] [--curve-candidates 100] [--seed 1]

Every candidate is judged by `HeldOutGate` with the defaults of the config. Two measures, each with 20 % of the episodes
discordant:

- task success: on a discordant episode exactly one of candidate and incumbent does the task. A gain of 10 points is
  15 % won and 5 % lost.
- outcome contrast: half of the episodes are successes. A discordant one is moved by 0.3 nats per token (normal, sd
  0.1): for a gain of 10 points 15 % are moved the right way (a success likelier, a failure less likely) and 5 % the
  wrong way. Every episode moves by a noise of 0.02 besides.

Unchanged candidates are judged ten times in a row, each another candidate with the same held-out episodes, and count as
passed when any of the ten passes. Shares come with their 95 % intervals (Clopper and Pearson 1934). It ends with 1 when
an interval leaves what is promised.
"""

import argparse
import math
import random
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from honed.domain.episode_score import EpisodeScore
from honed.domain.trained_model import GateResult
from honed.gate import HeldOutGate, looks
from honed.ports import HeldOut

DISCORDANT: Final = 0.2
GAIN: Final = 0.1
LOOKS: Final = 10
LOSS: Final = -2.0
"""Of the incumbent, nats per token; the same everywhere, for only differences count."""

HeldOutSet = list[HeldOut]
Make = Callable[
    [random.Random, Sequence[HeldOut], Callable[[int], float], float], list[EpisodeScore]
]
"""Scores of a candidate with that gain on each episode, and that share of discordant ones."""


class Share(NamedTuple):
    """How many of how many, with the interval of the share."""

    count: int
    total: int

    @property
    def interval(self) -> tuple[float, float]:
        """95 %, Clopper and Pearson."""
        low = _solve(lambda p: _at_least(self.count, self.total, p), 0.025) if self.count else 0.0
        rest = self.total - self.count
        high = 1 - _solve(lambda p: _at_least(rest, self.total, p), 0.025) if rest else 1.0
        return low, high

    def __str__(self) -> str:
        low, high = self.interval
        return (
            f"{self.count / self.total:7.2%} [{low:.2%}, {high:.2%}] ({self.count} of {self.total})"
        )


def held_out_set(chance: random.Random, size: int, *, slices: int = 1) -> HeldOutSet:
    """Episodes of a group each, half of them successes, evenly spread over the slices."""
    name = f"{chance.getrandbits(48):012x}"
    return [
        HeldOut(
            episode_id=f"{name}-{at}",
            group=f"{name}-{at}",
            is_success=(at // slices) % 2 == 0,
            slices=(("tool", str(at % slices)),),
        )
        for at in range(size)
    ]


def by_success(
    chance: random.Random,
    held_out: Sequence[HeldOut],
    gain: Callable[[int], float],
    discordant: float,
) -> list[EpisodeScore]:
    """Task success, seen by a verifier."""
    made = []
    for at, _ in enumerate(held_out):
        drawn, wins = chance.random(), (discordant + gain(at)) / 2
        both = chance.random() < 0.5
        candidate, incumbent = (
            (True, False) if drawn < wins else (False, True) if drawn < discordant else (both, both)
        )
        made.append(
            EpisodeScore(
                num_tokens=20,
                candidate=LOSS,
                incumbent=LOSS,
                candidate_success=candidate,
                incumbent_success=incumbent,
            )
        )
    return made


def by_contrast(
    chance: random.Random,
    held_out: Sequence[HeldOut],
    gain: Callable[[int], float],
    discordant: float,
) -> list[EpisodeScore]:
    """Log-probabilities."""
    made = []
    for at, episode in enumerate(held_out):
        drawn, right = chance.random(), (discordant + gain(at)) / 2
        moved = chance.gauss(0.3, 0.1) if drawn < discordant else 0.0
        towards = 1 if drawn < right else -1
        sign = 1 if episode.is_success else -1
        change = sign * towards * moved + chance.gauss(0, 0.02)
        made.append(EpisodeScore(num_tokens=20, candidate=LOSS + change, incumbent=LOSS))
    return made


MEASURES: Final[dict[str, Make]] = {"task success": by_success, "outcome contrast": by_contrast}


def judged(
    held_out: HeldOutSet, scores: list[EpisodeScore], earlier: Sequence[GateResult] = ()
) -> GateResult:
    """The verdict with the defaults of the config."""
    gate = HeldOutGate()
    return gate.judge(held_out, scores, incumbent_id=None, now_ms=0, earlier=earlier)


def unchanged(make: Make, chance: random.Random, size: int) -> Iterator[bool]:
    """Whether each of ten candidates without a change passes, on one held-out set."""
    held_out = held_out_set(chance, size)
    seen: list[GateResult] = []
    for _ in range(LOOKS):
        result = judged(held_out, make(chance, held_out, lambda at: 0.0, DISCORDANT), seen)
        seen.append(result)
        yield result.passed


def one_slice_harmed(make: Make, chance: random.Random) -> GateResult:
    """Eight slices of 200 episodes: one loses 10 points, the others gain 10."""
    held_out = held_out_set(chance, 1_600, slices=8)
    gain: Callable[[int], float] = lambda at: -GAIN if at % 8 == 0 else GAIN  # noqa: E731
    return judged(held_out, make(chance, held_out, gain, DISCORDANT))


def better(
    make: Make,
    chance: random.Random,
    *,
    size: int = 300,
    discordant: float = DISCORDANT,
    slices: int = 1,
    gain: float = GAIN,
) -> GateResult:
    """A candidate with the same gain everywhere, at its first look."""
    held_out = held_out_set(chance, size, slices=slices)
    return judged(held_out, make(chance, held_out, lambda at: gain, discordant))


def better_somewhere(make: Make, chance: random.Random) -> GateResult:
    """Eight slices of 200 episodes: one gains 40 points, the others do not change."""
    held_out = held_out_set(chance, 1_600, slices=8)
    scores = make(chance, held_out, lambda at: 0.0, DISCORDANT)
    gaining = make(chance, held_out, lambda at: 0.4, 0.4)
    return judged(
        held_out,
        [g if at % 8 == 0 else s for at, (s, g) in enumerate(zip(scores, gaining, strict=True))],
    )


def told(name: str, found: Sequence[bool]) -> Share:
    """Print a share."""
    share = Share(sum(found), len(found))
    print(f"  {name:58} {share}", flush=True)
    return share


def acceptance(measure: str, chance: random.Random, candidates: int) -> list[str]:
    """Print the figures of a measure; what is not as promised."""
    make, problems = MEASURES[measure], []
    print(f"\n{measure}, {DISCORDANT:.0%} discordant")
    runs = [list(unchanged(make, chance, 300)) for _ in range(candidates)]
    first = told("no change, 300 episodes: passes at the first look", [run[0] for run in runs])
    any_of_ten = told(f"no change: any of {LOOKS} looks passes", [any(run) for run in runs])
    for name, share in (("the first look", first), (f"any of {LOOKS} looks", any_of_ten)):
        if share.count > 0.01 * share.total:
            problems.append(f"{measure}: no change, {name}: {share}: expected 1 % at most")
    harmed = [one_slice_harmed(make, chance) for _ in range(candidates)]
    stopped = told(
        "-10 points in one of 8 slices of 200, +10 elsewhere: stopped",
        [not result.passed for result in harmed],
    )
    told("  of these a fail, not a wait", [result.decision == "fail" for result in harmed])
    if stopped.interval[0] < 0.9:
        problems.append(f"{measure}: one slice harmed: stopped {stopped}: expected 90 %")
    gained = [better(make, chance) for _ in range(candidates)]
    passed = told("+10 points, 300 episodes: passes", [result.passed for result in gained])
    if passed.interval[0] < 0.8:
        problems.append(f"{measure}: a gain of 10 points: {passed}: expected 80 %")
    few = max(1, candidates // 4)
    sliced = [better(make, chance, size=1_600, slices=8) for _ in range(few)]
    told("+10 points in 8 slices of 200: passes", [result.passed for result in sliced])
    lone = [better_somewhere(make, chance) for _ in range(few)]
    told("+40 points in one of 8 slices, no change elsewhere: passes", [r.passed for r in lone])
    held = [_holds(result) for result in gained]
    told("the 95 % interval holds the truth", held)
    return problems


def _holds(result: GateResult) -> bool:
    if result.proof == "verified":
        interval, truth = result.success_gain, GAIN
    else:
        interval, truth = result.contrast, 2 * GAIN * 0.3
    assert interval is not None
    return interval.low <= truth <= interval.high


SIZES: Final = (100, 150, 200, 300, 500, 1_000)
DISCORDANCES: Final = (0.12, 0.2, 0.3, 0.4)
Curve = list[tuple[int, float]]


def power_curves(
    make: Make, chance: random.Random, candidates: int
) -> dict[tuple[float, int], Curve]:
    """Share that passes by size, for each discordance and number of the look."""
    curves: dict[tuple[float, int], Curve] = {}
    for discordant in DISCORDANCES:
        for look in (1, LOOKS):
            curve = curves.setdefault((discordant, look), [])
            for size in SIZES:
                passed = sum(
                    _passes_at(make, chance, size, discordant, look) for _ in range(candidates)
                )
                curve.append((size, passed / candidates))
                if curve[-1][1] == 1.0:  # a larger set only takes longer
                    curve += [(larger, 1.0) for larger in SIZES if larger > size]
                    break
    return curves


def _passes_at(make: Make, chance: random.Random, size: int, discordant: float, look: int) -> bool:
    held_out = held_out_set(chance, size)
    scores = make(chance, held_out, lambda at: GAIN, discordant)
    seen = GateResult(
        decision="fail",
        proof="outcome",
        incumbent_id=None,
        reason="",
        num_successes=0,
        num_failures=0,
        sketches=(looks.sketch([episode.episode_id for episode in held_out]),),
    )
    return judged(held_out, scores, [seen] * (look - 1)).passed


def _at_least(count: int, total: int, p: float) -> float:
    """Chance of at least `count` of `total`."""
    if not 0 < p < 1:
        return float(p >= 1)
    logs = (
        math.lgamma(total + 1)
        - math.lgamma(k + 1)
        - math.lgamma(total - k + 1)
        + k * math.log(p)
        + (total - k) * math.log1p(-p)
        for k in range(count, total + 1)
    )
    return math.fsum(map(math.exp, logs))


def _solve(rising: Callable[[float], float], value: float) -> float:
    low, high = 0.0, 1.0
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (middle, high) if rising(middle) < value else (low, middle)
    return high


COLOURS: Final = dict(zip(DISCORDANCES, ("#1b6ca8", "#2a9d5c", "#d98e04", "#b5362a"), strict=True))
LEFT, TOP, WIDTH, HEIGHT, APART = 60, 46, 330, 240, 90


def plot(panels: dict[str, dict[tuple[float, int], Curve]]) -> str:
    """The curves as SVG, a panel for each measure."""
    width = LEFT + len(panels) * (WIDTH + APART)
    head = f'xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} 400" font-family="sans-serif"'
    parts = [
        f'<svg {head} font-size="12" fill="#333">',
        f'<rect width="{width}" height="400" fill="#fff"/>',
    ]
    for place, (measure, curves) in enumerate(panels.items()):
        parts += _panel(LEFT + place * (WIDTH + APART), measure, curves)
    for place, discordant in enumerate(DISCORDANCES):
        parts += _key(LEFT + place * 130, COLOURS[discordant], f"{discordant:.0%} discordant")
    parts += _key(LEFT + 540, "#333", "first look")
    parts += _key(LEFT + 650, "#333", f"look {LOOKS}", dashed=True)
    return "\n".join([*parts, "</svg>", ""])


def _panel(left: float, measure: str, curves: dict[tuple[float, int], Curve]) -> Iterator[str]:
    yield (
        f'<text x="{left}" y="24" font-size="14" font-weight="bold">'
        f"a gain of {GAIN * 100:.0f} points passes: {measure}</text>"
    )
    for share in (0, 0.2, 0.4, 0.6, 0.8, 1):
        y = TOP + HEIGHT * (1 - share)
        yield f'<path d="M{left} {y:.1f}h{WIDTH}" stroke="#ddd" fill="none"/>'
        yield f'<text x="{left - 8}" y="{y + 4:.1f}" text-anchor="end">{share:.0%}</text>'
    for size in SIZES:
        x = left + _across(size)
        yield f'<path d="M{x:.1f} {TOP + HEIGHT}v5" stroke="#333"/>'
        yield f'<text x="{x:.1f}" y="{TOP + HEIGHT + 20}" text-anchor="middle">{size}</text>'
    middle, foot = left + WIDTH / 2, TOP + HEIGHT + 40
    yield f'<text x="{middle}" y="{foot}" text-anchor="middle">held-out episodes</text>'
    for (discordant, look), curve in curves.items():
        points = " ".join(
            f"{left + _across(size):.1f},{TOP + HEIGHT * (1 - share):.1f}" for size, share in curve
        )
        dashes = "" if look == 1 else ' stroke-dasharray="5 4"'
        yield (
            f'<polyline points="{points}" fill="none" stroke-width="2" '
            f'stroke="{COLOURS[discordant]}"{dashes}/>'
        )


def _across(size: int) -> float:
    return WIDTH * math.log(size / SIZES[0]) / math.log(SIZES[-1] / SIZES[0])


def _key(x: float, colour: str, text: str, *, dashed: bool = False) -> Iterator[str]:
    dashes = ' stroke-dasharray="5 4"' if dashed else ""
    yield f'<path d="M{x} 365h24" stroke="{colour}" stroke-width="2"{dashes}/>'
    yield f'<text x="{x + 30}" y="369">{text}</text>'


def main() -> int:
    """Print the figures and draw the plot; 1 when a promise is broken."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--candidates", type=int, default=1_000, help="0: only the plot")
    parser.add_argument("--curve-candidates", type=int, default=100)
    parser.add_argument("--plot", type=Path)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    started = time.thread_time()
    problems: list[str] = []
    for measure in MEASURES if given.candidates else ():
        chance = random.Random(f"{given.seed} {measure}")
        problems += acceptance(measure, chance, given.candidates)
    if given.plot is not None:
        panels = {}
        for measure, make in MEASURES.items():
            chance = random.Random(f"{given.seed} power {measure}")
            panels[measure] = power_curves(make, chance, given.curve_candidates)
        given.plot.write_text(plot(panels))
        for measure, curves in panels.items():
            print(f"\npower, {measure}: a gain of 10 points, {given.curve_candidates} a cell")
            for (discordant, look), curve in curves.items():
                cells = "  ".join(f"{size}: {share:4.0%}" for size, share in curve)
                print(f"  {discordant:4.0%} discordant, look {look:2}  {cells}")
    print(f"\n{time.thread_time() - started:.0f} s of one core")
    for problem in problems:
        print(f"BROKEN  {problem}")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
