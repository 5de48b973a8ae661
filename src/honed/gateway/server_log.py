"""What a llama-server writes to stderr: a file that never grows without bound, and what stands in it.

The server holds the file open for as long as it lives, so it is copied to `.1` and cut, not renamed. It is opened for
appending: what is written after the cut begins the file anew. A pipe would make the server wait for whoever reads it,
and stop it when that is gone.
"""

import contextlib
import fcntl
import os
import shutil
from pathlib import Path
from typing import IO, Final

MAX_BYTES: Final = 4 << 20
"""From when on it is cut. At the level that honed asks for llama-server writes errors alone; a program of the
operator's may write more.
"""
CHECK_EVERY_S: Final = 10.0
_TAIL_BYTES: Final = 64 << 10


def begin(path: Path) -> IO[bytes]:
    """Put what a former server wrote aside, and open the file for the next one.

    Raises:
        OSError: it cannot be written.
    """
    if path.exists():  # what a server wrote before it died is worth a second look
        path.replace(_former(path))
    return path.open("ab")


def cut(path: Path, *, max_bytes: int = MAX_BYTES) -> bool:
    """Put aside what stands in a file that has grown large; returns whether this did it.

    A file that is being cut already is left to whoever does, and one whose name the next server has taken meanwhile
    is left as it is: `begin` has put it aside whole.

    Raises:
        OSError: it is not there, or there is no room for the copy; it is cut then all the same.
    """
    with path.open("rb+") as lines:
        if os.fstat(lines.fileno()).st_size < max_bytes or not _is_ours(lines):
            return False
        aside = path.with_suffix(".log.tmp")
        try:
            with aside.open("wb") as copy:
                shutil.copyfileobj(lines, copy)
            if not _is_at(path, lines):
                return False
            aside.replace(_former(path))
            return True
        finally:
            if _is_at(path, lines):
                lines.truncate(0)  # what comes between the copy and this is lost
            aside.unlink(missing_ok=True)


def _is_at(path: Path, lines: IO[bytes]) -> bool:
    """Whether an open file is the one that is found at `path`."""
    with contextlib.suppress(FileNotFoundError):
        return os.path.samestat(os.fstat(lines.fileno()), path.stat())
    return False


def _is_ours(lines: IO[bytes]) -> bool:
    """Whether nobody else is cutting this file; it stays ours until it is closed."""
    try:
        fcntl.flock(lines, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def faults(path: Path) -> str:
    """The last error lines, in one."""
    with contextlib.suppress(OSError), path.open("rb") as lines:
        lines.seek(max(0, lines.seek(0, os.SEEK_END) - _TAIL_BYTES))
        text = lines.read().decode(errors="replace").splitlines()
        found = [line for line in text if " E " in line] or text[-3:]
        return " | ".join(found[-5:]) or "its log is empty"
    return "its log cannot be read"


def _former(path: Path) -> Path:
    return path.with_suffix(".log.1")
