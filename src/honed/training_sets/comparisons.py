"""What preference methods learn from: pairs of attempts of one group, edited answers, answers marked good or bad.

A pair is made of two attempts under one group id that were asked the same, answered differently, and differ in
their scores (`learn_models.dpo`); or of an answer that somebody edited: the edited one is chosen, the original
rejected. An answer by itself is good when its attempt is a success, bad when it is not.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, Final, cast

from msgspec.structs import replace

from honed.domain.episode import Episode
from honed.domain.message import Message, Tool
from honed.domain.outcome import Success, is_known, is_success, score
from honed.domain.training_data import (
    ChatExample,
    LabelledExample,
    PreferencePair,
    TrainingData,
    TrainingMetadata,
)
from honed.errors import ValidationError
from honed.learn_models import DpoLearnModel
from honed.learn_models.conversation import key_of
from honed.learn_models.correction import Correction, correction
from honed.learn_models.dpo import Comparable, Said
from honed.training_sets.rules import Rules

NO_GROUP: Final = "it names no group of comparable attempts"
ALONE: Final = "no attempt of its group has another score"
NO_PAIR: Final = (
    "no attempt of its group was asked the same, answered otherwise and differs enough in score"
)
NO_ANSWER: Final = "it has no answer that may be imitated as a whole"
SAME_ANSWER: Final = "the edited answer is the original"
LOW_SCORE: Final = "score too low"


class Comparisons:
    """The comparisons of one build.

    Args:
        rules: of the build; its learn model has an `extractor`.
        actions: the scenario's distinct actions.

    Raises:
        ConfigError: the learn model does not say what of its episodes is compared.
    """

    def __init__(self, rules: Rules, actions: Sequence[str]) -> None:
        model = rules.learn_model
        self._rules = rules
        self._actions = actions
        # the largest gaps are chosen of all groups together
        self._dpo = DpoLearnModel.wrapping(model, replace(rules.pairs, max_pairs=None))
        self._extract = cast("Comparable", model).extractor(actions)
        self._system_prompt: str | None = getattr(model, "system_prompt", None)
        self._groups: dict[str, dict[str, float]] = {}

    def add(
        self, episode: Episode, *, pairs: bool
    ) -> list[tuple[TrainingData, tuple[bool, float]]] | str:
        """The rows that an episode makes by itself, with their worth, or why it makes none.

        Args:
            episode: with an outcome or a demonstration.
            pairs: rows of pairs are wanted; an episode that may be part of one is remembered for `groups`.
        """
        if told := correction(episode):
            return self._edited(episode, told, pairs=pairs)
        if not is_known(episode.outcome):
            return NO_ANSWER
        if not pairs:
            return self._labelled(episode)
        if episode.group_id is None:
            return NO_GROUP
        self._groups.setdefault(episode.group_id, {})[episode.id] = score(episode.outcome)
        return []

    def groups(self, left_out: Counter[str]) -> list[tuple[str, ...]]:
        """Episodes of groups with more than one score; the others are counted."""
        found = []
        for group in sorted(self._groups):
            scores = self._groups[group]
            if len(set(scores.values())) < 2:
                left_out[ALONE] += len(scores)
            else:
                found.append(tuple(sorted(scores)))
        return found

    def pairs(
        self, episodes: Sequence[Episode], left_out: Counter[str]
    ) -> Iterator[tuple[PreferencePair, float]]:
        """The pairs of a group's episodes with their quality gaps, one at a time; episodes in none are counted."""
        used: set[str] = set()
        for pair in self._dpo.iter_pairs(episodes, available_actions=self._actions):
            used |= {pair.chosen.id, pair.rejected.id}
            yield self._dpo.convert_pair(pair), pair.quality_gap
        left_out[NO_PAIR] += len(episodes) - len(used)

    def conversation(self, episode: Episode) -> ChatExample | None:
        """What was asked and answered as one conversation; None where there is none, or somebody edited it."""
        if correction(episode) or (told := self._asked_and_answered(episode)) is None:
            return None
        prompt, answer, tools = told
        answers = range(len(prompt), len(prompt) + len(answer))
        messages = (*prompt, *answer)
        return ChatExample(
            messages=messages,
            tools=tools,
            trained_turns=tuple(i for i in answers if messages[i].role == "assistant"),
            metadata=_metadata(episode),
        )

    def _labelled(self, episode: Episode) -> list[tuple[TrainingData, tuple[bool, float]]] | str:
        outcome = episode.outcome
        if isinstance(outcome, Success) and outcome.score < self._rules.min_score:
            return LOW_SCORE
        told = self._asked_and_answered(episode)
        if told is None:
            return NO_ANSWER
        prompt, completion, tools = told
        row = LabelledExample(
            prompt=prompt,
            completion=completion,
            label=is_success(outcome),
            tools=tools,
            metadata=_metadata(episode),
        )
        return [(row, (False, score(outcome)))]

    def _edited(
        self, episode: Episode, told: Correction, *, pairs: bool
    ) -> list[tuple[TrainingData, tuple[bool, float]]] | str:
        *prompt, better = told.conversation.messages
        original = told.original
        if not all(map(_is_text, (*prompt, better))):
            return NO_ANSWER
        if original is not None and key_of(original) == key_of(better):
            return SAME_ANSWER
        metadata = _metadata(episode, told.given_by)
        tools = told.conversation.tools
        rejected = (original,) if original is not None and _is_text(original) else ()
        try:
            if pairs:
                if not rejected:
                    return NO_ANSWER
                pair = PreferencePair(
                    prompt=tuple(prompt),
                    chosen=(better,),
                    rejected=rejected,
                    tools=tools,
                    metadata=metadata,
                )
                return [(pair, (True, 1.0))]
            rows: list[tuple[TrainingData, tuple[bool, float]]] = []
            for answer, label in (((better,), True), (rejected, False)):
                # nobody has said that the original of a success is bad
                if answer and (label or not is_success(episode.outcome)):
                    row = LabelledExample(
                        prompt=tuple(prompt),
                        completion=answer,
                        label=label,
                        tools=tools,
                        metadata=metadata if label else _metadata(episode),
                    )
                    rows.append((row, (label, float(label))))
            return rows
        except ValidationError:  # nothing precedes the edited answer
            return NO_ANSWER

    def _asked_and_answered(
        self, episode: Episode
    ) -> tuple[tuple[Message, ...], tuple[Message, ...], tuple[Tool, ...] | None] | None:
        told = self._extract(episode)
        if told is None:
            return None
        prompt, answer, *rest = told
        turns = _turns("user", prompt)
        if self._system_prompt and isinstance(prompt, str):
            turns = (Message(role="system", content=self._system_prompt), *turns)
        return turns, _turns("assistant", answer), rest[0] if rest else None


def _turns(role: str, said: Said) -> tuple[Message, ...]:
    return (Message(role=cast("Any", role), content=said),) if isinstance(said, str) else said


def _is_text(message: Message) -> bool:
    parts = message.content if isinstance(message.content, tuple) else ()
    return all(part.type == "text" for part in parts)


def _metadata(episode: Episode, given_by: str | None = None) -> TrainingMetadata:
    return TrainingMetadata(
        episode_id=episode.id,
        outcome=episode.outcome,
        outcome_score=score(episode.outcome),
        adapter_id=episode.metadata.adapter_id,
        demonstrated_by=given_by,
        group=episode.split_key,
    )
