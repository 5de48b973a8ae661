"""Learn models as somebody else writes them, named in tests as `tests.unit.learn_models.own_model:Class`."""

from collections.abc import Sequence

from honed.domain.episode import Episode
from honed.domain.outcome import Outcome, Success, Unknown
from honed.domain.records import Record
from honed.domain.training_data import ChatExample, sft_simple
from honed.errors import LearnError
from honed.learn_models import LearnModelMixin


class Haiku(LearnModelMixin):
    """Only what such a class has to say itself."""

    name = "haiku"
    objective = "answer in three lines"

    def __init__(self, system_prompt: str = "") -> None:
        self.system_prompt = system_prompt

    def build_episodes(
        self, records: Sequence[Record], *, now_ms: int, final: bool = False
    ) -> list[Episode]:
        if not final and not self.is_complete(records):
            return []
        return [self.episode(records, now_ms=now_ms)]

    def evaluate(self, records: Sequence[Record]) -> Outcome:
        return Success() if records else Unknown()

    def convert(self, episode: Episode, *, available_actions: Sequence[str] = ()) -> ChatExample:
        if len(episode.actions) < 3:
            raise LearnError("a haiku has three lines")
        return sft_simple("Haiku?", "\n".join(action.action for action in episode.actions))


class Again(Haiku):
    """Another class of the same name."""


class Clumsy(Haiku):
    """Its code has a fault."""

    name = "clumsy"

    def convert(self, episode: Episode, *, available_actions: Sequence[str] = ()) -> ChatExample:
        raise IndexError("line 4")


class Loud(Haiku):
    """Its fault is as long as a book."""

    name = "loud"

    def convert(self, episode: Episode, *, available_actions: Sequence[str] = ()) -> ChatExample:
        raise IndexError("line " * 100_000)


class Vague(Haiku):
    """It gives something that is no training data."""

    name = "vague"

    def convert(self, episode: Episode, *, available_actions: Sequence[str] = ()) -> ChatExample:
        return {"messages": []}  # type: ignore[return-value]


class Plain:
    """No learn model: most is missing."""

    name = "plain"

    def evaluate(self, records: Sequence[Record]) -> Outcome:
        return Unknown()


class Older(Haiku):
    """Its methods are called otherwise."""

    name = "older"

    def convert(self, episode: Episode) -> ChatExample:  # type: ignore[override]
        return sft_simple("Haiku?", episode.id)


class Nameless(Haiku):
    """Its name cannot name a file."""

    name = "../haiku"


class Usurper(Haiku):
    """It calls itself as a built-in model is called."""

    name = "chat"


class Broken(Haiku):
    """It cannot be made."""

    def __init__(self) -> None:
        raise FileNotFoundError("syllables.txt")


NOT_A_CLASS = 5
