"""What the daemon and a worker that stays loaded say to each other, beside what they say of a job (`domain.job`).

The daemon writes Orders on the worker's stdin, one at a time. On stdout the worker answers each with Taken, then with
the job's Progress, and with Ended when nothing of the job runs any more.
"""

from msgspec import Struct


class Order(Struct, frozen=True, kw_only=True):
    """Do the job in a file; a line of the worker's stdin."""

    job_path: str
    log_path: str
    """What the job's process writes to stderr goes there, behind what there is."""


class Taken(Struct, frozen=True, kw_only=True, tag="taken", tag_field="type"):
    """The order was read, and the job will be begun."""


class Ended(Struct, frozen=True, kw_only=True, tag="ended", tag_field="type"):
    """The job's process has ended; another order may come."""

    status: int
    """As a worker that does one job ends with; negative: by that signal."""
