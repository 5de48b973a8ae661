"""Learns what a task took: a task in, the successful actions of all its workers out."""

from collections.abc import Sequence

from honed.domain.episode import Episode
from honed.domain.outcome import Outcome, Timeout, Unknown
from honed.domain.records import ActionRecord, Record, records_of
from honed.learn_models import attempt
from honed.learn_models.worker_model import WorkerLearnModel


class WorkerTaskLearnModel(WorkerLearnModel):
    """The learn model `worker_task`: a task is an episode, whoever worked on it.

    Args:
        system_prompt: the system turn of every row; empty leaves it out.
        min_actions: a task with fewer actions, `done` included, makes no episode.
        available_actions: what the prompt offers; empty takes what `convert` is given.
        system_events: names that are no actions, besides `attempt.SYSTEM_EVENTS`.
    """

    name = "worker_task"
    objective = "choose the actions that complete a task, in order"
    least_actions = 2

    def build_episodes(
        self, records: Sequence[Record], *, now_ms: int, final: bool = False
    ) -> list[Episode]:
        """One episode of the task's actions, by tick; none of a task with too few of them."""
        if not final and not self.is_complete(records):
            return []
        counted = [a for a in records_of(records, ActionRecord) if self._is_counted(a)]
        if len(counted) < self._min_actions:
            return []
        return [self.episode(attempt.in_order(records), now_ms=now_ms)]

    def evaluate(self, records: Sequence[Record]) -> Outcome:
        """The outcome that was told, else what `done` says, else a timeout with its score."""
        if not records:
            return Unknown()
        scored = [record for record in records if not self._rows.is_set_apart(record)]
        return attempt.verdict(records, scored=scored) or Timeout(attempt.action_score(scored))

    def _is_counted(self, action: ActionRecord) -> bool:
        return self._rows.is_own(action) or attempt.is_done(action)
