"""What can be configured is written down where people and editors look, and stays so."""

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

from honed.config import load_config
from honed.config.origins import keys
from honed.config.reference import reference, schema

ROOT = Path(__file__).parents[3]


@pytest.fixture(autouse=True)
def no_variables_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sockets and folders do not depend on who runs the test."""
    monkeypatch.delenv("RUNTIME_DIRECTORY", raising=False)


def test_the_full_example_is_what_the_sections_say() -> None:
    """A new key, default or meaning comes with `honed config reference > configs/full.toml`."""
    assert (ROOT / "configs/full.toml").read_text() == reference()


def test_every_key_says_what_it_means() -> None:
    """No key without a sentence under it."""
    assert [".".join(path) for path, field in keys() if not field.description] == []


@pytest.mark.feature("SE-134")
def test_the_full_example_is_the_defaults(tmp_path: Path) -> None:
    """A reader who starts from it changes nothing by doing so."""
    full = load_config(ROOT / "configs/full.toml")
    assert full == load_config(tmp_path / "empty.toml", scenario=full.scenario)


@pytest.fixture(autouse=True)
def an_empty_file(tmp_path: Path) -> None:
    """Named, so that no file of this machine is found."""
    (tmp_path / "empty.toml").touch()


def test_a_key_that_is_not_set_is_shown_by_an_example_that_loads(tmp_path: Path) -> None:
    """Taking the comment sign away is all it needs."""
    file = tmp_path / "honed.toml"
    text = re.sub(r"^# (\w+ = )", r"\1", reference(), flags=re.MULTILINE)
    file.write_text(text.replace("# key", "# the key"))
    config = load_config(file)
    assert (config.train.max_steps, config.base_model) == (200, "Qwen/Qwen3-0.6B")


def test_the_schema_knows_every_key_and_accepts_every_default() -> None:
    """An editor that reads it marks typing mistakes, and nothing else."""
    made = schema()
    table = tomllib.loads(reference())
    for path, _ in keys():
        found: Any = made
        for part in path:
            if "$ref" in found:
                found = made["$defs"][found["$ref"].rpartition("/")[2]]
            found = found["properties"][part]
        assert found["description"], path
        value: Any = table
        for part in path:
            value = value.get(part) if value is not None else None
        _check(found, value)
        if path != ("scenario",):  # an example
            assert found.get("default") == value, path
    assert made["additionalProperties"] is False
    assert made["required"] == ["scenario"]


def _check(schema: dict[str, Any], value: Any) -> None:
    """The few words of JSON schema that ours uses."""
    if value is None:
        return
    for form in schema.get("anyOf", [schema]):
        names = {"string": str, "integer": int, "number": (int, float), "boolean": bool}
        if not isinstance(value, names.get(form.get("type"), object)):
            continue
        if "pattern" in form and not re.search(form["pattern"], value):
            continue
        assert value in form.get("enum", [value])
        assert "minimum" not in form or value >= form["minimum"]
        return
    raise AssertionError(f"{value!r} fits none of {schema}")
