"""The loop: wake, look, judge, train, gate, apply, and write down what happened.

`trigger_loop` decides when, `training_run` does one run from data to verdict, `in_service` knows which adapter
serves and moves it forward and back. None of them imports a room: they know the ports alone.
"""

from honed.loop.in_service import Announce, InService
from honed.loop.training_run import RunOrder, TrainingRuns
from honed.loop.trigger_loop import TriggerLoop

__all__ = ["Announce", "InService", "RunOrder", "TrainingRuns", "TriggerLoop"]
