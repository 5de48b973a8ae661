"""Conversations whose lengths are spread like those of real trajectories, or of the demo's incidents.

The words mean nothing; a reply answers each word of the turn before it with that word's partner, one time in ten with
another, so that there is something to learn and held-out loss means something.
"""

import random
from bisect import bisect_right
from collections.abc import Iterator
from typing import Any, Final, NamedTuple

WORDS: Final = [a + b + c for a in "bdfgklmnprst" for b in "aeiou" for c in ("", "n", "r", "st")]
FRAME: Final = 10
"""Tokens that ChatML puts round a turn and its reply."""


class Spread(NamedTuple):
    """How long conversations are, in tokens."""

    quantiles: dict[int, int]
    """Percent of the conversations, and how long those are at most."""
    assistant_share: float
    """Share of the tokens that the agent wrote, and that count."""
    exchange: int
    """About how long a turn and its reply are."""


SPREADS: Final = {
    # 80 published trajectories of tau-bench (airline, gpt-4o), in tokens of a byte-level BPE of 4,096.
    "trajectories": Spread(
        {0: 1717, 5: 1895, 10: 1985, 20: 2322, 30: 2852, 40: 3402, 50: 3812, 60: 3999, 70: 4541}
        | {80: 5106, 90: 6086, 95: 7528, 99: 8939, 100: 9913},
        assistant_share=0.24,
        exchange=330,
    ),
    # The successes that `honed demo` trains on.
    "demo": Spread(
        {0: 46, 10: 48, 25: 57, 50: 66, 75: 73, 90: 92, 95: 99, 100: 108},
        assistant_share=0.176,
        exchange=24,
    ),
}


def conversations(
    spread: Spread, count: int, seed: int, scale: float = 1.0
) -> list[dict[str, Any]]:
    """Conversations as lines of a training file; `scale` makes all of them shorter alike."""
    chance = random.Random(seed)
    partners = dict(zip(WORDS, random.Random(0).sample(WORDS, len(WORDS)), strict=True))
    lengths = [scale * _at(spread.quantiles, 100 * (i + 0.5) / count) for i in range(count)]
    chance.shuffle(lengths)
    return [{"messages": list(_turns(length, spread, partners, chance))} for length in lengths]


def _at(quantiles: dict[int, int], percent: float) -> float:
    known = sorted(quantiles)
    after = min(bisect_right(known, percent), len(known) - 1)
    low, high = known[after - 1], known[after]
    share = (percent - low) / (high - low)
    return quantiles[low] + share * (quantiles[high] - quantiles[low])


def _turns(
    length: float, spread: Spread, partners: dict[str, str], chance: random.Random
) -> Iterator[dict[str, str]]:
    num_exchanges = max(1, round(length / spread.exchange))
    num_targets = spread.assistant_share * length / num_exchanges
    num_others = length / num_exchanges - num_targets - FRAME
    yield {"role": "system", "content": "answer"}
    for _ in range(num_exchanges):
        asked = chance.choices(WORDS, k=max(1, round(num_others)))
        replies = [
            partners[word] if chance.random() < 0.9 else chance.choice(WORDS)
            for word in asked[: max(1, round(num_targets) - 1)]
        ]
        yield {"role": "user", "content": " ".join(asked)}
        yield {"role": "assistant", "content": " ".join(replies)}
