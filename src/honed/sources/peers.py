"""Who may send events: the user at the other end of a unix socket, as the kernel tells it."""

import os
import socket
import struct
import time
from pathlib import Path
from typing import Any, Final

from honed import log
from honed.errors import ConfigError

LOG_EVERY_S: Final = 60.0
"""Connections that were turned away are logged this often, at most."""
_UCRED: Final = struct.Struct("3i")
_OTHERS_ENTER: Final = 0o011


class TurnedAway:
    """Connections that were not served, for one reason: counted, and logged now and then."""

    def __init__(self, event: str) -> None:
        self._event = event
        self.num = 0
        """Since the process started."""
        self._num_told = 0
        self._tell_at = 0.0

    def count(self, **facts: Any) -> None:
        """One more; `facts` of the newest are logged."""
        self.num += 1
        if (now := time.monotonic()) >= self._tell_at:
            log.get().warning(self._event, num_turned_away=self.num - self._num_told, **facts)
            self._num_told, self._tell_at = self.num, now + LOG_EVERY_S


def uid_of(peer: socket.socket) -> int:
    """The user who made the connection; it cannot be forged."""
    told = peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
    _pid, uid, _gid = _UCRED.unpack(told)
    return int(uid)


def check_reachable(folder: Path) -> None:
    """Refuse a socket that other users are allowed on, in a folder that they cannot enter.

    Raises:
        ConfigError: a folder on the way is closed to everybody but its owner.
    """
    real = folder.resolve()
    for each in (real, *real.parents):
        mode = each.stat().st_mode & 0o777
        if not mode & _OTHERS_ENTER:
            raise ConfigError(
                f"events.allow_uids: other users cannot enter {each}, its mode is {mode:04o}",
                advice="set runtime_dir to a folder that they may enter (mode 0711), not to that of the data",
            )


def allowed_uids(others: tuple[int, ...]) -> frozenset[int]:
    """This user, root, and the others."""
    return frozenset((0, os.geteuid(), *others))
