"""The row of a worker's actions: the task and what could be done, then what was done.

    system     a worker in a swarm picks the actions that complete the task
    user       Task: {first observation, else the scenario}
               Available actions: check_status, read_logs, restart
    assistant  check_status -> read_logs(billing-api) -> restart(billing-api)

Ids and times do not enter a prompt: they would be learned by heart.
"""

from collections.abc import Collection, Iterable, Sequence
from typing import Final

from honed.domain.episode import Episode
from honed.domain.outcome import score as score_of
from honed.domain.records import ActionRecord, Record, records_of
from honed.domain.training_data import ChatExample, TrainingMetadata, sft
from honed.errors import LearnError
from honed.learn_models import attempt
from honed.learn_models.learn_model import LeftOut

DEFAULT_SYSTEM_PROMPT: Final = (
    "You are a worker in a swarm. Choose the actions that complete the task, in order."
)

OFFERED: Final = "Available actions: "
"""How the line of a prompt begins that all prompts of a scenario share."""

NO_SUCCESS: Final = "no action of it succeeded"
NO_TASK: Final = "it names neither an observation nor a scenario"
NOT_IMITABLE: Final = "it has actions that may not be imitated"


class WorkerRows:
    """How actions are written into rows.

    Args:
        system_prompt: the system turn of every row; empty leaves it out.
        available_actions: what the prompt offers; empty takes what is known of the scenario.
        system_events: names that are no actions, besides `SYSTEM_EVENTS`.
    """

    def __init__(
        self,
        system_prompt: str = DEFAULT_SYSTEM_PROMPT,
        available_actions: Sequence[str] = (),
        system_events: Collection[str] = (),
    ) -> None:
        self.system_prompt = system_prompt
        self._available_actions = tuple(available_actions)
        self._system_events = attempt.SYSTEM_EVENTS | frozenset(system_events)

    def own(self, records: Iterable[Record]) -> list[ActionRecord]:
        """Actions of workers in order; the engine's own events are left out."""
        actions = [action for action in records_of(records, ActionRecord) if self.is_own(action)]
        return sorted(actions, key=lambda action: action.tick)

    def is_own(self, record: Record) -> bool:
        """Whether it is an action of a worker."""
        return isinstance(record, ActionRecord) and record.action not in self._system_events

    def is_set_apart(self, record: Record) -> bool:
        """Whether it is an action that is none here alone: one of the `system_events` that were set."""
        return (
            isinstance(record, ActionRecord)
            and record.action in self._system_events - attempt.SYSTEM_EVENTS
        )

    def row(self, episode: Episode, scenario_actions: Sequence[str]) -> ChatExample:
        """One question and one answer; the answer lists the actions that succeeded.

        Raises:
            LearnError: no action succeeded, one may not be imitated, or the task is not stated.
        """
        own = self.own(episode.records)
        if not all(map(_is_imitable, own)):
            raise cannot_teach(episode, NOT_IMITABLE)
        answer = _sequence(action for action in own if action.success)
        if not answer:
            raise cannot_teach(episode, NO_SUCCESS, f"{len(own)} that failed")
        question = self._question(episode, own, scenario_actions)
        if question is None:
            raise cannot_teach(episode, NO_TASK)
        return ChatExample(
            messages=sft(self.system_prompt, question, answer).messages,
            metadata=TrainingMetadata(
                episode_id=episode.id,
                outcome=episode.outcome,
                outcome_score=score_of(episode.outcome),
                adapter_id=episode.metadata.adapter_id,
                group=episode.split_key,
            ),
        )

    def attempted(
        self, episode: Episode, scenario_actions: Sequence[str]
    ) -> tuple[str, str] | None:
        """Question and answer for a comparison: all actions taken, failed ones too. None without them."""
        own = self.own(episode.records)
        if not own or not all(map(_is_imitable, own)):
            return None
        question = self._question(episode, own, scenario_actions)
        return None if question is None else (question, _sequence(own))

    def left_out(self, episode: Episode) -> Sequence[LeftOut]:
        """The actions that failed."""
        return [
            LeftOut(f"action {_written(action)} of tick {action.tick}", "it failed")
            for action in self.own(episode.records)
            if not action.success
        ]

    def _question(
        self, episode: Episode, own: Sequence[ActionRecord], scenario_actions: Sequence[str]
    ) -> str | None:
        observed = (action.observation for action in own if action.observation)
        task = next(observed, episode.metadata.scenario)
        if not task:
            return None
        # never the episode's own actions alone: they would give the answer away
        offered = self._available_actions or sorted(set(scenario_actions) - self._system_events)
        return f"Task: {task}" + (f"\n{OFFERED}{', '.join(offered)}" if offered else "")


def cannot_teach(episode: Episode, reason: str, found: str = "") -> LearnError:
    """The error of an episode that gives no row; `found` is what it has instead."""
    return LearnError(
        f"episode {episode.id} cannot teach: {reason}" + (f"; found {found}" if found else ""),
        episode_id=episode.id,
        reason=reason,
    )


def _is_imitable(action: ActionRecord) -> bool:
    return action.may_teach and action.trust == "trusted"


def _sequence(actions: Iterable[ActionRecord]) -> str:
    return " -> ".join(map(_written, actions))


def _written(action: ActionRecord) -> str:
    return f"{action.action}({action.target})" if action.target else action.action
