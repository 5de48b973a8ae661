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
    variable = _variable(name)
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


def check_key(key: str | None, name: str) -> str | None:
    """A key that a header can hold; what refuses another one later would tell it in its error.

    Args:
        key: as `read_secret` gives it.
        name: of the secret.

    Raises:
        ConfigError: no header can have it.
    """
    if key is not None and not (key.isascii() and key.isprintable()):
        raise ConfigError(
            f"{name} has characters that no header can have: expected letters, digits and signs of ASCII, one line",
            advice=f"write {_variable(name)} (or the credential {name}) anew, without a line's end in it",
        )
    return key


def read_server_key() -> str | None:
    """The key of the server that the operator runs; None where it asks for none.

    Raises:
        ConfigError: the secret `server-key` cannot be read, or no header can have it.
    """
    return check_key(read_secret("server-key"), "server-key")


def _variable(name: str) -> str:
    return f"HONED_{name.upper().replace('-', '_')}"


def _checked(value: str, where: str) -> str:
    if not value.strip():
        raise ConfigError(f"{where} is empty: expected a secret, or no such name at all")
    return value
