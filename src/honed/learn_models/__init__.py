"""How records become episodes and episodes become training data. Pure: no I/O, no clock.

`learn_model` is the contract; `chat` learns conversations, `decision_sequence` the order in which a
worker acts, `dependency_graph` how actions depend on each other; `conversation` puts a task's calls
together; `attempt` reads what all of them need of a group.
"""

from collections.abc import Callable
from typing import Final

from honed.errors import ConfigError
from honed.learn_models.chat import ChatLearnModel
from honed.learn_models.decision_sequence import DecisionSequenceLearnModel
from honed.learn_models.dependency_graph import DependencyGraphLearnModel
from honed.learn_models.learn_model import LearnModel, LeftOut

__all__ = [
    "ChatLearnModel",
    "DecisionSequenceLearnModel",
    "DependencyGraphLearnModel",
    "LearnModel",
    "LeftOut",
    "create",
]

_LEARN_MODELS: Final[dict[str, Callable[[], LearnModel]]] = {
    "chat": ChatLearnModel,
    "worker_decision_sequence": DecisionSequenceLearnModel,
    "dependency_graph": DependencyGraphLearnModel,
}


def create(name: str) -> LearnModel:
    """The learn model of that name, with its defaults.

    Raises:
        ConfigError: there is none; the message lists those there are.
    """
    if name not in _LEARN_MODELS:
        known = ", ".join(_LEARN_MODELS)
        raise ConfigError(f"learn.model: there is no learn model {name!r}: expected one of {known}")
    return _LEARN_MODELS[name]()
