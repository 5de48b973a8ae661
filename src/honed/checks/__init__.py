"""What a stand-alone run is checked by, before, after and between.

Nothing here trains, and nothing here imports torch: what needs it is asked of a worker process.

    run_plan, run_config    what the run reads and writes, from its config
    dataset_rows, test_set  rows of any form, their faults, what tells one from another
    validator               is a data set fit to train and to judge by?
    hardware_table          which model fits which card
    preflight               nine checks before a run
    measures, files         what is measured, each kind a file under `metrics/`
    raw_data                counts sources, kinds and labels
    measuring               the base model, then the adapter, on one test set
    improvement             how much better, and how sure
    quantization            how much of its score a quantised model keeps
    deployment              how fast it answers, and what it takes
    serving                 the llama-server that both ask
    gates                   eight gates that hold measured values against limits
"""

from honed.checks.gates import GATES, Gate, GateResult, judge
from honed.checks.preflight import MachineFacts, PreflightCheck, preflight
from honed.checks.run_plan import RunPlan
from honed.checks.validator import DatasetReport, validate

__all__ = [
    "GATES",
    "DatasetReport",
    "Gate",
    "GateResult",
    "MachineFacts",
    "PreflightCheck",
    "RunPlan",
    "judge",
    "preflight",
    "validate",
]
