"""Loaded by every Python process whose PYTHONPATH has this folder: writes down what leaves the host.

One line per attempt to connect, send or resolve a name that is not of this machine, into the file that
`OFFLINE_AUDIT` names. The hook sees what Python's own socket module does, which is all that the daemon,
the gateway and the worker's Python code can do; libraries in C or Rust with sockets of their own it
does not see. Those fail in `test_nothing_needs_a_network`, where there is no network.
"""

import ipaddress
import os
import sys
from typing import Any

_WATCHED = (
    "socket.connect",
    "socket.sendto",
    "socket.sendmsg",
    "socket.getaddrinfo",
    "socket.gethostbyname",
)


def _is_of_this_machine(address: Any) -> bool:
    host = address[0] if isinstance(address, tuple) and address else address
    if not isinstance(host, str) or host in ("", "localhost"):
        return True  # a unix socket, an address of the kernel, or this machine by name
    if host.startswith(("/", "\0")):
        return True
    try:
        found = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return False  # a name: asking for it leaves the host already
    return found.is_loopback or found.is_unspecified


def _watch(event: str, arguments: tuple[Any, ...]) -> None:
    if event not in _WATCHED:
        return
    address = arguments[0] if event.startswith("socket.get") else arguments[-1]
    if not _is_of_this_machine(address):
        line = f"{os.getpid()} {event} {address!r} {sys.argv}\n"
        with open(os.environ["OFFLINE_AUDIT"], "a") as file:  # noqa: PTH123 - the least that can be
            file.write(line)


if "OFFLINE_AUDIT" in os.environ:
    with open(os.environ["OFFLINE_AUDIT"], "a") as started:  # noqa: PTH123
        started.write(f"{os.getpid()} watched\n")
    sys.addaudithook(_watch)
