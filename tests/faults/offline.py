"""Run a command where only loopback exists: `unshare -rn python -m tests.faults.offline COMMAND ...`."""

import fcntl
import os
import shutil
import socket
import struct
import subprocess
import sys
from typing import Final

_SIOCSIFFLAGS: Final = 0x8914
_IFF_UP: Final = 1


def can_be_made() -> bool:
    """Whether this user may have a network namespace."""
    if shutil.which("unshare") is None:
        return False
    return subprocess.run(["unshare", "-rn", "true"], capture_output=True).returncode == 0


def main(command: list[str]) -> None:
    """Bring loopback up and become the command."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        request = struct.pack("16sH14x", b"lo", _IFF_UP)
        fcntl.ioctl(any_socket, _SIOCSIFFLAGS, request)
    os.execvp(command[0], command)


if __name__ == "__main__":
    main(sys.argv[1:])
