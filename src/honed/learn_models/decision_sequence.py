"""Learns the order in which a worker acts: a task in, its successful actions out."""

from collections.abc import Sequence

from honed.domain.episode import Episode
from honed.domain.outcome import Outcome, Timeout, Unknown
from honed.domain.records import ActionRecord, Record
from honed.learn_models import attempt
from honed.learn_models.worker_model import WorkerLearnModel


class DecisionSequenceLearnModel(WorkerLearnModel):
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
    least_actions = 3

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
