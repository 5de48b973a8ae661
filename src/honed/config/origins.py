"""Every key of a config with its value and where that came from: default, file or environment."""

import json
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from honed.config.config import Config
from honed.config.load import read_toml, variable
from honed.config.values import SizeMark, plain

DEFAULT: Final = "default"
_SECRET: Final = re.compile(r"(^|_)(password|secret|token|api_key|credential)s?(_|$)")
_PASSWORD_IN_URL: Final = re.compile(r"(://[^:/@]*:)[^@]*(?=@)|([?&]\w*password=)[^&]*")
_HEADER: Final = re.compile(r"\s*\[\s*([\w.\s]+?)\s*\]")
_KEY: Final = re.compile(r"""\s*(["']?)([\w.]+)\1\s*=""")


@dataclass(frozen=True, slots=True)
class Setting:
    """One key, as it holds."""

    key: str
    """Dotted: `train.r`."""
    value: Any
    """As TOML would hold it; None where nothing is set. A secret is not shown."""
    source: str
    """`default`, `FILE:LINE` (`FILE` where the line cannot be told), or the variable's name."""


def keys(model: type[BaseModel] = Config) -> Iterator[tuple[tuple[str, ...], FieldInfo]]:
    """Path and field of every key that holds a value, sections after the keys above them."""
    sections = []
    for name, field in model.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            sections.append((name, field.annotation))
        else:
            yield (name,), field
    for name, section in sections:
        for path, field in keys(section):
            yield (name, *path), field


def settings(config: Config, file: Path | None) -> list[Setting]:
    """All keys of a config that was read from `file` and this process's environment."""
    table = read_toml(file) if file else {}
    lines = _lines(file.read_text()) if file else {}
    found = []
    for path, field in keys():
        value: Any = config
        for part in path:
            value = getattr(value, part)
        source = _variable_of(path)
        if source is None and file and _is_in(table, path):
            line = next((lines[path[:n]] for n in range(len(path), 0, -1) if path[:n] in lines), 0)
            source = f"{file}:{line}" if line else str(file)
        is_size = any(isinstance(mark, SizeMark) for mark in field.metadata)
        shown = _without_secrets(path[-1], plain(value, is_size=is_size))
        found.append(Setting(".".join(path), shown, source or DEFAULT))
    return found


def places(config: Config) -> dict[str, str]:
    """Where things are that follow from the keys."""
    names = (
        "feed_socket",
        "control_socket",
        "serve_socket",
        "adapters_dir",
        "runs_dir",
        "llama_dir",
    )
    return {name: str(getattr(config, name)) for name in names}


def _variable_of(path: tuple[str, ...]) -> str | None:
    """The variable that sets a key: its own, or one that holds its section as JSON."""
    names = {name.upper(): name for name in os.environ}
    if (own := names.get(variable(*path))) is not None:
        return own
    section = names.get(variable(path[0])) if len(path) > 1 else None
    if section and _is_in({path[0]: _json(os.environ[section])}, path):
        return section
    return None


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return None


def _is_in(table: Any, path: tuple[str, ...]) -> bool:
    for part in path:
        if not isinstance(table, Mapping) or part not in table:
            return False
        table = table[part]
    return True


def _lines(text: str) -> dict[tuple[str, ...], int]:
    """Line of each key and section; nothing where text over several lines could look like keys."""
    if '"""' in text or "'''" in text:
        return {}
    found: dict[tuple[str, ...], int] = {}
    section: tuple[str, ...] = ()
    for number, line in enumerate(text.splitlines(), 1):
        if header := _HEADER.match(line):
            section = tuple(part.strip() for part in header[1].split("."))
            found.setdefault(section, number)
        elif key := _KEY.match(line):
            found.setdefault((*section, *key[2].split(".")), number)
    return found


def without_password(url: str) -> str:
    """A URL as it may be shown."""
    return _PASSWORD_IN_URL.sub(lambda found: f"{found[1] or found[2]}***", url)


def _without_secrets(name: str, value: Any) -> Any:
    if _SECRET.search(name) and value is not None:
        return "***"
    if isinstance(value, str):
        return without_password(value)
    return value
