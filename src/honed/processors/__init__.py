"""Processors: a training set becomes a published adapter, in a process of its own.

`local` starts the worker on this machine, `sharing` makes room for it on a GPU; `worker_process` is how any job of
`domain.job` is run, `script` how somebody's own script is; `base_model` has the base model converted for serving, or
compared with the file that is served. The training stack is never imported here.
"""

from honed.processors.base_model import BaseModel, ServedBase, ensure_base
from honed.processors.local import LocalProcessor, check_free, publish
from honed.processors.script import check_script, run_script
from honed.processors.sharing import Sharing
from honed.processors.worker_process import run_job

__all__ = [
    "BaseModel",
    "LocalProcessor",
    "ServedBase",
    "Sharing",
    "check_free",
    "check_script",
    "ensure_base",
    "publish",
    "run_job",
    "run_script",
]
