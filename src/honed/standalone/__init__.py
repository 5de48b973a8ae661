"""One training from a config file, without a daemon: `honed train --config RUN.toml`.

rows            the files that it names, as the worker reads them
run             the worker process, and what is written while it works and afterwards
status          training-status.json, and the reader that does without it
training_log    logs/training.log, a line for each logging step
quality         what the losses say of the run
resuming        whether a run that was cut off goes on
script          the run as a script without honed
"""

from honed.standalone.quality import Remark, remarks
from honed.standalone.run import Finished, train
from honed.standalone.script import script_of
from honed.standalone.status import STATUS_FILE, read_status
from honed.standalone.training_log import RunStatus

__all__ = [
    "STATUS_FILE",
    "Finished",
    "Remark",
    "RunStatus",
    "read_status",
    "remarks",
    "script_of",
    "train",
]
