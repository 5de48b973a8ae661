"""Learns what a task took: a task in, the successful actions of all its workers out."""

from collections.abc import Callable, Collection, Sequence

from honed.domain.episode import Episode
from honed.domain.outcome import Outcome, Timeout, Unknown
from honed.domain.records import ActionRecord, Arrival, Record, records_of
from honed.domain.training_data import ChatExample
from honed.learn_models import attempt
from honed.learn_models.learn_model import LearnModelMixin, LeftOut
from honed.learn_models.worker_rows import DEFAULT_SYSTEM_PROMPT, WorkerRows

_GROUPED = attempt.ACTIONS + attempt.OUTCOMES


class WorkerTaskLearnModel(LearnModelMixin):
    """The learn model `worker_task`: a task is an episode, whoever worked on it.

    Args:
        system_prompt: the system turn of every row; empty leaves it out.
        min_actions: a task with fewer actions, `done` included, makes no episode.
        available_actions: what the prompt offers; empty takes what `convert` is given.
        system_events: names that are no actions, besides `attempt.SYSTEM_EVENTS`.
    """

    name = "worker_task"
    objective = "choose the actions that complete a task, in order"

    def __init__(
        self,
        *,
        system_prompt: str = DEFAULT_SYSTEM_PROMPT,
        min_actions: int = 2,
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

    def _is_counted(self, action: ActionRecord) -> bool:
        return self._rows.is_own(action) or attempt.is_done(action)
