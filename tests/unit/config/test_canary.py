"""What can be said of canaries, and what cannot."""

from pathlib import Path

import pytest

from honed.config import load_config
from honed.errors import ConfigError


def _written(folder: Path, apply: str) -> Path:
    path = folder / "honed.toml"
    path.write_text(f'scenario = "airline"\n[apply]\n{apply}\n')
    return path


def test_a_canary_is_a_line_under_apply(tmp_path: Path) -> None:
    """A share alone is enough; without one nothing is tried."""
    section = load_config(_written(tmp_path, "canary = { share = 0.1 }")).apply.canary
    assert (section.share, section.shadow, section.max_tasks) == (0.1, False, 1_000)
    assert load_config(_written(tmp_path, "")).apply.canary.share == 0


@pytest.mark.parametrize(
    ("apply", "told"),
    [
        ('kind = "none"\ncanary = { share = 0.1 }', "where two versions can answer"),
        ("canary = { share = 1.0 }", "nothing is left to compare with"),
        ("canary = { share = 1.5 }", "canary.share"),
        ("canary = { weight = 5 }", "weight"),
    ],
)
def test_what_cannot_be_tried_is_refused(tmp_path: Path, apply: str, told: str) -> None:
    """At the start, with the reason."""
    with pytest.raises(ConfigError, match=told):
        load_config(_written(tmp_path, apply))


def test_a_shadow_may_answer_copies_of_everything(tmp_path: Path) -> None:
    """There is something to compare each of them with."""
    found = load_config(_written(tmp_path, "canary = { share = 1.0, shadow = true }"))
    assert found.apply.canary.share == 1
