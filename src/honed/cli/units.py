"""The systemd units that come with honed, fitted to this installation, and what became of those that were installed.

A written file begins with the digest of what follows: a file that no longer fits it was edited by somebody, and is
never replaced or removed unasked.
"""

import hashlib
import sys
import sysconfig
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Final

from msgspec import Struct
from platformdirs import user_config_path, user_data_path

_EXECUTABLE: Final = "/usr/local/bin/honed"
"""Stands for this installation's command in the units as they come."""
_USER_DATA: Final = "%h/.local/share/honed"
"""Likewise for the user's data folder."""
_MARK: Final = "# honed service: sha256 "
_SYSUSERS: Final = "honed.sysusers"


class Unit(Struct, frozen=True):
    """A file to install."""

    path: Path
    text: str
    """With the digest on its first line."""

    @property
    def state(self) -> str:
        """What is at `path`: `missing`, `current`, `outdated` (another version's) or `edited`."""
        try:
            found = self.path.read_text()
        except FileNotFoundError:
            return "missing"
        if found == self.text:
            return "current"
        first, _, rest = found.partition("\n")
        return "outdated" if first == _MARK + _digest(rest) else "edited"


def units(*, user: bool, root: Path) -> Iterator[Unit]:
    """The files of an installation.

    Args:
        user: for the service manager of this user, instead of the system's.
        root: put before every path; `/` for this machine.
    """
    source = files("honed") / "systemd"
    folder = user_config_path("systemd") / "user" if user else Path("/etc/systemd/system")
    for item in sorted((source / "user" if user else source).iterdir(), key=lambda item: item.name):
        if not item.is_file():
            continue
        path = Path("/etc/sysusers.d/honed.conf") if item.name == _SYSUSERS else folder / item.name
        text = _fitted(item.read_text())
        marked = f"{_MARK}{_digest(text)}\n{text}"
        yield Unit(root / path.relative_to("/"), marked)


def executable() -> list[str]:
    """The command that starts this installation."""
    script = Path(sysconfig.get_path("scripts")) / "honed"
    return [str(script)] if script.is_file() else [sys.executable, "-m", "honed"]


def _fitted(text: str) -> str:
    text = text.replace(_EXECUTABLE, " ".join(map(_quoted, executable())))
    return text.replace(_USER_DATA, str(user_data_path("honed")).replace("%", "%%"))


def _quoted(word: str) -> str:
    """A word of ExecStart=."""
    word = word.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%").replace("$", "$$")
    return f'"{word}"' if " " in word or "'" in word or '"' in word else word


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
