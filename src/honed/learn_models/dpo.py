"""Learns from comparisons: of two attempts under one group id, what the better one answered.

It wraps another learn model, whose episodes it pairs: `dpo(worker_task)`.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from heapq import merge
from itertools import groupby, islice
from typing import Any, Final, NamedTuple, Protocol, cast

from msgspec import Struct
from msgspec.structs import replace

from honed.domain.episode import Episode, as_episode
from honed.domain.message import Message, Tool
from honed.domain.outcome import Outcome, is_known
from honed.domain.outcome import score as score_of
from honed.domain.records import Arrival, Record
from honed.domain.trained_model import Method
from honed.domain.training_data import ChatExample, PreferencePair, TrainingMetadata
from honed.errors import ConfigError
from honed.learn_models.chat import ChatLearnModel
from honed.learn_models.learn_model import LearnModel, LearnModelMixin, LeftOut, forks_of
from honed.learn_models.worker_rows import cannot_teach

Said = str | tuple[Message, ...]
"""A text of one turn, or turns."""
Answer = tuple[Said, Said] | tuple[Said, Said, tuple[Tool, ...] | None]
"""What was asked, what was answered, and with which tools."""
Extractor = Callable[[Episode], Answer | None]
"""What of an episode is compared; None when it has nothing to compare."""

ALONE: Final = "one episode makes no pair"
_TOLERANCE: Final = 1e-9
"""By which a gap may miss the least one: scores are sums of floats."""


class DpoConfig(Struct, frozen=True, kw_only=True):
    """Which pairs are made."""

    min_quality_gap: float = 0.1
    """Least difference of the two scores, 0..1; a difference of 0 never makes a pair."""
    max_pairs: int | None = None
    """Pairs at most, those with the largest gaps; None: all."""
    allow_reuse: bool = True
    """Whether an episode may be in several pairs."""

    def __post_init__(self) -> None:
        if not 0 <= self.min_quality_gap <= 1:
            raise ValueError(f"min_quality_gap {self.min_quality_gap}: expected a number in 0..1")
        if self.max_pairs is not None and self.max_pairs < 1:
            raise ValueError(f"max_pairs {self.max_pairs}: expected 1 or more")


class DpoPair(Struct, frozen=True, kw_only=True):
    """Two episodes of one group that were asked the same, and what each answered."""

    chosen: Episode
    """The one with the higher score."""
    rejected: Episode
    prompt: Said
    chosen_answer: Said
    rejected_answer: Said
    tools: tuple[Tool, ...] | None = None

    @property
    def quality_gap(self) -> float:
        """Difference of the two scores, above 0 up to 1."""
        return score_of(self.chosen.outcome) - score_of(self.rejected.outcome)


class _Attempt(NamedTuple):
    """An episode with what of it is compared."""

    episode: Episode
    score: float
    prompt: Said
    answer: Said
    tools: tuple[Tool, ...] | None

    @property
    def asked(self) -> tuple[Said, tuple[Tool, ...] | None]:
        """What it has in common with the attempts that it is compared with."""
        return self.prompt, self.tools


class _Class(NamedTuple):
    """Attempts with one score, in the order of their ids."""

    score: float
    attempts: list[_Attempt]


class Comparable(Protocol):
    """A learn model that says what of its episodes can be compared."""

    def extractor(self, available_actions: Sequence[str] = ()) -> Extractor:
        """The extractor; `available_actions` are the scenario's, for prompts that list them."""


class DpoLearnModel(LearnModelMixin):
    """The learn model `dpo`: groups, episodes and outcomes of another one, compared in pairs.

    Args:
        extractor: what of an episode is compared.
        system_prompt: the system turn of prompts that are a text; None leaves it out.
        config: which pairs are made.
        over: what builds the episodes.
    """

    objective = "prefer what the better of two attempts answered"
    method: Method = "dpo"

    def __init__(
        self,
        extractor: Extractor,
        system_prompt: str | None = None,
        config: DpoConfig = DpoConfig(),  # noqa: B008  (frozen)
        *,
        over: LearnModel | None = None,
    ) -> None:
        self._extractor_of: Callable[[Sequence[str]], Extractor] = lambda actions: extractor
        self._system_prompt = system_prompt
        self.config = config
        self._over: LearnModel = over or ChatLearnModel()
        self.name = "dpo" if over is None else f"dpo({over.name})"

    @classmethod
    def wrapping(cls, model: LearnModel, config: DpoConfig = DpoConfig()) -> "DpoLearnModel":  # noqa: B008
        """Pairs of a model's episodes, compared by its own extractor.

        Raises:
            ConfigError: it has none.
        """
        if not callable(getattr(model, "extractor", None)):
            raise ConfigError(
                f"learn.model: dpo({model.name}) cannot be made: {model.name} has no method "
                "`extractor`, which says what of an episode is compared",
                advice="add `extractor(self, available_actions=())`, which gives a function from an episode to "
                "(prompt, answer) or None",
            )
        comparable = cast("Comparable", model)
        made = cls(
            comparable.extractor(), getattr(model, "system_prompt", None), config, over=model
        )
        made._extractor_of = comparable.extractor
        return made

    # ------------------------------------------------------------ pairs

    @property
    def system_prompt(self) -> str | None:
        """The system turn of prompts that are a text."""
        return self._system_prompt

    def extractor(self, available_actions: Sequence[str] = ()) -> Extractor:
        """What of an episode it compares."""
        return self._extractor_of(available_actions)

    def build_pairs(
        self, episodes: Sequence[Episode], *, available_actions: Sequence[str] = ()
    ) -> list[DpoPair]:
        """Pairs inside each group, the largest gap first, of equal gaps by the episodes' ids.

        Both episodes have an outcome, were asked the same and answered differently. An episode without a group, or
        one that may not be learned from, is in no pair.

        Args:
            episodes: in any order.
            available_actions: the scenario's distinct actions, for prompts that list them.
        """
        pairs = self.iter_pairs(episodes, available_actions=available_actions)
        return list(islice(pairs, self.config.max_pairs))

    def iter_pairs(
        self, episodes: Sequence[Episode], *, available_actions: Sequence[str] = ()
    ) -> Iterator[DpoPair]:
        """All pairs as `build_pairs` orders them, one at a time.

        A thousand attempts of one group make half a million pairs; in memory there is one for each attempt.
        """
        extract = self._extractor_of(available_actions)
        streams = [
            self._pairs_of(attempt, classes)
            for attempts in self._comparable(episodes, extract)
            for classes in [_classes(attempts)]
            for attempt in attempts
        ]
        pairs = merge(
            *streams, key=lambda pair: (-pair.quality_gap, pair.chosen.id, pair.rejected.id)
        )
        return pairs if self.config.allow_reuse else _each_once(pairs)

    def convert_pair(self, pair: DpoPair) -> PreferencePair:
        """The row of a pair: `prompt`, `chosen`, `rejected`."""
        prompt = _turns("user", pair.prompt)
        if self._system_prompt and isinstance(pair.prompt, str):
            prompt = (Message(role="system", content=self._system_prompt), *prompt)
        return PreferencePair(
            prompt=prompt,
            chosen=_turns("assistant", pair.chosen_answer),
            rejected=_turns("assistant", pair.rejected_answer),
            tools=pair.tools,
            metadata=TrainingMetadata(
                episode_id=pair.chosen.id,
                rejected_episode_id=pair.rejected.id,
                outcome=pair.chosen.outcome,
                outcome_score=score_of(pair.chosen.outcome),
                adapter_id=pair.chosen.metadata.adapter_id,
                group=pair.chosen.split_key,
            ),
        )

    def convert_pairs(self, pairs: Sequence[DpoPair]) -> list[PreferencePair]:
        """The rows of pairs, in their order."""
        return [self.convert_pair(pair) for pair in pairs]

    def _comparable(
        self, episodes: Sequence[Episode], extract: Extractor
    ) -> Iterator[list[_Attempt]]:
        """Attempts of one group that were asked the same, with the same tools."""
        groups: dict[str, list[list[_Attempt]]] = {}
        for episode in episodes:
            if episode.group_id is None or not is_known(episode.outcome) or not episode.may_teach:
                continue
            if (answer := extract(episode)) is None:
                continue
            prompt, answered, *rest = answer
            tools = rest[0] if rest else None
            attempt = _Attempt(episode, score_of(episode.outcome), prompt, answered, tools)
            group = groups.setdefault(episode.group_id, [])
            same = (each for each in group if each[0].asked == attempt.asked)
            if (found := next(same, None)) is None:
                group.append([attempt])
            else:
                found.append(attempt)
        for group in groups.values():
            yield from group

    def _pairs_of(self, chosen: _Attempt, classes: Sequence[_Class]) -> Iterator[DpoPair]:
        """The pairs in which an attempt is the chosen one, in their order."""
        for gap, tied in groupby(classes, key=lambda each: chosen.score - each.score):
            if gap <= 0 or gap < self.config.min_quality_gap - _TOLERANCE:
                return  # from the lowest score up: gaps only shrink
            for rejected in merge(*(each.attempts for each in tied), key=_id):
                if rejected.answer != chosen.answer:
                    yield DpoPair(
                        chosen=chosen.episode,
                        rejected=rejected.episode,
                        prompt=chosen.prompt,
                        chosen_answer=chosen.answer,
                        rejected_answer=rejected.answer,
                        tools=chosen.tools,
                    )

    # ------------------------------------------------------------ of the model it wraps

    def group_key(self, arrival: Arrival) -> str | None:
        """As the model that it wraps."""
        return self._over.group_key(arrival)

    def is_closing(self, arrival: Arrival) -> bool:
        """As the model that it wraps."""
        return self._over.is_closing(arrival)

    def is_complete(self, records: Sequence[Record]) -> bool:
        """As the model that it wraps."""
        return self._over.is_complete(records)

    def build_episodes(
        self, records: Sequence[Record], *, now_ms: int, final: bool = False
    ) -> list[Episode]:
        """The episodes of the model that it wraps, under its own name."""
        made = self._over.build_episodes(records, now_ms=now_ms, final=final)
        return [replace(as_episode(episode), learn_model=self.name) for episode in made]

    def evaluate(self, records: Sequence[Record]) -> Outcome:
        """As the model that it wraps."""
        return self._over.evaluate(records)

    def convert(self, episode: Episode, *, available_actions: Sequence[str] = ()) -> ChatExample:
        """Never: pairs come of `build_pairs`.

        Raises:
            LearnError: always.
        """
        raise cannot_teach(episode, ALONE)

    def left_out(self, episode: Episode) -> Sequence[LeftOut]:
        """As the model that it wraps."""
        return self._over.left_out(episode)

    def forks(self, episode: Episode) -> Mapping[str, int]:
        """As the model that it wraps."""
        return forks_of(self._over, episode)


def _turns(role: str, said: Said) -> tuple[Message, ...]:
    return (Message(role=cast("Any", role), content=said),) if isinstance(said, str) else said


def _id(attempt: _Attempt) -> str:
    return attempt.episode.id


def _classes(attempts: Iterable[_Attempt]) -> list[_Class]:
    """The attempts by their score, from the lowest up."""
    ranked = sorted(attempts, key=lambda attempt: (attempt.score, attempt.episode.id))
    by_score = groupby(ranked, key=lambda attempt: attempt.score)
    return [_Class(score, list(those)) for score, those in by_score]


def _each_once(pairs: Iterable[DpoPair]) -> Iterator[DpoPair]:
    """The pairs from the first on whose episodes are in none before."""
    used: set[str] = set()
    for pair in pairs:
        ids = {pair.chosen.id, pair.rejected.id}
        if not ids & used:
            used |= ids
            yield pair
