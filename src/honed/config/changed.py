"""Which keys two configs differ in."""

from typing import Any

from honed.config.config import Config


def changed_keys(before: Config, after: Config) -> list[str]:
    """The keys whose values differ, `section.key`, in the order of the config."""
    return _changed(before.model_dump(), after.model_dump())


def _changed(before: dict[str, Any], after: dict[str, Any], path: str = "") -> list[str]:
    found: list[str] = []
    for key in before | after:
        a, b = before.get(key), after.get(key)
        if isinstance(a, dict) and isinstance(b, dict):
            found += _changed(a, b, f"{path}{key}.")
        elif a != b:
            found.append(path + key)
    return found
