"""systemd's units as tests read them: sections, keys, specifiers."""

from pathlib import Path

Unit = dict[str, dict[str, list[str]]]
"""Section, key, values in order."""


def read_unit(text: str) -> Unit:
    """The settings of a unit file; a line that is none fails."""
    found: Unit = {}
    section = ""
    for line in text.splitlines():
        if not line or line.startswith("#"):
            continue
        if line.startswith("["):
            section = line.strip("[]")
            found.setdefault(section, {})
            continue
        key, equals, value = line.partition("=")
        assert equals, line
        assert section, line
        assert key == key.strip(), line
        found[section].setdefault(key, []).append(value)
    return found


def one(unit: Unit, section: str, key: str) -> str:
    """The value of a setting that is given once."""
    (value,) = unit[section][key]
    return value


def expanded(value: str, *, instance: str, home: Path, config: Path) -> str:
    """The value for an instance, as a user's service manager reads it."""
    for specifier, meaning in (("%i", instance), ("%h", str(home)), ("%E", str(config))):
        value = value.replace(specifier, meaning)
    assert "%" not in value, value
    return value
