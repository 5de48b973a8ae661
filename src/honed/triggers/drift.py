"""Has the success rate fallen? A sequential test on the newest outcomes, with a stated rate of false alarms.

The newest `WINDOW` outcomes since the last training are cut in two at each of their tens: the long run before the cut,
the recent ones after it. For each cut the likelihood of "the rate fell there by `drop`" is compared with that of
"it never changed", both rates unknown and each hypothesis at its best fitting rate. The test fires when the best cut's
log likelihood ratio reaches a threshold.

Source: the generalised likelihood ratio for a change point with unknown rates on both sides (Siegmund and Venkatraman,
"Using the generalized likelihood ratio statistic for sequential detection of a change-point", Annals of Statistics
23(1), 1995; Lai and Xing, "Sequential change-point detection when the pre- and post-change parameters are unknown",
Sequential Analysis 29(2), 2010), limited to a window (Lai, JRSS B 57(4), 1995, section 3) and, as in Page's CUSUM,
to falls of the size that matters. Without that last restriction the threshold for the same false alarms is higher
than what 300 outcomes can show of a fall from 70 % to 50 %.

The threshold is measured, by `benchmarks/drift.py`: see `_SLACK`. It holds nothing between two verdicts, so that an
outcome that comes late, or changes, counts at the place of its episode as if it had always stood there.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from math import log
from typing import Final, NamedTuple

from honed.triggers.context import TEN, Needs, TriggerContext
from honed.triggers.trigger import TrainTrigger, Verdict

WINDOW: Final = 2_000
"""Outcomes that are looked at; more of them would tell the long-run rate hardly better (1,000 already do)."""
LONG_RUN_MIN: Final = 100
"""Outcomes before a cut at least."""
RECENT_MIN: Final = 20
"""Outcomes after a cut at least."""
RECENT_MAX: Final = 1_000
"""Outcomes after a cut at most: the other half is left to the long run."""
HORIZON: Final = 10_000
"""Outcomes over which `false_alarms` is stated."""
_SLACK: Final = 6.0
"""The threshold is log(1 / false_alarms) + this, in nats.

Measured on 3,000 stationary streams of 10,000 outcomes each, at rates of 30, 50, 70, 90 and 98 % and drops of 5, 10,
20, 30 and 50 points: with 5.3 in its place 1 % of the streams fire where it is worst. 6.0 halves that.
"""
_MOST_STEPS: Final = 6
"""Of Newton's method; the fit is worth a thousandth of a nat more after them at most."""


class Cut(NamedTuple):
    """Where the outcomes are cut in two, and what speaks for a fall there."""

    nats: float
    long_run: tuple[int, int]
    """Successes and outcomes before it."""
    recent: tuple[int, int]
    """Successes and outcomes after it."""


_NO_CUT: Final = Cut(0.0, (0, 0), (0, 0))


@dataclass(frozen=True, slots=True)
class Drift(TrainTrigger):
    """Fires when the recent success rate has fallen against the long-run one by about `drop` or more.

    Of 10,000 known outcomes in a row whose success rate never changes, it fires anywhere with a probability of at
    most `false_alarms`, however often it is asked. A rate below twice the drop must fall by half instead. Falls of
    less than half the drop are never seen.
    """

    drop: float = 0.2
    """The fall that matters, as a difference of success rates, 0.05 to 0.5."""
    false_alarms: float = 0.01
    """Share of unchanging streams of 10,000 outcomes that may fire at all, 0.001 to 0.1."""

    def __post_init__(self) -> None:
        for name, low, high in (("drop", 0.05, 0.5), ("false_alarms", 0.001, 0.1)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, (int, float)):
                raise ValueError(f"{name} {value!r} is not a number: expected {low}..{high}")
            if not low <= value <= high:
                raise ValueError(f"{name} {value} is out of range: expected {low}..{high}")
            object.__setattr__(self, name, float(value))

    @property
    def needs(self) -> Needs:
        """The newest tens of outcomes."""
        return Needs(tens=WINDOW // TEN)

    @property
    def threshold(self) -> float:
        """How much must speak for a fall, in nats."""
        return log(1 / self.false_alarms) + _SLACK

    def judge(self, context: TriggerContext) -> Verdict:
        """Look for the cut that speaks loudest for a fall."""
        tens = context.tens[: WINDOW // TEN]
        least = LONG_RUN_MIN + RECENT_MIN
        if TEN * len(tens) < least:
            seen = f"{TEN * len(tens)} outcomes seen, in full tens, of {least} needed"
            return Verdict(False, self, seen)
        cut = best_cut(tens, self.drop)
        if not cut.nats:
            return Verdict(False, self, f"no fall in the last {TEN * len(tens)} outcomes")
        (before, num_before), (after, num_after) = cut.long_run, cut.recent
        detail = (
            f"{after / num_after:.0%} success in the last {num_after} outcomes, {before / num_before:.0%} in the "
            f"{num_before} before; evidence for a fall {cut.nats:.1f} of {self.threshold:.1f} nats"
        )
        return Verdict(cut.nats >= self.threshold, self, detail)

    def __str__(self) -> str:
        return f"drift(drop={self.drop!r}, false_alarms={self.false_alarms!r})"


def best_cut(tens: Sequence[int], drop: float) -> Cut:
    """The cut that speaks loudest for a fall by `drop`; 0 nats when none does.

    Args:
        tens: successes in each ten of outcomes, newest first.
        drop: as in `Drift`.
    """
    best, total, num = _NO_CUT, sum(tens), TEN * len(tens)
    for i, after in enumerate(accumulate(tens[: RECENT_MAX // TEN]), start=1):
        num_after, num_before, before = TEN * i, num - TEN * i, total - after
        if num_before < LONG_RUN_MIN:
            break
        rate = before / num_before
        if num_after < RECENT_MIN or rate - after / num_after <= min(drop / 2, rate / 4):
            continue
        cut = Cut(0.0, (before, num_before), (after, num_after))
        if (nats := _evidence(cut, drop)) > best.nats:
            best = cut._replace(nats=nats)
    return best


def _evidence(cut: Cut, drop: float) -> float:
    """The log likelihood ratio of a fall by `drop` at the cut against no change, each at its best rate."""
    (before, num_before), (after, num_after) = cut.long_run, cut.recent
    failed, failed_after = num_before - before, num_after - after
    num = num_before + num_after
    mean = (before + after) / num
    rate = mean + drop * num_after / num
    if rate < 2 * drop:
        rate = mean * num / (num_before + num_after / 2)
    rate = min(max(rate, 1e-3), 1 - 1e-3)
    for _ in range(_MOST_STEPS):
        fallen, slope = _fallen(rate, drop)
        gradient = before / rate - failed / (1 - rate)
        gradient += slope * (after / fallen - failed_after / (1 - fallen))
        curvature = before / rate**2 + failed / (1 - rate) ** 2
        curvature += slope**2 * (after / fallen**2 + failed_after / (1 - fallen) ** 2)
        step = gradient / curvature
        rate = min(max(rate + step, rate / 2), (1 + rate) / 2)
        if abs(step) < 1e-5:
            break
    fallen, _ = _fallen(rate, drop)
    fall = _likelihood(before, failed, rate) + _likelihood(after, failed_after, fallen)
    return fall - _likelihood(before + after, failed + failed_after, mean)


def _fallen(rate: float, drop: float) -> tuple[float, float]:
    """The rate after a fall, and how fast it changes with the rate before."""
    return (rate / 2, 0.5) if rate < 2 * drop else (rate - drop, 1.0)


def _likelihood(successes: int, failures: int, rate: float) -> float:
    nats = successes * log(rate) if successes else 0.0
    return nats + failures * log(1 - rate) if failures else nats
