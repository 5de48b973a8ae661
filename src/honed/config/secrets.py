"""Secrets: from the environment or from systemd's credentials, never from the config file."""

import os
from pathlib import Path

from honed.errors import ConfigError


def read_secret(name: str) -> str | None:
    """The secret called `name` (for example `http-token`); None where there is none.

    It is the environment variable `HONED_HTTP_TOKEN`, else the file `http-token` in the folder that
    systemd names in `CREDENTIALS_DIRECTORY` (LoadCredential=).

    Raises:
        ConfigError: it is empty, or its file cannot be read.
    """
    variable = f"HONED_{name.upper().replace('-', '_')}"
    if (value := os.environ.get(variable)) is not None:
        return _checked(value, variable)
    if folder := os.environ.get("CREDENTIALS_DIRECTORY"):
        path = Path(folder) / name
        try:
            return _checked(path.read_text().rstrip("\n"), str(path))
        except FileNotFoundError:
            return None
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"credential {path} cannot be read: {error}") from error
    return None


def _checked(value: str, where: str) -> str:
    if not value.strip():
        raise ConfigError(f"{where} is empty: expected a secret, or no such name at all")
    return value
