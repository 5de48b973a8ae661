"""The clock: intervals of triggers, ages of groups and the order of runs are taken from it."""

import ctypes
import time
from typing import Final

from honed.doctor.finding import Found, fail, ok, together, warn
from honed.doctor.patient import Patient

_YEAR_MIN: Final = 2026
"""No version of honed is older; a machine without a battery starts in 1970."""
_TIMEX_BYTES: Final = 1024
"""More than the kernel's `struct timex`, which begins with the modes; 0 changes nothing."""
_TIME_ERROR: Final = 5
"""What adjtimex returns while nothing keeps the clock right."""


def clock(patient: Patient) -> Found:
    """A year that can be, a clock that runs evenly, somebody who keeps it right."""
    now = time.gmtime()
    told = time.strftime("%Y-%m-%d %H:%M:%SZ", now)
    if now.tm_year < _YEAR_MIN:
        return fail(f"it is {told}", "set the clock (timedatectl set-ntp true), then start honed")
    parts = [ok(told)]
    wall, steady = time.time(), time.monotonic()
    time.sleep(0.2)
    drift = (time.time() - wall) - (time.monotonic() - steady)
    if abs(drift) > 0.05:
        parts.append(
            warn(
                f"it jumped by {drift:+.2f} s while it was watched",
                "two programs may set it: leave it to one",
            )
        )
    if is_synchronised() is False:
        parts.append(
            warn(
                "nothing keeps it right, as far as the kernel knows",
                "turn NTP on (timedatectl set-ntp true); in a virtual machine the host may do it",
            )
        )
    return together(parts)


def is_synchronised() -> bool | None:
    """What the kernel says of the clock; None where it is not to be asked."""
    try:
        state = ctypes.CDLL(None, use_errno=True).adjtimex(
            ctypes.create_string_buffer(_TIMEX_BYTES)
        )
    except (OSError, AttributeError):
        return None
    return None if state < 0 else state != _TIME_ERROR
