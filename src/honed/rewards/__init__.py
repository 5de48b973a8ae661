"""Where verdicts come from when nobody sends any: verifiers, a judge, and the alarms that watch both.

`verifiers` run programs and functions in processes of their own, `kept` by a `keeper`; `judge` asks a model at an
`endpoint` about a `transcript`, `answers` reads what they say, `asking` asks them about every new episode and sends
what they say through the sink like anybody's verdict. `agreement` compares a judge with the others, `alarms` what
changed with the newest adapter. How verdicts become one outcome is `domain.composition`'s.
"""

from honed.rewards.alarms import alarms
from honed.rewards.jury import Jury
from honed.rewards.opening import judge_of, jury_of

__all__ = ["Jury", "alarms", "judge_of", "jury_of"]
