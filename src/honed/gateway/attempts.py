"""When a lane starts its server again, and when there is no more hope of one."""

import time
from typing import Final

from honed.errors import ApplyError, BaseMismatchError

FIRST_WAIT_S: Final = 0.2
LAST_WAIT_S: Final = 30.0
MISMATCH_WAIT_S: Final = 300.0
"""For a server of another base model: it takes an operator, and loading it again may be heavy."""
LAST_CRASH_WAIT_S: Final = 5.0
"""For a server that comes up and dies; whoever waits for it should not wait for long."""
ASK_AGAIN_S: Final = 5.0
"""For a server that the operator starts: asking for it costs nothing, and it may be back at any time."""
LIVED_S: Final = 10.0
"""A server that served this long and died is started again without waiting."""
HOPELESS: Final = 3
"""Starts that failed in a row, after which requests are told why instead of waiting."""


class Attempts:
    """The starts of one lane: how many failed in a row, and how long to wait before the next."""

    def __init__(self, *, is_ours: bool = True) -> None:
        """`is_ours`: whether it is started; else only asked for."""
        self._last_wait_s = LAST_WAIT_S if is_ours else ASK_AGAIN_S
        self._num_failed = 0
        self._wait_s = FIRST_WAIT_S
        self._served_at_s = -LIVED_S

    @property
    def are_hopeless(self) -> bool:
        """Whether nobody should wait for the next one."""
        return self._num_failed >= HOPELESS

    def begin_anew(self) -> None:
        """Something else is started from now on: what failed before says nothing about it."""
        self._num_failed = 0
        self._wait_s = FIRST_WAIT_S

    def give_up(self) -> None:
        """There will be no other."""
        self._num_failed = HOPELESS

    def excuse(self) -> None:
        """The server that served ended through no fault of its own: the next one need not wait."""
        self._served_at_s = -LIVED_S

    def served(self) -> None:
        """One succeeded."""
        self._num_failed = 0
        self._served_at_s = time.monotonic()

    def failed(self, error: ApplyError) -> None:
        """One did not; a server of another base model is not tried twice while requests wait."""
        self._num_failed = HOPELESS if _takes_an_operator(error) else self._num_failed + 1

    def wait_after(self, error: ApplyError) -> float:
        """Seconds from a failed start to the next."""
        wait_s = self._next_wait()
        return MISMATCH_WAIT_S if _takes_an_operator(error) else wait_s

    def wait_after_death(self) -> float:
        """Seconds from the end of a server that served to the next start."""
        if time.monotonic() - self._served_at_s >= LIVED_S:
            self._wait_s = FIRST_WAIT_S
            return 0.0
        return min(LAST_CRASH_WAIT_S, self._next_wait())

    def _next_wait(self) -> float:
        wait_s, self._wait_s = self._wait_s, min(self._last_wait_s, self._wait_s * 2)
        return wait_s


def _takes_an_operator(error: ApplyError) -> bool:
    return isinstance(error, BaseMismatchError)
