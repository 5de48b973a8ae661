"""The file with a router's models (`llama-server --models-preset`): sections that are ours come and go, all else stays
byte for byte.

Blank lines and comments are nobody's, and stay. The file is replaced whole, so the router reads either the old or the
new one.
"""

import fcntl
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from honed.errors import ApplyError

_LOCK_TIMEOUT_S: Final = 10.0
_LOCK_EVERY_S: Final = 0.01
_COMMENT: Final = (b";", b"#")


def section(name: str, options: dict[str, str]) -> bytes:
    """The section of one model.

    Raises:
        ApplyError: the file's format cannot say one of the values.
    """
    for key, value in options.items():
        if value != value.strip() or any(sign in value for sign in ";#\r\n"):
            raise ApplyError(
                f"{key} = {value!r} cannot stand in a presets file: it ends a value at ; and #",
                advice="give data_dir or the base model a path without ;, # and spaces at its ends",
            )
    lines = [f"[{name}]", *(f"{key} = {value}" for key, value in options.items())]
    return "\n".join([*lines, ""]).encode()


def put(path: Path, name: str, text: bytes) -> None:
    """Have the file hold this section, at its end, instead of one of the same name; raises ApplyError."""

    def change(content: bytes) -> bytes:
        kept = _without(content, {name})
        return kept + (b"" if not kept or kept.endswith((b"\n", b"\r")) else b"\n") + text

    _change(path, change)


def remove(path: Path, names: set[str]) -> None:
    """Have the file hold no such sections; raises ApplyError."""
    _change(path, lambda content: _without(content, names))


def names_in(path: Path) -> list[str]:
    """The sections that the file has; raises ApplyError."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise _unreadable(path, error) from error
    return [name for line in content.splitlines() if (name := _header(line)) is not None]


def _without(content: bytes, names: set[str]) -> bytes:
    kept: list[bytes] = []
    is_ours = False
    for line in content.splitlines(keepends=True):  # of bytes: at \n, \r and \r\n alone
        header = _header(line)
        if header is not None:
            is_ours = header in names
        if not is_ours or not line.strip() or line.lstrip().startswith(_COMMENT):
            kept.append(line)
    return b"".join(kept)


def _header(line: bytes) -> str | None:
    if not line.startswith(b"[") or b"]" not in line:
        return None
    return line[1 : line.index(b"]")].decode(errors="replace").strip()


def _change(path: Path, change: Callable[[bytes], bytes]) -> None:
    path = Path(os.path.realpath(path))  # a link stays one
    new = path.with_name(f".{path.name}.{os.getpid()}.new")
    try:
        with _alone(path.parent):
            before = path.read_bytes()
            after = change(before)
            if after == before:
                return
            try:
                descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
                with os.fdopen(descriptor, "wb") as file:
                    file.write(after)
                    os.fchmod(file.fileno(), path.stat().st_mode & 0o777)
                    file.flush()
                    os.fsync(file.fileno())
                new.replace(path)
            finally:
                new.unlink(missing_ok=True)
    except OSError as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: OSError) -> ApplyError:
    return ApplyError(
        f"serve.external_presets: {path} cannot be read and replaced: {error.strerror}",
        advice="it is the file of the router's --models-preset; this user must be able to write its folder",
    )


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Nobody else who does the same, in this process or another one, changes files in the folder meanwhile."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        until = time.monotonic() + _LOCK_TIMEOUT_S
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > until:
                    raise
                time.sleep(_LOCK_EVERY_S)
        yield
    finally:
        os.close(descriptor)
