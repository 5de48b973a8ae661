"""What the gateway remembers over a restart: for each scenario its feed, its base model, its adapter, and what is
tried beside it.
"""

import os
from pathlib import Path

import msgspec
from msgspec import Struct

from honed.domain.serving import PROTOCOL, CanaryOrder, Registration
from honed.errors import ConfigError


class Remembered(Struct, frozen=True, kw_only=True):
    """The state file, JSON."""

    protocol: int = PROTOCOL
    address: str | None = None
    """Where the gateway was reached last; for people who look."""
    scenarios: dict[str, Registration] = {}
    candidates: dict[str, CanaryOrder] = {}
    """By scenario; beside the registrations, so that a former version reads the file."""


def read_state(path: Path) -> Remembered:
    """What is remembered; nothing when there is no file.

    Raises:
        ConfigError: the file cannot be read. Starting without it would quietly serve the bare base.
    """
    try:
        return msgspec.json.decode(path.read_bytes(), type=Remembered)
    except FileNotFoundError:
        return Remembered()
    except (OSError, msgspec.DecodeError) as error:
        raise ConfigError(
            f"the gateway's state {path} cannot be read: {error}",
            advice="move it away; daemons register again and put their adapters back",
        ) from error


def write_state(path: Path, state: Remembered) -> None:
    """Replace the file as a whole: a reader or a crash sees the old one or the new one. Raises
    OSError.
    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    aside = path.with_suffix(".tmp")
    with aside.open("wb") as out:
        out.write(msgspec.json.format(msgspec.json.encode(state), indent=2))
        out.flush()
        os.fsync(out.fileno())
    aside.replace(path)
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
