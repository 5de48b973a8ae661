"""How the verdicts of several sources on one attempt become its outcome.

Every verdict is kept; a `Composition` says which of them count and how. It is a value without memory: the same
verdicts give the same outcome, whenever the last of them came.
"""

import math
import re
from collections.abc import Callable, Iterable, Sequence
from fnmatch import fnmatchcase
from typing import Final, Literal

from msgspec import Struct

from honed.domain.outcome import Failure, Outcome, Success, Timeout, is_known, is_success, score
from honed.domain.verdict import Told, standing
from honed.errors import ValidationError

Rule = Literal["newest", "first", "weighted"]

JUDGE: Final = "judge:"
"""What the name of a judge begins with when honed asks it: a model's opinion, not something that was seen."""
VERIFIER: Final = "verifier:"
"""What the name of a verifier begins with when honed asks it."""
WEIGHED: Final = "weighted"
"""The source of an outcome that several have made together."""
ANONYMOUS: Final = "-"
"""By this a pattern means who gives no name."""


class Weight(Struct, frozen=True):
    """How much the sources that fit a pattern count; 0 leaves them out."""

    pattern: str
    """May hold `*` and `?`; fits the whole name."""
    weight: float = 1.0

    def fits(self, source: str | None) -> bool:
        """Whether it speaks of this source."""
        return fnmatchcase(ANONYMOUS if source is None else source, self.pattern)

    def __str__(self) -> str:
        return f"{self.pattern}={self.weight:g}"


class Composition(Struct, frozen=True, kw_only=True):
    """Which sources count, and how: `str()` of its weights reads back."""

    rule: Rule = "newest"
    weights: tuple[Weight, ...] = ()
    """The first one that fits a source is its own; a source that fits none has the weight 1."""

    def stands(self, verdicts: Sequence[Told]) -> Told | None:
        """What counts, of verdicts in order of arrival; None when there is nothing that does.

        newest: the newest arrival, but a model's opinion only while nobody else has spoken. first: the newest of the
        sources that the first pattern fits, else of the second, and so on; of all others last. weighted: each source's
        newest has a vote of its weight. More than half of the weight makes a success, whose score is the weighted mean
        of all; a tie is a failure, for what is doubtful should not be imitated.

        Always left out: a source of weight 0, and what a source said in a version older than its newest
        (`domain.verdict`). By `first` and `weighted` what the attempt says of itself (`own`) counts only while nobody
        else has spoken, and `unknown` takes the source's own word back instead of having a vote.
        """
        counted = [told for told in verdicts if self.weight_of(told.source) > 0]
        if self.rule == "newest":
            return _newest(counted)
        counted = [told for told in counted if not told.own] or counted
        return (_first if self.rule == "first" else _weighted)(self, counted)

    def counted(self, verdicts: Sequence[Told]) -> list[Told]:
        """The verdicts that the outcome was made of."""
        told = self.stands(verdicts)
        if told is None:
            return []
        if told.source != WEIGHED or told in verdicts:
            return [told]
        heard = [said for said in verdicts if self.weight_of(said.source) > 0]
        heard = [said for said in heard if not said.own] or heard
        return [said for said in _last_words(heard) if is_known(said.outcome)]

    def weight_of(self, source: str | None) -> float:
        """How much a source counts."""
        return next((weight.weight for weight in self.weights if weight.fits(source)), 1.0)

    def rank_of(self, source: str | None) -> int:
        """The place of the first pattern that fits the source; after all of them when none does."""
        fitting = (place for place, weight in enumerate(self.weights) if weight.fits(source))
        return next(fitting, len(self.weights))

    @property
    def is_plain(self) -> bool:
        """Whether the newest verdict counts, whoever says it, if it is no model's opinion."""
        return self.rule == "newest" and all(weight.weight > 0 for weight in self.weights)


PLAIN: Final = Composition()
"""The newest verdict counts, one of a model only while there is no other."""


def is_judged(source: str | None) -> bool:
    """Whether a verdict is a model's opinion."""
    return source is not None and source.startswith(JUDGE)


def parse_weight(text: str) -> Weight:
    """`PATTERN=WEIGHT`, or a pattern alone for the weight 1.

    Raises:
        ValidationError: the pattern is empty, or the weight is no number from 0 on.
    """
    found = re.fullmatch(r"(?P<pattern>[^=\s]+)(=(?P<weight>[0-9]+(\.[0-9]+)?))?", text.strip())
    if found is None:
        raise ValidationError(
            f"{text!r} is no weight of a source: expected PATTERN=NUMBER, for example judge:*=0.5"
        )
    return Weight(found["pattern"], float(found["weight"] or 1))


def _last_words(verdicts: Sequence[Told]) -> list[Told]:
    """The verdict of each source that stands for it, sources in the order of their names."""
    said: dict[str | None, list[Told]] = {}
    for told in verdicts:
        said.setdefault(told.source, []).append(told)
    sources = sorted(said, key=lambda name: (name is None, name))
    words = (standing(said[name]) for name in sources)
    return [told for told in words if told is not None]


def _newest(verdicts: Sequence[Told]) -> Told | None:
    """The newest arrival; of opinions only where nobody else has spoken but the attempt of itself."""
    others = [told for told in verdicts if not is_judged(told.source)]
    stands = standing(others)
    if stands is None or not is_known(stands.outcome) or all(told.own for told in others):
        return standing(verdicts)
    return stands


def _first(composition: Composition, verdicts: Sequence[Told]) -> Told | None:
    """The newest word of those with the best place that have said something."""
    if not verdicts:
        return None
    known = {told.source for told in _last_words(verdicts) if is_known(told.outcome)}
    heard = [told for told in verdicts if told.source in known]
    if not heard:
        return standing(verdicts)
    best = min(composition.rank_of(told.source) for told in heard)
    of_best = [told for told in heard if composition.rank_of(told.source) == best]
    return standing(of_best)


def _weighted(composition: Composition, verdicts: Sequence[Told]) -> Told | None:
    if not verdicts:
        return None
    words = [told for told in _last_words(verdicts) if is_known(told.outcome)]
    if len(words) < 2:
        return words[0] if words else standing(verdicts)

    def weight(told: Told) -> float:
        return composition.weight_of(told.source)

    return Told(_vote(words, weight), WEIGHED)


def _vote(words: Sequence[Told], weight: Callable[[Told], float]) -> Outcome:
    total = math.fsum(map(weight, words))
    successes = math.fsum(weight(told) for told in words if is_success(told.outcome))
    mean = _mean((weight(told), score(told.outcome)) for told in words)
    if successes > total / 2:
        return Success(mean)
    timeouts = math.fsum(weight(told) for told in words if isinstance(told.outcome, Timeout))
    if timeouts > total / 2:
        return Timeout(mean)
    return Failure(f"{total - successes:g} of {total:g} by weight say it was no success")


def _mean(weighed: Iterable[tuple[float, float]]) -> float:
    pairs = list(weighed)
    mean = math.fsum(w * x for w, x in pairs) / math.fsum(w for w, _ in pairs)
    return min(1.0, max(0.0, mean))
