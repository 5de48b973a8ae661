"""How records become episodes and episodes become training data. Pure: no I/O, no clock.

`learn_model` is the contract; `chat` learns conversations, `worker_task` what a task took,
`decision_sequence` the order in which a worker acts (both are a `worker_model` and write `worker_rows`),
`dependency_graph` how actions depend on each other, `dpo` what the better of two attempts answered. `conversation`
puts a task's calls together; `attempt` reads what all of them need of a group; `choice` finds the models that a
config names.
"""

from honed.learn_models.chat import ChatLearnModel
from honed.learn_models.choice import BUILT_IN, Options, check_name, create, create_all
from honed.learn_models.decision_sequence import DecisionSequenceLearnModel
from honed.learn_models.dependency_graph import DependencyGraphLearnModel
from honed.learn_models.dpo import DpoConfig, DpoLearnModel, DpoPair
from honed.learn_models.learn_model import (
    Converted,
    LearnModel,
    LearnModelMixin,
    LeftOut,
    convert,
    forks_of,
    method_of,
)
from honed.learn_models.worker_task import WorkerTaskLearnModel

__all__ = [
    "BUILT_IN",
    "ChatLearnModel",
    "Converted",
    "DecisionSequenceLearnModel",
    "DependencyGraphLearnModel",
    "DpoConfig",
    "DpoLearnModel",
    "DpoPair",
    "LearnModel",
    "LearnModelMixin",
    "LeftOut",
    "Options",
    "WorkerTaskLearnModel",
    "check_name",
    "convert",
    "create",
    "create_all",
    "forks_of",
    "method_of",
]
