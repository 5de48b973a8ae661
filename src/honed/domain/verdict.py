"""Which of several verdicts on one attempt counts, and which of them a training has seen."""

import re
from collections.abc import Sequence
from typing import Final, NamedTuple

from msgspec import Struct

from honed.domain.outcome import Outcome, score

UNSIGNED: Final = "unsigned"
"""How a verdict is named that says not who gave it, and the attempt's own."""


class Told(NamedTuple):
    """A verdict, who said it, and which version of them."""

    outcome: Outcome
    source: str | None = None
    version: str | None = None
    own: bool = False
    """Whether the attempt says it of itself: its `done`, as the learn model reads it."""


def standing(verdicts: Sequence[Told]) -> Told | None:
    """The verdict that counts, of verdicts in order of arrival; None without any.

    The newest arrival, leaving out what its own source has said in a newer version: the old judge that
    catches up must not undo the new one. Versions are compared by their numbers (`v9` is before `v10`);
    a verdict without source or version is never outdated.
    """
    newest: dict[str, list[tuple[int, int, str]]] = {}
    for told in verdicts:
        if told.source is not None and told.version is not None:
            key = _order(told.version)
            newest[told.source] = max(newest.get(told.source, key), key)
    for told in reversed(verdicts):
        if told.source is None or told.version is None:
            return told
        if _order(told.version) == newest[told.source]:
            return told
    return None


def worth(outcome: Outcome) -> tuple[str, float]:
    """What a training makes of an outcome: its type and its score; reasons are words for people."""
    return str(outcome.__struct_config__.tag), score(outcome)


class Reach(NamedTuple):
    """Up to where something was read: ids of the newest verdict and the newest record."""

    verdict: int = 0
    record: int = 0


class Seen(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a training has read of what was said: verdicts are only ever added, so their ids tell it exactly."""

    newest: Reach = Reach()
    """Of everything in the store, when the training began to read."""
    later: dict[str, Reach] = {}
    """By episode: those that got something more while the training read, and had it when they were read."""

    def reach(self, episode_id: str) -> Reach:
        """Up to where it has read what was said of an episode."""
        return self.later.get(episode_id, self.newest)


def _order(version: str) -> list[tuple[int, int, str]]:
    """Digits compare as numbers, and come after other text."""
    parts = re.findall(r"[0-9]+|[^0-9]+", version)
    return [_rank(part) for part in parts]


def _rank(part: str) -> tuple[int, int, str]:
    if not part[0].isdecimal() or not part.isascii():
        return 0, 0, part
    number = part.lstrip("0")  # not `int`, which refuses more than 4,300 digits
    return 1, len(number), number
