"""What the learn models of a worker's actions share: they group by task and write the same rows."""

from collections.abc import Callable, Collection, Sequence
from typing import ClassVar, Final

from honed.domain.episode import Episode
from honed.domain.records import Arrival
from honed.domain.training_data import ChatExample
from honed.learn_models import attempt
from honed.learn_models.learn_model import LearnModelMixin, LeftOut
from honed.learn_models.worker_rows import DEFAULT_SYSTEM_PROMPT, WorkerRows

_GROUPED: Final = attempt.ACTIONS + attempt.OUTCOMES


class WorkerLearnModel(LearnModelMixin):
    """A learn model of actions: one question, one answer. What an episode is, its subclass says.

    Args:
        system_prompt: the system turn of every row; empty leaves it out.
        min_actions: fewer actions make no episode; None: as many as the class says.
        available_actions: what the prompt offers; empty takes what `convert` is given.
        system_events: names that are no actions, besides `attempt.SYSTEM_EVENTS`.
    """

    least_actions: ClassVar[int]
    """Of an episode, unless `min_actions` says otherwise."""

    def __init__(
        self,
        *,
        system_prompt: str = DEFAULT_SYSTEM_PROMPT,
        min_actions: int | None = None,
        available_actions: Sequence[str] = (),
        system_events: Collection[str] = (),
    ) -> None:
        self._rows = WorkerRows(system_prompt, available_actions, system_events)
        self._min_actions = self.least_actions if min_actions is None else min_actions
        self.system_prompt = system_prompt

    def group_key(self, arrival: Arrival) -> str | None:
        """The task of an action or an outcome; evaluations and probes are no attempts."""
        return super().group_key(arrival) if isinstance(arrival, _GROUPED) else None

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
