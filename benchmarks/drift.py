"""How seldom `drift()` errs and how soon it sees a fall, beside a CUSUM that knows both rates.

    python benchmarks/drift.py [--streams 1000] [--history 1000 2000] [--drop 0.2]

False alarms: stationary streams of 10,000 outcomes, judged after each ten, which is when its verdict may change. Delay:
a fall by `--drop` after each history, in outcomes until it is seen, and how often within 300. The CUSUM (Page 1954)
adds up log likelihood ratios of the true rates and looks after every outcome; its threshold is that with which 1 % of
the same stationary streams fire. It is what no detector without that knowledge can beat (Moustakides 1986).
"""

import argparse
import random
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from math import log

from honed.triggers.drift import TEN, WINDOW, Drift, best_cut

HORIZON = 10_000
LATEST = 1_000
"""Outcomes after the fall that are looked at."""
BEFORE = (0.9, 0.7)


def outcomes(chance: random.Random, rate: float, count: int) -> list[bool]:
    """A stationary stream."""
    return [chance.random() < rate for _ in range(count)]


def as_tens(stream: Sequence[bool]) -> list[int]:
    """Successes in each ten."""
    return [sum(stream[at : at + TEN]) for at in range(0, len(stream) - TEN + 1, TEN)]


def evidence(tens: Sequence[int], drop: float, *, start: int = 0) -> Iterator[float]:
    """What the test finds after each ten from `start` on."""
    newest_first = tens[::-1]
    for num in range(start, len(tens) + 1):
        begin = len(tens) - num
        yield best_cut(newest_first[begin : begin + WINDOW // TEN], drop).nats


def cusum(stream: Sequence[bool], before: float, after: float) -> Iterator[float]:
    """Page's statistic after each outcome."""
    success, failure, total = log(after / before), log((1 - after) / (1 - before)), 0.0
    for outcome in stream:
        total = max(0.0, total + (success if outcome else failure))
        yield total


def delays(streams: Sequence[Iterator[float]], threshold: float, step: int) -> list[int | None]:
    """Outcomes until each reaches the threshold; None: not within what is looked at."""
    return [
        next((step * n for n, found in enumerate(each, 1) if found >= threshold), None)
        for each in streams
    ]


def told(found: Sequence[int | None]) -> str:
    """Median, 95th percentile and the share within 300."""
    late = [LATEST if delay is None else delay for delay in found]
    within = sum(delay is not None and delay <= 300 for delay in found) / len(found)
    cuts = statistics.quantiles(late, n=20)
    return f"median {statistics.median(late):5.0f}  95 % {cuts[18]:5.0f}  within 300 {within:6.1%}"


def main() -> int:
    """Print the tables; 1 when it breaks its promise."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--streams", type=int, default=1_000)
    parser.add_argument("--history", type=int, nargs="+", default=[500, 1_000, 1_500, 2_000, 5_000])
    parser.add_argument("--drop", type=float, default=0.2)
    given = parser.parse_args()
    rule, chance, kept = Drift(drop=given.drop), random.Random(1), True
    print(f"{rule}, threshold {rule.threshold:.1f} nats, {given.streams} streams for each line")
    print(f"\nfalse alarms in {HORIZON} outcomes")
    for rate in (0.3, 0.5, 0.7, 0.9, 0.98):
        started = time.thread_time()
        alarms = sum(
            any(found >= rule.threshold for found in evidence(tens, rule.drop))
            for tens in (as_tens(outcomes(chance, rate, HORIZON)) for _ in range(given.streams))
        )
        cost = (time.thread_time() - started) / given.streams / (HORIZON / TEN)
        kept = kept and alarms <= rule.false_alarms * given.streams
        print(f"  rate {rate:4.0%}  {alarms / given.streams:6.2%}   {cost * 1e6:.0f} µs a verdict")
    for before in BEFORE:
        after = before - given.drop
        peaks = [
            max(cusum(outcomes(chance, before, HORIZON), before, after))
            for _ in range(given.streams)
        ]
        knows = sorted(peaks)[int(0.99 * len(peaks))]
        print(f"\ndelay of a fall from {before:.0%} to {after:.0%}")
        for history in given.history:
            streams = [
                outcomes(chance, before, history) + outcomes(chance, after, LATEST)
                for _ in range(given.streams)
            ]
            found = delays(
                [evidence(as_tens(s), rule.drop, start=history // TEN + 1) for s in streams],
                rule.threshold,
                TEN,
            )
            print(f"  drift after {history:6}  {told(found)}")
            within = sum(delay is not None and delay <= 300 for delay in found)
            is_promised = given.drop == 0.2 and history >= 1_000
            kept = kept and (not is_promised or within >= 0.95 * given.streams)
        oracle = delays([_last(cusum(s, before, after)) for s in streams], knows, 1)
        print(f"  CUSUM that knows    {told(oracle)}   (threshold {knows:.1f})")
    print("\nas promised" if kept else "\nNOT as promised")
    return 0 if kept else 1


def _last(statistic: Iterator[float]) -> Iterator[float]:
    """What comes after the fall."""
    return iter(list(statistic)[-LATEST:])


if __name__ == "__main__":
    sys.exit(main())
