"""Each value can be followed to the line or the variable that set it; secrets are not shown."""

from pathlib import Path

import pytest

from honed.config import load_config
from honed.config.origins import settings


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A config with a comment, two sections and dotted keys."""
    file = tmp_path / "honed.toml"
    file.write_text(
        '# hello\nscenario = "a"\nserve.port = 9000\n\n[train]\nr = 8 # small\n"max_length" = 512\n'
    )
    return file


def _sources(file: Path | None) -> dict[str, str]:
    config = load_config(file, **({} if file else {"scenario": "a"}))
    return {setting.key: setting.source for setting in settings(config, file)}


@pytest.mark.feature("SE-134")
def test_a_value_of_the_file_is_known_by_its_line(file: Path) -> None:
    """Also with dotted and quoted keys; all others are defaults."""
    sources = _sources(file)
    assert sources["scenario"] == f"{file}:2"
    assert sources["serve.port"] == f"{file}:3"
    assert sources["train.r"] == f"{file}:6"
    assert sources["train.max_length"] == f"{file}:7"
    assert {s for k, s in sources.items() if not s.startswith(str(file))} == {"default"}


@pytest.mark.feature("SE-134")
def test_a_variable_is_named_where_it_wins(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of either case; a section as JSON counts for the keys in it."""
    monkeypatch.setenv("honed__train__r", "4")
    monkeypatch.setenv("HONED__SERVE", '{"parallel": 2}')
    sources = _sources(file)
    assert sources["train.r"] == "honed__train__r"
    assert sources["serve.parallel"] == "HONED__SERVE"
    assert sources["serve.port"] == f"{file}:3"


def test_a_file_that_cannot_be_followed_is_named_without_a_line(tmp_path: Path) -> None:
    """Text over several lines may hold what looks like a key; a wrong line would be worse."""
    file = tmp_path / "honed.toml"
    file.write_text('trigger = """\ncount(3)"""\nscenario = "a"\n')
    assert _sources(file)["scenario"] == str(file)


def test_an_inline_table_is_known_by_the_line_it_begins_on(tmp_path: Path) -> None:
    """The key inside has no line of its own."""
    file = tmp_path / "honed.toml"
    file.write_text('scenario = "a"\ntrain = { r = 4 }\n')
    assert _sources(file)["train.r"] == f"{file}:2"


def test_a_password_is_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is printed may end up in a bug report."""
    for url in ("postgresql://honed:hunter2@db/honed", "postgresql://db/honed?password=hunter2"):
        monkeypatch.setenv("HONED__DATABASE", url)
        config = load_config(scenario="a")
        shown = {setting.key: setting.value for setting in settings(config, None)}
        assert shown["database"].startswith(url.replace("hunter2", "***"))
        assert "hunter2" not in repr(config)


def test_values_are_shown_as_they_are_written() -> None:
    """Durations, sizes and rules come back in the form of the file."""
    shown = {setting.key: setting.value for setting in settings(load_config(scenario="a"), None)}
    assert shown["check_interval"] == "10s"
    assert shown["events.queue_bytes"] == "64MiB"
    assert shown["trigger"] == 'count(100) | every("1h")'
    assert shown["train.target_modules"] is None
