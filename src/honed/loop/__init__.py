"""The loop: wake, look, judge, train, gate, apply, and write down what happened.

`trigger_loop` decides when (`lines` for several learn models side by side), `training_run` does one run from data
to verdict, `in_service` knows which adapter serves and moves it forward and back. `judging` asks the gate with all
earlier looks, `regating` asks it again for a candidate that waits. `canary_watch` tries a model on a share of the tasks
first, by the `canary_evidence` of what both versions have done. None of them imports a room: they know the ports alone.
"""

from honed.loop.approval import Approval
from honed.loop.canary_watch import CanaryWatch
from honed.loop.heat import Heat
from honed.loop.in_service import Announce, InService
from honed.loop.lines import Lines
from honed.loop.offline_run import OfflineRuns
from honed.loop.orders import RunOrder
from honed.loop.regating import Regating
from honed.loop.training_run import TrainingRuns
from honed.loop.trigger_loop import TriggerLoop

__all__ = [
    "Announce",
    "Approval",
    "CanaryWatch",
    "Heat",
    "InService",
    "Lines",
    "OfflineRuns",
    "Regating",
    "RunOrder",
    "TrainingRuns",
    "TriggerLoop",
]
