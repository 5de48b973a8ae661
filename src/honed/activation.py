"""Sockets that the supervisor opened before this process started: clients wait in them while it does not run.

The protocol is systemd's (sd_listen_fds(3)): descriptors from 3 on, named by `LISTEN_FDNAMES`, meant for the process
`LISTEN_PID`. They stay the supervisor's: their files are never unlinked here.
"""

import fcntl
import os
import socket
from collections.abc import Mapping, MutableMapping
from contextlib import ExitStack
from pathlib import Path
from typing import Final, NoReturn

from honed.errors import ConfigError

_FIRST: Final = 3
_MOST: Final = 4096
"""Sockets that may be passed; far more than any unit has, and few enough to be counted at once."""
_VARIABLES: Final = ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES")

Families = Mapping[str, tuple[socket.AddressFamily, ...]]
"""The sockets that a process can be given: name and address families."""


def passed_sockets(
    known: Families, environment: MutableMapping[str, str] = os.environ
) -> dict[str, socket.socket]:
    """The listening sockets that this process was given, by name; none when it was started otherwise.

    The variables are removed and the descriptors closed on exec, so that no child takes them for its own.

    Raises:
        ConfigError: more are passed than can be, or a descriptor is not a listening stream socket, or its name or
            family is not known.
    """
    pid, count, names = (environment.pop(name, "") for name in _VARIABLES)
    if pid != str(os.getpid()) or not count.isdecimal():
        return {}
    if len(count) > len(str(_MOST)) or int(count) > _MOST:
        raise ConfigError(
            f"LISTEN_FDS says {count[:20]} sockets: expected at most {_MOST}",
            advice="unset LISTEN_FDS and LISTEN_PID, or start honed by its socket units",
        )
    given = names.split(":") if names else []
    given += ["unknown"] * (int(count) - len(given))  # systemd's word for a socket without a name
    found: dict[str, socket.socket] = {}
    with ExitStack() as opened:
        for fd, name in zip(range(_FIRST, _FIRST + int(count)), given, strict=False):
            if name in found:
                raise ConfigError(
                    f"two sockets named {name!r} were passed: expected one",
                    advice="one ListenStream= in each socket unit",
                )
            if name not in known:
                raise ConfigError(
                    f"a socket named {name!r} was passed: expected {' or '.join(known)}",
                    advice=f"set FileDescriptorName={next(iter(known))} in the socket unit",
                )
            found[name] = opened.enter_context(_socket(fd, name))
            _check(found[name], name, known[name])
        opened.pop_all()
    return found


def pass_sockets(sockets: Mapping[str, socket.socket], command: list[str]) -> NoReturn:
    """Become `command`, which is given these sockets: the supervisor's side, in a child that was just forked."""
    high = [fcntl.fcntl(each, fcntl.F_DUPFD, _FIRST + len(sockets)) for each in sockets.values()]
    for target, fd in enumerate(high, start=_FIRST):
        os.dup2(fd, target)
        os.close(fd)
    names = ":".join(sockets)
    values = (str(os.getpid()), str(len(sockets)), names)
    os.execve(command[0], command, os.environ | dict(zip(_VARIABLES, values, strict=True)))


def _socket(fd: int, name: str) -> socket.socket:
    try:
        found = socket.socket(fileno=fd)
    except OSError as error:
        raise ConfigError(
            f"descriptor {fd}, passed as {name!r}, is not a socket: {error.strerror}"
        ) from error
    found.set_inheritable(False)
    found.setblocking(False)
    return found


def _check(found: socket.socket, name: str, families: tuple[socket.AddressFamily, ...]) -> None:
    if found.family not in families:
        family = getattr(found.family, "name", found.family)
        raise ConfigError(
            f"the socket passed as {name!r} is {family}: expected {' or '.join(each.name for each in families)}",
            advice="correct ListenStream= in the socket unit",
        )
    listens = found.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    if found.type != socket.SOCK_STREAM or not listens:
        raise ConfigError(
            f"the socket passed as {name!r} does not listen: expected a stream socket that does",
            advice="use ListenStream= and Accept=no in the socket unit",
        )


def passed_unix(found: socket.socket | None, path: Path) -> socket.socket | None:
    """The passed unix socket, once it is seen to be the one that clients are told of; None if none was passed.

    Raises:
        ConfigError: it listens on another path.
    """
    if found is None:
        return None
    name = os.fsdecode(found.getsockname())
    if not name.startswith("/") or Path(name).resolve() != path.resolve():
        raise ConfigError(
            f"the supervisor listens on {name or 'a socket without a path'}, but clients are told {path}",
            advice="set ListenStream= of the socket unit to it, or runtime_dir in the config",
        )
    return found
