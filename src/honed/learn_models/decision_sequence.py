"""Learns the order in which a worker acts: a task in, its successful actions out."""

from collections.abc import Callable, Collection, Sequence
from typing import Final

from honed.domain.episode import Episode
from honed.domain.outcome import Outcome, Timeout, Unknown
from honed.domain.records import ActionRecord, Arrival, Record
from honed.domain.training_data import ChatExample
from honed.learn_models import attempt
from honed.learn_models.learn_model import LearnModelMixin, LeftOut
from honed.learn_models.worker_rows import DEFAULT_SYSTEM_PROMPT, WorkerRows

_GROUPED: Final = attempt.ACTIONS + attempt.OUTCOMES


class DecisionSequenceLearnModel(LearnModelMixin):
    """The learn model `worker_decision_sequence`.

    A group is a task; each worker's part of it becomes an episode of its own, and the task's end
    judges all of them. The engine's own events (`attempt.SYSTEM_EVENTS`) are not actions.

    Args:
        system_prompt: the system turn of every row; empty leaves it out.
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
        self._rows = WorkerRows(system_prompt, available_actions, system_events)
        self._min_actions = min_actions
        self.system_prompt = system_prompt

    def group_key(self, arrival: Arrival) -> str | None:
        """The task of an action or an outcome; evaluations and probes are no attempts."""
        return super().group_key(arrival) if isinstance(arrival, _GROUPED) else None

    def build_episodes(
        self, records: Sequence[Record], *, now_ms: int, final: bool = False
    ) -> list[Episode]:
        """One episode per worker with `min_actions` or more, in the order of first actions."""
        if not final and not self.is_complete(records):
            return []
        ordered = attempt.in_order(records)
        episodes = []
        for worker_id in dict.fromkeys(action.worker_id for action in self._rows.own(ordered)):
            part = [
                record
                for record in ordered
                if attempt.is_closing(record)
                or (self._rows.is_own(record) and record.worker_id == worker_id)
            ]
            if len(self._rows.own(part)) >= self._min_actions:
                episodes.append(self.episode(part, now_ms=now_ms))
        return episodes

    def evaluate(self, records: Sequence[Record]) -> Outcome:
        """The outcome that was told, else what `done` says, else a timeout; scored by the worker's own actions.

        A `done` of a worker that did nothing else only judges: it earns nothing.
        """
        if not records:
            return Unknown()
        part = [r for r in records if attempt.is_closing(r) or self._rows.is_own(r)]
        workers = {action.worker_id for action in self._rows.own(part)}
        scored = [
            record
            for record in part
            if not workers or not isinstance(record, ActionRecord) or record.worker_id in workers
        ]
        return attempt.verdict(part, scored=scored) or Timeout(attempt.action_score(scored))

    def convert(self, episode: Episode, *, available_actions: Sequence[str] = ()) -> ChatExample:
        """One question and one answer: `a -> b(target) -> c`, successful actions only.

        Raises:
            LearnError: no action succeeded, one may not be imitated, or the task is not stated.
        """
        return self._rows.row(episode, available_actions)

    def extractor(
        self, available_actions: Sequence[str] = ()
    ) -> Callable[[Episode], tuple[str, str] | None]:
        """What `dpo` compares: the question, and all actions taken."""
        return lambda episode: self._rows.attempted(episode, available_actions)

    def left_out(self, episode: Episode) -> Sequence[LeftOut]:
        """The actions that failed."""
        return self._rows.left_out(episode)
