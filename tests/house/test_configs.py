"""Every example config loads, and every log event has one name."""

from pathlib import Path

import pytest

from honed import log
from honed.config import load_config

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*.toml")), ids=lambda p: p.name)
def test_every_example_config_loads(path: Path) -> None:
    """A reader may start from any of them."""
    assert load_config(path).scenario


def test_an_event_has_one_name_in_the_form_noun_verb() -> None:
    """Log lines can be searched for by what happened."""
    names = [value for name, value in vars(log).items() if name.isupper()]
    assert len(names) == len(set(names))
    assert all(name.count(".") == 1 and name == name.lower() for name in names)
