"""No regression anywhere: parts of the held-out episodes on which the candidate does worse.

Many parts are looked at, so what is called harmed keeps a false discovery rate (Benjamini and Hochberg 1995). Where
the candidate gains, "worse" has a p-value near one, and each such part would make the others harder to see. So parts
that show no loss (p above `LOOKED_AT`) are set aside and the p-values of the rest divided by that bound, which is valid
because a part that does not lose has a p-value at least uniform below it too (Zhao, Small and Su 2019).
"""

from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

from honed.domain.trained_model import Interval, Proof, SliceResult
from honed.gate.chance import Scored
from honed.gate.measures import measure_of
from honed.ports import HeldOut

MIN_EPISODES: Final = 20
"""Episodes below which a part is not looked at; a protected one then stops the candidate."""
LOOKED_AT: Final = 0.5
HARM: Final = 0.05
"""One-sided level of "worse" for what stands alone: a protected suite, a metric, the bare base."""
SHOWN: Final = 20
"""Parts that are kept in the verdict: the protected ones, and those that look worst."""

Name = tuple[str, str]
"""Kind and value: `("tool", "search")`."""


class Part(NamedTuple):
    """A part of the episodes, by all names it has."""

    names: tuple[Name, ...]
    episodes: list[Scored]


def parts_of(held_out: Sequence[HeldOut], episodes: Sequence[Scored]) -> list[Part]:
    """The parts with enough episodes, except what all have in common; the same episodes are one part."""
    members: dict[Name, list[int]] = {}
    for place, episode in enumerate(held_out):
        for name in dict.fromkeys(episode.slices):
            members.setdefault(name, []).append(place)
    alike: dict[tuple[int, ...], list[Name]] = {}
    for name, places in sorted(members.items()):
        if MIN_EPISODES <= len(places) < len(held_out):
            alike.setdefault(tuple(places), []).append(name)
    return [Part(tuple(names), [episodes[at] for at in at]) for at, names in alike.items()]


def judge_parts(
    parts: Iterable[Part], proof: Proof, *, false_discovery_rate: float, seed: int
) -> list[SliceResult]:
    """What each part shows, the worst first; `is_harmed` keeps the false discovery rate over all of them."""
    looked: list[tuple[float, Part, Interval | None]] = []
    for part in parts:
        measure = measure_of(proof, part.episodes)
        if measure is None:
            continue
        p_worse = measure.worse(part.episodes, level=HARM, seed=seed)
        looked.append((p_worse, part, measure.estimate(part.episodes)))
    looked.sort(key=lambda each: (each[0], each[1].names))
    num_worse = num_harmed([p_worse for p_worse, *_ in looked], false_discovery_rate)
    return [
        SliceResult(
            name=", ".join("=".join(name) for name in part.names),
            num_episodes=len(part.episodes),
            gain=value,
            p_worse=p_worse,
            is_harmed=rank < num_worse,
        )
        for rank, (p_worse, part, value) in enumerate(looked)
    ]


def num_harmed(p_values: Sequence[float], rate: float) -> int:
    """How many of the smallest p-values are discoveries.

    Args:
        p_values: in rising order.
        rate: of false discoveries.
    """
    kept = [p / LOOKED_AT for p in p_values if p <= LOOKED_AT]
    ranks = range(len(kept), 0, -1)
    return next((rank for rank in ranks if kept[rank - 1] <= rate * rank / len(kept)), 0)


class Protected(NamedTuple):
    """What a protected suite shows, and why that stops the candidate; None when it does not."""

    result: SliceResult
    fails: str | None = None
    waits: str | None = None


def judge_protected(
    name: Name, held_out: Sequence[HeldOut], episodes: Sequence[Scored], proof: Proof, *, seed: int
) -> Protected:
    """A suite by itself: it may not have lost, whatever the others have gained."""
    told = "=".join(name)
    members = [e for h, e in zip(held_out, episodes, strict=True) if name in h.slices]
    measure = measure_of(proof, members)
    if len(members) < MIN_EPISODES or measure is None:
        needed = f"{MIN_EPISODES} needed" + ("" if measure else ", successes and failures")
        result = SliceResult(name=told, num_episodes=len(members), is_protected=True)
        return Protected(result, waits=f"protected {told} has {len(members)} episodes of {needed}")
    value = measure.estimate(members)
    p_worse = measure.worse(members, level=HARM, seed=seed)
    return protected(told, len(members), value, p_worse)


def protected(name: str, num_episodes: int, value: Interval | None, p_worse: float) -> Protected:
    """It fails what is worse beyond chance, and makes wait what looks worse."""
    is_harmed = p_worse <= HARM
    result = SliceResult(
        name=name,
        num_episodes=num_episodes,
        gain=value,
        p_worse=p_worse,
        is_protected=True,
        is_harmed=is_harmed,
    )
    if value is None:
        return Protected(result, waits=f"protected {name} is of one group alone")
    figures = f"{value.value:+.4f} [{value.low:+.4f}, {value.high:+.4f}], p {p_worse:.2g}"
    if is_harmed:
        return Protected(result, fails=f"protected {name} became worse: {figures}")
    if value.value < 0:
        return Protected(result, waits=f"protected {name} may have become worse: {figures}")
    return Protected(result)


def shown(results: Sequence[SliceResult]) -> tuple[SliceResult, ...]:
    """What is kept: protected ones, then those that look worst."""
    first = [each for each in results if each.is_protected]
    rest = [each for each in results if not each.is_protected]
    return (*first, *rest[: max(0, SHOWN - len(first))])
