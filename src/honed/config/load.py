"""Reading the config: which file, which variables, and every fault in them at once."""

import difflib
import os
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from platformdirs import user_config_path
from pydantic import BaseModel
from pydantic import ValidationError as PydanticError
from pydantic_settings import SettingsError

from honed.config.config import Config
from honed.config.places import with_system_places
from honed.errors import ConfigError

PREFIX: Final = "HONED__"
"""What variables that carry a key begin with; letters of either case, as pydantic reads them."""


def config_paths() -> Iterator[Path]:
    """Where a config file is looked for, first found wins."""
    if named := os.environ.get("HONED_CONFIG"):
        yield Path(named)
        return
    yield Path("honed.toml")
    yield user_config_path("honed") / "config.toml"
    yield Path("/etc/honed/config.toml")


def find_config(path: Path | None) -> Path | None:
    """The file that is read: the one that is named, else the first of the usual places.

    Raises:
        ConfigError: `HONED_CONFIG` names a file that is not there.
    """
    found = path or next((p for p in config_paths() if p.is_file()), None)
    if found is None and "HONED_CONFIG" in os.environ:
        raise ConfigError(f"config file {os.environ['HONED_CONFIG']} does not exist")
    return found


def load_config(path: Path | None = None, **overrides: Any) -> Config:
    """Read the config file (if there is one) and the environment.

    Args:
        path: the file; None looks in the usual places and does without one.
        overrides: values that win over the file but not over the environment.

    Raises:
        ConfigError: the file cannot be read, or a key or value is wrong; all faults are listed at once.
    """
    found = find_config(path)
    table = (read_toml(found) if found else {}) | overrides
    scenario = os.environ.get(variable("scenario")) or table.get("scenario")
    if found and isinstance(scenario, str):
        table = with_system_places(table, found, scenario)
    looked = ", ".join(map(str, config_paths()))
    where = str(found) if found else f"no file at {looked}; environment alone"
    faults = _unknown_variables()
    config = None
    try:
        config = Config(**table)
    except PydanticError as error:
        faults += [_fault(item) for item in error.errors(include_url=False)]
    except SettingsError as error:
        faults.append(str(error))
    if faults or config is None:
        faults = list(dict.fromkeys(faults))
        raise ConfigError(f"config ({where}): {'; '.join(faults)}", faults=faults)
    return config


def read_toml(path: Path) -> dict[str, Any]:
    """The file's table; raises ConfigError."""
    try:
        return tomllib.loads(path.read_text())
    except OSError as error:
        raise ConfigError(f"config file {path} cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"config file {path} is not TOML: {error}") from error


def variable(*path: str) -> str:
    """The environment variable that sets a key."""
    return PREFIX + "__".join(path).upper()


def _unknown_variables() -> list[str]:
    """Variables that look like ours but name no key; pydantic passes over some of them."""
    return [fault for name in sorted(os.environ) if (fault := _unknown_variable(name))]


def _unknown_variable(name: str) -> str | None:
    if name.upper().startswith(PREFIX):
        path = name[len(PREFIX) :].lower().split("__")
        if all(key in _known_keys(path[:depth]) for depth, key in enumerate(path)):
            return None
        near = _nearest(path)
        return f"{name}: unknown key" + (f", did you mean {near}?" if near else "")
    # With single underscores alone it may be somebody else's: where a Kubernetes service is called honed-serve,
    # HONED_SERVE_PORT is set for every container. The doctor warns of those.
    start = PREFIX.removesuffix("_")
    if name.upper().startswith(start) and "__" in name[len(start) :]:
        near = _nearest(name[len(start) :].lower().split("__"))
        return f"{name}: not read, did you mean {near}?" if near else None
    return None


def _nearest(path: list[str]) -> str | None:
    """The variable of the key that is most like the path: by its words, else part by part."""
    by_words = {"_".join(known): known for known in _paths()}
    if (same := by_words.get("_".join(path))) is not None:
        return variable(*same)
    found: list[str] = []
    for part in path:
        near = difflib.get_close_matches(part, _known_keys(found), n=1)
        if not near:
            return None
        found += near
    return variable(*found)


def _paths(*above: str) -> Iterator[tuple[str, ...]]:
    """Every key, in sections of sections too."""
    for name in _known_keys(list(above)):
        yield (*above, name)
        yield from _paths(*above, name)


def _fault(item: Any) -> str:
    path = [str(part) for part in item["loc"]]
    name = ".".join(path)
    if item["type"] == "extra_forbidden":
        for other in os.environ:  # said once, by the name that the operator typed
            if other.upper() == variable(*path) and (fault := _unknown_variable(other)):
                return fault
        near = difflib.get_close_matches(path[-1], _known_keys(path[:-1]), n=1)
        return f"{name}: unknown key" + (f", did you mean {near[0]}?" if near else "")
    if item["type"] == "missing":
        return f"{name}: required (`honed init` writes a file; or set {variable(*path)})"
    return f"{name}: {item['msg'].removeprefix('Value error, ')}"


def _known_keys(path: list[str]) -> list[str]:
    """Names of the keys in the section that the path leads to; none where it is no section."""
    model: Any = Config
    for part in path:
        model = model.model_fields[part].annotation
    if not (isinstance(model, type) and issubclass(model, BaseModel)):
        return []
    return list(model.model_fields)
