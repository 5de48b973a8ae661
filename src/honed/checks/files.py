"""Files that are whole or absent, and told by their digest."""

import contextlib
import os
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from honed.adapter_files import file_digest
from honed.errors import ValidationError

T = TypeVar("T")


def digest_of(path: Path) -> str:
    """SHA-256 of a file's bytes, as `sha256:...`.

    Raises:
        ValidationError: it cannot be read.
    """
    try:
        return f"sha256:{file_digest(path)}"
    except OSError as error:
        raise ValidationError(f"{path} cannot be read: {error.strerror}") from error


def write_json(path: Path, value: Any) -> None:
    """Write a value as JSON; a reader sees the former file or this one.

    Raises:
        ValidationError: it cannot be written.
    """
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with aside.open("wb") as file:
            file.write(msgspec.json.format(msgspec.json.encode(value), indent=2) + b"\n")
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)
    except OSError as error:
        raise ValidationError(
            f"{path} cannot be written: {error.strerror}", advice="name another folder by --metrics"
        ) from error
    finally:
        with contextlib.suppress(OSError):  # it became the file, or could not be made
            aside.unlink()


def read_json(path: Path, kind: type[T]) -> T | None:
    """What a JSON file holds; None when it is not there.

    Raises:
        ValidationError: it cannot be read as that.
    """
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ValidationError(f"{path} cannot be read: {error.strerror}") from error
    except msgspec.DecodeError as error:
        raise ValidationError(f"{path} cannot be read: {error}") from error
