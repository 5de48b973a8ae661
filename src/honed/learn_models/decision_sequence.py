"""Learns the order in which a worker acts: a task in, its successful actions out."""

from collections.abc import Collection, Iterable, Sequence
from typing import Final

from honed.domain.episode import Episode
from honed.domain.outcome import Outcome, Timeout, Unknown
from honed.domain.outcome import score as score_of
from honed.domain.records import (
    ActionRecord,
    Arrival,
    Record,
    records_of,
)
from honed.domain.training_data import ChatExample, TrainingMetadata, sft
from honed.errors import LearnError
from honed.learn_models import attempt
from honed.learn_models.learn_model import LeftOut

DEFAULT_SYSTEM_PROMPT: Final = (
    "You are a worker in a swarm. Choose the actions that complete the task, in order."
)

_GROUPED: Final = attempt.ACTIONS + attempt.OUTCOMES


class DecisionSequenceLearnModel:
    """The learn model `worker_decision_sequence`.

    A group is a task; each worker's part of it becomes an episode of its own, and the task's end
    judges all of them. The engine's own events (`SYSTEM_EVENTS`) are not actions.

    Args:
        system_prompt: the system turn of every row.
        min_actions: a worker with fewer actions makes no episode.
        available_actions: what the prompt offers; empty takes what `convert` is given.
        system_events: further names that are no actions.
    """

    name = "worker_decision_sequence"
    objective = "choose the actions of a worker in an order that completes the task"

    def __init__(
        self,
        *,
        system_prompt: str = DEFAULT_SYSTEM_PROMPT,
        min_actions: int = 3,
        available_actions: Sequence[str] = (),
        system_events: Collection[str] = (),
    ) -> None:
        self._system_prompt = system_prompt
        self._min_actions = min_actions
        self._available_actions = tuple(available_actions)
        self._system_events = attempt.SYSTEM_EVENTS | frozenset(system_events)

    def group_key(self, arrival: Arrival) -> str | None:
        """The task of an action or an outcome; evaluations and probes are no attempts."""
        if not isinstance(arrival, _GROUPED) or arrival.purpose != "work":
            return None
        return attempt.task_key(arrival.task_id) if arrival.task_id else None

    def is_closing(self, arrival: Arrival) -> bool:
        """An outcome, or an action `done`."""
        return attempt.is_closing(arrival)

    def is_complete(self, records: Sequence[Record]) -> bool:
        """Whether a closing record is there."""
        return any(map(attempt.is_closing, records))

    def build_episodes(
        self, records: Sequence[Record], *, now_ms: int, final: bool = False
    ) -> list[Episode]:
        """One episode per worker with `min_actions` or more, in the order of first actions."""
        if not final and not self.is_complete(records):
            return []
        episodes = []
        for worker_id in dict.fromkeys(action.worker_id for action in self._own(records)):
            part = [
                record
                for record in records
                if attempt.is_closing(record)
                or (self._is_own(record) and record.worker_id == worker_id)
            ]
            if len(self._own(part)) >= self._min_actions:
                outcome = self.evaluate(part)
                episodes.append(attempt.episode(self.name, part, outcome, now_ms=now_ms))
        return episodes

    def evaluate(self, records: Sequence[Record]) -> Outcome:
        """The newest outcome that was told, else what `done` says, else a timeout."""
        if not records:
            return Unknown()
        part = [r for r in records if attempt.is_closing(r) or self._is_own(r)]
        return attempt.verdict(part) or Timeout(attempt.action_score(part))

    def convert(self, episode: Episode, *, available_actions: Sequence[str] = ()) -> ChatExample:
        """One question and one answer: `a -> b(target) -> c`, successful actions only.

        Raises:
            LearnError: no action succeeded, one may not be imitated, or the task is not stated.
        """
        own = self._own(episode.records)
        if not all(action.may_teach and action.trust == "trusted" for action in own):
            raise LearnError(f"episode {episode.id} has actions that may not be imitated")
        answer = " -> ".join(_written(action) for action in own if action.success)
        if not answer:
            raise LearnError(
                f"episode {episode.id} cannot teach: expected a successful action, "
                f"found none in {len(own)}"
            )
        observed = (action.observation for action in own if action.observation)
        task = next(observed, episode.metadata.scenario)
        if not task:
            raise LearnError(f"episode {episode.id} names neither an observation nor a scenario")
        prompt = f"Task: {task}"
        if offered := self._offered(available_actions):
            prompt += f"\nAvailable actions: {', '.join(offered)}"
        return ChatExample(
            messages=sft(self._system_prompt, prompt, answer).messages,
            metadata=TrainingMetadata(
                episode_id=episode.id,
                outcome=episode.outcome,
                outcome_score=score_of(episode.outcome),
                adapter_id=episode.metadata.adapter_id,
                group=episode.split_key,
            ),
        )

    def left_out(self, episode: Episode) -> Sequence[LeftOut]:
        """The actions that failed."""
        return [
            LeftOut(f"action {_written(action)} of tick {action.tick}", "it failed")
            for action in self._own(episode.records)
            if not action.success
        ]

    def _own(self, records: Iterable[Record]) -> list[ActionRecord]:
        """Actions of workers, the engine's own events left out."""
        return [action for action in records_of(records, ActionRecord) if self._is_own(action)]

    def _is_own(self, record: Record) -> bool:
        return isinstance(record, ActionRecord) and record.action not in self._system_events

    def _offered(self, scenario_actions: Sequence[str]) -> Sequence[str]:
        """The actions that the prompt lists; never the episode's own, which tell the answer."""
        if self._available_actions:
            return self._available_actions
        return sorted(set(scenario_actions) - self._system_events)


def _written(action: ActionRecord) -> str:
    return f"{action.action}({action.target})" if action.target else action.action
