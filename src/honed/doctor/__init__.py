"""`honed doctor`: looks at everything that a scenario needs, and says what to do about what is wrong.

`table` lists the checks. Each is a function that looks and gives back what it found; it has a time limit, and one
that fails takes no other along. A check changes nothing, downloads nothing and does not disturb a running daemon.
The training stack is asked in a worker process; it is never imported here.
"""

from honed.doctor.finding import Finding
from honed.doctor.table import diagnose

__all__ = ["Finding", "diagnose"]
