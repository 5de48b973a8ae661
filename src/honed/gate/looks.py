"""How often the same held-out episodes were looked at, and what each look may cost.

Whoever draws often enough wins: each candidate that is judged on the same held-out episodes has its chance to pass
for nothing. So look i passes at `alpha * 6 / (pi * i) ** 2`, which adds up to less than alpha however many looks
there are and however they depend on each other (the union bound). A look no longer counts once more than half of the
held-out episodes are others than it saw, so a growing set gives its power back.

What a look saw is remembered as the smallest digests of its episodes (a bottom-k sketch, Broder 1997): of the present
episodes those with digests as small are a random sample, and the share of them that the look saw can be counted.
"""

import base64
import hashlib
import math
from collections.abc import Collection, Iterable
from typing import Final

SIZE: Final = 64
"""Digests that a sketch keeps; of a set of up to so many episodes it knows each."""
_BYTES: Final = 6
SHARED: Final = 0.5
"""Share of the present episodes that an earlier look must have seen to count."""


def level(alpha: float, look: int) -> float:
    """What look number `look`, from 1, may pass at."""
    return alpha * 6 / (math.pi * look) ** 2


def sketch(episode_ids: Iterable[str]) -> str:
    """What is remembered of a set of episodes."""
    smallest = sorted(set(map(_digest, episode_ids)))[:SIZE]
    return base64.b64encode(b"".join(smallest)).decode()


def num_counting(episode_ids: Collection[str], sketches: Iterable[str]) -> int:
    """How many earlier looks saw half of these episodes or more."""
    digests = set(map(_digest, episode_ids))
    if not digests:
        return 0
    return sum(_share_seen(digests, seen) >= SHARED for seen in sketches)


def _share_seen(digests: Collection[bytes], seen: str) -> float:
    kept = base64.b64decode(seen)
    known = {kept[at : at + _BYTES] for at in range(0, len(kept), _BYTES)}
    if len(known) == SIZE:
        last = max(known)
        digests = {digest for digest in digests if digest <= last}
    # none of the few present ones has a digest as small: nobody can tell, so it counts
    return sum(digest in known for digest in digests) / len(digests) if digests else 1.0


def _digest(episode_id: str) -> bytes:
    return hashlib.blake2b(episode_id.encode("utf-8", "surrogatepass"), digest_size=_BYTES).digest()
