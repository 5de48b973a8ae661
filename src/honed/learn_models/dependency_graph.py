"""Learns to infer how actions depend on each other: the prompt in, the answer with the orders out."""

from collections.abc import Callable, Sequence
from typing import Final

from honed.domain.episode import Episode
from honed.domain.events import DependencyGraphEvent
from honed.domain.outcome import Failure, Outcome, Success, Unknown
from honed.domain.outcome import score as score_of
from honed.domain.records import Arrival, DependencyGraphRecord, Record, records_of
from honed.domain.training_data import ChatExample, TrainingMetadata, sft
from honed.learn_models import attempt
from honed.learn_models.learn_model import LearnModelMixin
from honed.learn_models.worker_rows import cannot_teach

DEFAULT_SYSTEM_PROMPT: Final = (
    "You plan for a swarm of workers. Say which actions discover something, which change its state, "
    "and in which order they depend on each other."
)

NO_ANSWER: Final = "no inference in it was answered"
NOT_IMITABLE: Final = "its inference may not be imitated"

_GRAPHS: Final = (DependencyGraphEvent, DependencyGraphRecord)


class DependencyGraphLearnModel(LearnModelMixin):
    """The learn model `dependency_graph`.

    Every inference is an episode of its own. One that cannot be right has failed, whatever its task
    came to; another one is worth what its task was, and a success when it names none.

    Args:
        system_prompt: the system turn of every row.
    """

    name = "dependency_graph"
    objective = "infer in which order actions depend on each other"

    def __init__(self, *, system_prompt: str = DEFAULT_SYSTEM_PROMPT) -> None:
        self.system_prompt = system_prompt

    @staticmethod
    def default_system_prompt() -> str:
        """The system turn of a row when no other is set."""
        return DEFAULT_SYSTEM_PROMPT

    @staticmethod
    def extractor(
        available_actions: Sequence[str] = (),
    ) -> Callable[[Episode], tuple[str, str] | None]:
        """What `dpo` compares: the prompt and the answer of an inference, word for word."""
        return _asked_and_answered

    def group_key(self, arrival: Arrival) -> str | None:
        """The task of an inference and of what ends it; an inference without a task is alone."""
        if arrival.purpose != "work":
            return None
        if isinstance(arrival, _GRAPHS):
            return (
                attempt.task_key(arrival.task_id) if arrival.task_id else attempt.own_key(arrival)
            )
        ends_task = isinstance(arrival, attempt.OUTCOMES) or attempt.is_done(arrival)
        return attempt.task_key(arrival.task_id) if ends_task and arrival.task_id else None

    def is_closing(self, arrival: Arrival) -> bool:
        """An outcome, an action `done`, or an inference that names no task."""
        if isinstance(arrival, _GRAPHS):
            return arrival.task_id is None
        return attempt.is_closing(arrival)

    def build_episodes(
        self, records: Sequence[Record], *, now_ms: int, final: bool = False
    ) -> list[Episode]:
        """One episode per inference, each with the verdicts on the task."""
        if not final and not self.is_complete(records):
            return []
        verdicts = [record for record in records if attempt.is_closing(record)]
        parts = [[graph, *verdicts] for graph in records_of(records, DependencyGraphRecord)]
        return [
            attempt.episode(self.name, part, self.evaluate(part), now_ms=now_ms) for part in parts
        ]

    def evaluate(self, records: Sequence[Record]) -> Outcome:
        """A failure when the inference cannot be right, else what its task came to."""
        graphs = records_of(records, DependencyGraphRecord)
        if not graphs:
            return Unknown()
        if fault := _fault(graphs[0]):
            return Failure(fault)
        return attempt.verdict(records) or (Unknown() if graphs[0].task_id else Success())

    def convert(self, episode: Episode, *, available_actions: Sequence[str] = ()) -> ChatExample:
        """The inference's own prompt and answer, word for word.

        Raises:
            LearnError: there is none, it did not answer, or it may not be imitated.
        """
        graph = _answered(episode)
        if graph is None:
            raise cannot_teach(episode, NO_ANSWER)
        if not _is_imitable(graph):
            raise cannot_teach(episode, NOT_IMITABLE)
        return ChatExample(
            messages=sft(self.system_prompt, graph.prompt, graph.response).messages,
            metadata=TrainingMetadata(
                episode_id=episode.id,
                outcome=episode.outcome,
                outcome_score=score_of(episode.outcome),
                model=graph.model or None,
                adapter_id=episode.metadata.adapter_id,
                group=episode.split_key,
            ),
        )


def _answered(episode: Episode) -> DependencyGraphRecord | None:
    """The inference of an episode, if it was answered."""
    graphs = episode.records_of(DependencyGraphRecord)
    return graphs[0] if graphs and graphs[0].is_success and graphs[0].response else None


def _is_imitable(graph: DependencyGraphRecord) -> bool:
    return graph.may_teach and graph.trust == "trusted"


def _asked_and_answered(episode: Episode) -> tuple[str, str] | None:
    graph = _answered(episode)
    return (graph.prompt, graph.response) if graph and _is_imitable(graph) else None


def _fault(graph: DependencyGraphRecord) -> str | None:
    """Why the inference cannot be right; None when it may be."""
    ordered = (*graph.discover_order, *graph.not_discover_order)
    if not graph.is_success:
        return graph.error or "the inference failed"
    if not graph.response:
        return "the answer is empty"
    if not ordered:
        return "both orders are empty"
    if unknown := sorted(set(ordered) - set(graph.available_actions)):
        return f"not available: {', '.join(unknown)}"
    if twice := sorted(set(graph.discover_order) & set(graph.not_discover_order)):
        return f"in both orders: {', '.join(twice)}"
    return None
